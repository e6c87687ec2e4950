"""The diary of a measuring run: one line a case, so that neither Ctrl-C nor a power cut loses one.

The first line says on what machine and with which cases the folder was begun. A later run goes on only on an equal
machine: times of two devices, versions or thread counts in one table would be a fit of nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from apexsim.errors import InputError, UsageError

NAME = "journal.jsonl"


class Journal:
    """Append-only JSON lines in ``folder/journal.jsonl``; a context manager.

    Attributes:
        entries: what earlier runs have written, without the heading.
    """

    def __init__(self, folder: Path, heading: Mapping[str, Any]) -> None:
        """Open or begin it.

        Args:
            heading: values that must be equal for a run to go on.

        Raises:
            UsageError: the folder cannot be written, or was begun with another heading; the message names what differs.
            InputError: a file of that name that is no journal.
        """
        self.path = folder / NAME
        head = json.loads(json.dumps(heading))  # as it will be read: tuples are lists there
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines, whole = _read(self.path)
            if lines and lines[0] != head:
                raise UsageError(f"{folder}: {_difference(lines[0], head)} (allowed: another --out)")
            self.entries = lines[1:]
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, whole)  # a torn last line
        except OSError as problem:
            raise UsageError(f"{self.path}: cannot be written: {problem.strerror}") from None
        if not lines:
            self.write(head)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line and wait until it is on the disk.

        Raises:
            UsageError: the disk is full, or the file was taken away.
        """
        rest = (json.dumps(entry, allow_nan=False) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as problem:
            raise UsageError(f"{self.path}: cannot be written: {problem.strerror}") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder's journal, without its heading; none where there is no journal.

    Raises:
        InputError: a file of that name that is no journal.
    """
    return _read(folder / NAME)[0][1:]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of a journal, and the bytes that they take; a torn last line is left out."""
    if not path.exists():
        return [], 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    try:
        return [json.loads(line) for line in content[:whole].splitlines()], whole
    except ValueError:
        raise InputError(f"{path}: not a journal of a measuring run (a line is no JSON)") from None


def _difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first value in which two headings differ, in words."""
    for name in now:
        if begun.get(name) != now[name]:
            old, new = begun.get(name), now[name]
            if isinstance(old, dict) and isinstance(new, dict):
                return _difference(old, new)
            return f"was begun with {name} {_short(old)}, this run has {_short(new)}"
    return "was begun by another version of this program"


def _short(value: Any) -> str:
    return json.dumps(value) if value is not None else "none"
