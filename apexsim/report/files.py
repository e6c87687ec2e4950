"""Result files: written whole or not at all, and refused before the long work if they cannot be written."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apexsim.errors import UsageError
from apexsim.spec.files import is_special, write_atomically

if TYPE_CHECKING:
    import pandas as pd


def require_writable(path: Path | str, *, make_folders: bool = False) -> None:
    """Check, without writing, that a file can be made at ``path``.

    Args:
        make_folders: the folders on the way may be missing: they will be made.

    Raises:
        UsageError: a folder stands there, its folder is missing, or the nearest folder that exists cannot be
            written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: cannot be written: it is a folder (allowed: a file name)")
    if is_special(path):
        if not os.access(path, os.W_OK):
            raise UsageError(f"{path}: cannot be written: no permission")
        return
    folder = _resolved(path).parent
    if not folder.exists() and not make_folders:
        raise UsageError(f"{path}: cannot be written: there is no folder {folder} (make it first)")
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: cannot be written: no permission in {folder}")


def require_outputs(targets: Mapping[str, Path]) -> None:
    """Check that every flag's file can be written, and that no two of them are the same file.

    Raises:
        UsageError: as ``require_writable``; two flags name one file; "-", which only prints JSON.
    """
    taken: dict[Path, str] = {}
    for flag, path in targets.items():
        if str(path) == "-":
            raise UsageError(f"{flag} -: not allowed (a file name; only --json prints)")
        require_writable(path)
        other = taken.setdefault(_resolved(path), flag)
        if other != flag and not is_special(path):
            raise UsageError(f"{path}: named by {other} and by {flag} (allowed: a file for each)")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise UsageError(f"{path}: cannot be written: its links go in a circle") from None


def json_text(data: Any) -> str:
    """Strict JSON (no NaN), two spaces a level, a newline at the end."""
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path | str, data: Any) -> None:
    """The text of ``json_text``, written atomically. Raises UsageError where it cannot be written."""
    write_atomically(path, json_text(data))


def write_parquet(path: Path | str, table: pd.DataFrame) -> None:
    """The table without its index, written atomically. Raises UsageError where it cannot be written."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())
