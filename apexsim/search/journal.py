"""The search's diary: one JSON line for every plan that is done, so that a kill loses nothing.

The same search, started again in the same folder, takes up what is in it.

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

LAST: dict[str, Any] = {"finished": True}


class Journal:
    """Append-only lines in ``path``; a context manager. One search has one journal.

    Its first line, the ``heading``, says what is searched; ``finish`` writes the last. Where the file that is there
    has the same heading and no last line, it is of the same search, killed: it goes on, and ``earlier`` holds what
    was done. Any other file is moved aside, to ``journal-old.jsonl``.

    Attributes:
        earlier: the entries of the killed search, without the heading.
        failure: why nothing more is written, say because the disk is full; "" as long as all is well.
    """

    def __init__(self, path: Path, heading: dict[str, Any]) -> None:
        """Open the journal, together with its folder.

        Raises:
            UsageError: the place cannot be written.
        """
        self._path = path
        self.failure = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.earlier, whole = _unfinished(path, heading)
            if path.is_file() and not whole:
                os.replace(path, path.with_name(f"{path.stem}-old{path.suffix}"))
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, whole)  # a torn last line
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
        if not whole:
            self.write(heading)

    def write(self, entry: dict[str, Any], *, sync: bool = True) -> None:
        """Append one line and, with ``sync``, wait until it is on the disk; once that fails the journal stays."""
        if self.failure:
            return
        rest = (json.dumps(entry, allow_nan=False) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self.failure = f"{self._path}: {error.strerror}: the search went on without its journal"

    def finish(self) -> None:
        """All is done: a search that begins here starts anew."""
        self.write(LAST)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unfinished(path: Path, heading: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The entries of a killed search with this heading, and the bytes of its whole lines; nothing, 0 otherwise."""
    if not path.is_file():
        return [], 0
    try:
        entries = read(path)
    except InputError:  # not one of ours
        return [], 0
    if not entries or entries[0] != heading or entries[-1] == LAST:
        return [], 0
    return entries[1:], path.read_bytes().rindex(b"\n") + 1


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
