"""What a trace format is: one class a file format, recognised by the header of the file.

To add one: a file beside this one, a line in ``registry.SEAMS["formats"]`` (or an entry point
``apexsim.formats``); ``apexsim.testing.trace_format`` then tests it without being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from apexsim.workload.trace import Trace


class TraceFormat(Protocol):
    """A reader of one published format. It has no state, so one instance may read many files.

    Attributes:
        name: what the registry calls it, and what ``--format`` takes.
        header: the columns or keys that it is recognised by, for messages.
        is_log: each row is a request, and the file alone says everything: rows are accounted for (kept or dropped)
            and what was read may be cached. False for statistics that a trace is drawn from.
    """

    name: str
    header: str
    is_log: bool

    def matches(self, header: str, path: Path) -> bool:
        """Whether the file is of this format. Must be true for one format only.

        Args:
            header: first line of the (unzipped) text; of a Parquet file its column names joined by commas.
            path: the file, for what its name may tell; it is not opened here.
        """

    def read(self, path: Path) -> Trace:
        """The requests of the file, sorted by arrival, with at least one input and one output token each.

        Rows that are no requests (failed, empty) are left out and counted in ``Trace.dropped``.

        Raises:
            InputError: a cell that says something impossible; names the file, row, column, value and what is
                allowed.
        """

    def example(self) -> Mapping[str, str]:
        """A small file of this format: file name → text. The first one is the trace, others lie beside it."""


def columns_of(header: str) -> list[str]:
    """Column names of a CSV header line, in lower case and without blanks and quotes."""
    return [name.strip().strip('"').strip().lower() for name in header.lstrip("\ufeff").split(",")]


def has_columns(header: str, *needed: str) -> bool:
    """Whether a CSV header (or the columns of a Parquet file) holds all these names, in whatever case."""
    columns = columns_of(header)
    return all(name in columns for name in needed)


def has_keys(header: str, *needed: str) -> bool:
    """Whether the first line of a JSON-lines file looks like an object with these keys; it may be cut."""
    line = header.lstrip("\ufeff").lstrip()
    return line.startswith("{") and all(f'"{key}"' in line for key in needed)
