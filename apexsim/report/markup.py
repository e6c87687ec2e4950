"""Tables for a notebook: plain HTML without style sheets, so that it looks right in any of them."""

from __future__ import annotations

from html import escape

from apexsim.report.tables import Table


def tables_html(heading: str, tables: tuple[Table, ...]) -> str:
    """A heading and the tables one below the other."""
    return f"<h4>{escape(heading)}</h4>" + "".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    head = _row("th", table.header, table)
    rows = "".join(_row("td", row, table) for row in table.rows)
    caption = f'<caption style="text-align:left"><b>{escape(table.title)}</b></caption>'
    return f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>"


def _row(tag: str, cells: tuple[str, ...], table: Table) -> str:
    aligned = ("right" if table.is_number(column) else "left" for column in range(len(cells)))
    inner = (
        f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
        for side, cell in zip(aligned, cells, strict=True)
    )
    return f"<tr>{''.join(inner)}</tr>"
