"""Tables for the terminal: rich renderables, printed by nobody but the command line.

Rich cuts off what does not fit in a column that must not wrap, without a sign. A number with its last digits gone is
another number, so a table that is too wide is printed in parts, each with the columns that name the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from apexsim.report.tables import Table

PADDING = 3
"""Columns of the screen between two columns of a table; the edges take 2."""

WORDS = 16
"""Letters of a cell that are never broken over lines, in whatever column."""

PROSE = 24
"""Letters a line that a column of longer prose can do with."""


def render(tables: tuple[Table, ...]) -> Group:
    """The tables one below the other."""
    return Group(*(_Fitted(table) for table in tables))


def least_width(table: Table) -> int:
    """Columns of the screen in which the table is one piece and no name or number of it is broken."""
    return _width([_least(table, column) for column in range(len(table.header))])


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A table in as many parts as the screen asks for."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One table or, on a narrow screen, several."""
        for part in _parts(self.table, options.max_width):
            yield _table(part, options.max_width)


def _parts(table: Table, width: int) -> list[Table]:
    """The table's columns in groups that fit side by side; the names of the rows begin each."""
    least = [_least(table, column) for column in range(len(table.header))]
    names = [column for column, name in enumerate(table.header) if column == 0 or name in table.whole]
    head = [least[column] for column in names]
    if _width(head) > 2 * width // 3:  # long names fold, for the sake of the figures
        head = [min(need, width // (2 * len(names))) for need in head]
    parts: list[list[int]] = [[]]
    for column in range(len(table.header)):
        if column in names:
            continue
        if parts[-1] and _width([*head, *(least[other] for other in parts[-1]), least[column]]) > width:
            parts.append([])
        parts[-1].append(column)
    groups = [sorted([*names, *part]) for part in parts]
    return [_part(table, group, first=group is groups[0]) for group in groups]


def _part(table: Table, columns: list[int], *, first: bool) -> Table:
    header = tuple(table.header[column] for column in columns)
    rows = tuple(tuple(row[column] for column in columns) for row in table.rows)
    return replace(table, title=table.title if first else "", header=header, rows=rows)


def _least(table: Table, column: int) -> int:
    """Letters a line that the column needs."""
    longest = max(cell_len(text) for text in (table.header[column], *(row[column] for row in table.rows)))
    return longest if _unbroken(table, column) else min(longest, PROSE)


def _unbroken(table: Table, column: int) -> bool:
    name = table.header[column]
    short = max((cell_len(row[column]) for row in table.rows), default=0) <= WORDS
    return short or table.is_number(column) or name in table.whole


def _width(columns: list[int]) -> int:
    return sum(columns) + PADDING * (len(columns) - 1) + 2


def _table(table: Table, width: int) -> RichTable:
    rendered = RichTable(
        title=table.title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    fits = least_width(table) <= width
    for column, name in enumerate(table.header):
        whole = fits and _unbroken(table, column)
        least = None if fits or name in table.whole else min(_least(table, column), width // (len(table.header) + 1))
        rendered.add_column(
            name, justify="right" if table.is_number(column) else "left",
            no_wrap=whole, overflow="fold", min_width=least,
        )  # fmt: skip
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered
