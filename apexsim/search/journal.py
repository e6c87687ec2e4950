"""The search's diary: one JSON line for every plan that is done, so that a kill loses nothing.

A line is written by one call and synced to the disk before the next plan is handed out; only the last line of
a killed run can be torn, and ``read`` leaves it out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from apexsim.errors import InputError, UsageError


class Journal:
    """Append-only lines in ``path``; a context manager. One search has one journal."""

    def __init__(self, path: Path) -> None:
        """Start an empty journal, together with its folder.

        Raises:
            UsageError: the place cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line and wait until it is on the disk."""
        os.write(self._file, (json.dumps(entry, allow_nan=False) + "\n").encode())
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a journal, oldest first; a torn last line is left out.

    Raises:
        InputError: the file is missing, or a line before the last one is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read the journal: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON") from error
    return entries
