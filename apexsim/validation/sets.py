"""A folder of measured runs: which sets it holds, and the rows of each table, checked cell by cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apexsim.errors import InputError, unknown_name
from apexsim.spec.base import read_text
from apexsim.validation.columns import COLUMNS, Row, is_metric, read_cell

TABLE = "runs.csv"


@dataclass(frozen=True)
class RunTable:
    """One validation set.

    Attributes:
        name: its folder's name.
        folder: where ``traces/``, ``requests/`` and files of lengths lie.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Found:
    """What lies in a folder: sets, and the subfolders that are none."""

    sets: tuple[RunTable, ...]
    no_sets: tuple[str, ...] = ()


def find_sets(path: Path | str) -> Found:
    """The set of a folder or of a table (``.csv``), or the sets of the folders in it, by name.

    Raises:
        InputError: nothing is there, or a table says something impossible.
    """
    path = Path(path)
    if path.is_file():
        return Found((read_table(path),))
    if not path.is_dir():
        raise InputError(f"{path}: no such folder (allowed: a folder with {TABLE}, or a folder of such folders)")
    if (path / TABLE).is_file():
        return Found((read_table(path / TABLE),))
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
    sets = tuple(read_table(folder / TABLE) for folder in inner if (folder / TABLE).is_file())
    if not sets:
        raise InputError(f"{path}: no {TABLE} in it or in a folder of it (allowed: a folder that holds runs)")
    return Found(sets, tuple(folder.name for folder in inner if not (folder / TABLE).is_file()))


def read_table(path: Path | str) -> RunTable:
    """The rows of one table of runs.

    Raises:
        InputError: the file cannot be read, a column or a cell is impossible, or two runs have one name.
    """
    path = Path(path)
    lines = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(path, header)
        # a blank line is no run
        rows = tuple(
            _row(path, number, header, cells)
            for number, cells in enumerate((cells for cells in lines if any(map(str.strip, cells))), start=1)
        )
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num}: not CSV: {error}") from None
    _check_names(path, rows)
    name = path.parent.resolve().name if path.name == TABLE else path.stem
    return RunTable(name, path.parent, rows)


def _check_header(path: Path, header: list[str]) -> None:
    if not any(header):
        raise InputError(f"{path}: the table is empty (allowed: a header with at least run, model, device, load)")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} is there twice (each column once)")
    for name in ("run", "model", "device", "load"):
        if name not in header:
            hint = unknown_name("column", name, header).split(" (known")[0]
            raise InputError(f"{path}: column {name!r} is missing: {hint} (needed: run, model, device, load)")
    if not any(map(is_metric, header)):
        raise InputError(f"{path}: no column holds a measured value (allowed: ttft_mean_s, output_tokens_per_s, …)")


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise InputError(f"{path}: row {number}: {len(cells)} cells (allowed: {len(header)}, as in the header)")
    texts = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    values = {}
    for name, cell in texts.items():
        try:
            values[name] = read_cell(name, cell)
        except ValueError as problem:
            run = f" ({texts['run']})" if "run" in texts else ""
            raise InputError(f"{path}: row {number}{run}: column {name!r} is {problem}") from None
    if "run" not in values:
        raise InputError(f"{path}: row {number}: column 'run' is empty (allowed: a name that no other run has)")
    return Row(str(path), number, values | _beside(path.parent, values))


def _beside(folder: Path, values: Mapping[str, object]) -> dict[str, str]:
    """A model's config.json or a device's folder that lies with the table goes before a known name."""
    paths = {column: folder / str(values[column]) for column in ("model", "device") if column in values}
    return {column: str(path) for column, path in paths.items() if path.is_file() or (path / "profile.yaml").is_file()}


def _check_names(path: Path, rows: tuple[Row, ...]) -> None:
    if not rows:
        raise InputError(f"{path}: the table has no run (allowed: at least one row)")
    first: dict[str, int] = {}
    for row in rows:
        if row.name in first:
            raise InputError(
                f"{path}: row {row.number}: column 'run' is {row.name!r}, as in row {first[row.name]} "
                "(allowed: a name that no other run has)"
            )
        first[row.name] = row.number


def columns_without_meaning(table: RunTable) -> tuple[str, ...]:
    """Columns of a table that the product does not know, sorted: kept, not used."""
    used = {name for row in table.rows for name in row.values}
    return tuple(sorted(name for name in used if name not in COLUMNS and not is_metric(name)))
