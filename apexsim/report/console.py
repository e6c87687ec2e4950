"""Tables for the terminal: rich renderables, printed by nobody but the command line."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from apexsim.report.tables import Table


def render(tables: tuple[Table, ...]) -> Group:
    """The tables one below the other."""
    return Group(*(_table(table) for table in tables))


def _table(table: Table) -> RichTable:
    rendered = RichTable(
        title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column, name in enumerate(table.header):
        number = table.is_number(column)
        whole = number or name in table.whole
        rendered.add_column(name, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered
