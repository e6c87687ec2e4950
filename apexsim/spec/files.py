"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from apexsim.errors import UsageError


def write_atomically(path: Path | str, data: str | bytes) -> None:
    """Write ``data`` to ``path`` through a file beside it, so that no reader ever sees a half of it.

    Folders on the way are made. Text is UTF-8.

    Raises:
        UsageError: the folder or the file cannot be written.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written: {problem.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException as problem:
        Path(beside).unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise UsageError(f"{path}: cannot be written: {problem.strerror}") from None
        raise


def _umask() -> int:
    """The process' file mode mask: without it ``mkstemp`` leaves files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
