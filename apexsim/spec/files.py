"""Files are written whole or not at all, and read with an error that names them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from apexsim.errors import InputError, UsageError

Content = TypeVar("Content")

_OPEN_FILES = ("/dev/std", "/dev/fd/", "/proc/")


def write_atomically(path: Path | str, data: str | bytes) -> None:
    """Write ``data`` to ``path`` through a file beside it, so that no reader ever sees a half of it.

    Folders on the way are made. Text is UTF-8. A link stays one: the file that it points to is written. What is
    there and is no regular file (a terminal, a pipe, a device) is written straight into, never replaced.

    Raises:
        UsageError: the folder or the file cannot be written.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    try:
        if is_special(path):
            _write_into(Path(path), content)
        else:
            _replace(Path(path).resolve(), content)
    except (OSError, RuntimeError) as problem:
        # a RuntimeError where links go in a circle
        raise UsageError(f"{path}: cannot be written: {getattr(problem, 'strerror', None) or problem}") from None


def read_json(path: Path, what: str, parse: Callable[[Any], Content]) -> Content:
    """What ``parse`` makes of the data of a JSON file; ``what`` is what it should hold, for errors.

    Raises:
        InputError: it is missing, truncated, or ``parse`` finds no such data in it.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror}") from None
    except json.JSONDecodeError as problem:
        raise InputError(f"{path}: line {problem.lineno}: not valid JSON: {problem.msg} (truncated?)") from None
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"{path}: not a file of {what}: {type(problem).__name__} {problem}") from None


def is_special(path: Path | str) -> bool:
    """Whether ``path``, links followed, is neither a regular file nor a folder, or is one that the process
    already writes to (/dev/stdout, /dev/fd/3)."""
    path = Path(path)
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or os.path.abspath(path).startswith(_OPEN_FILES)


def _write_into(path: Path, content: bytes) -> None:
    # at the end, not from the start: the process may have written to it before
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process' file mode mask: without it ``mkstemp`` leaves files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
