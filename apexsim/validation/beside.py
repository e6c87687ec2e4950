"""Small tables that lie beside ``runs.csv``: lengths, histograms, measured requests."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd

from apexsim.errors import InputError
from apexsim.workload.trace import Floats, Ints


def read_csv(path: Path) -> pd.DataFrame:
    """A table, gzipped or not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        return pd.read_csv(io.BytesIO(text))
    except (OSError, EOFError, ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read as CSV: {' '.join(str(error).split())}") from None


def numbers(path: Path, table: pd.DataFrame, column: str) -> Floats:
    """The numbers of a column; NaN where a cell is empty.

    Raises:
        InputError: the column is not there, or a cell holds something else.
    """
    if column not in table:
        raise InputError(f"{path}: column {column!r} is missing (it has: {', '.join(map(str, table.columns))})")
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    _refuse(path, table, column, np.isnan(values) & table[column].notna().to_numpy(), "a number")
    return values


def whole_numbers(path: Path, table: pd.DataFrame, column: str) -> Ints:
    """The numbers of a column, every one at least 1.

    Raises:
        InputError: the column is not there, or a cell holds something else or nothing.
    """
    values = numbers(path, table, column)
    _refuse(path, table, column, ~(values >= 1), "1 or more")
    return values.astype(np.int64)


def _refuse(path: Path, table: pd.DataFrame, column: str, bad: np.ndarray, allowed: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        cell = table[column].iloc[row]
        shown = "empty" if pd.isna(cell) else repr(cell if isinstance(cell, str) else cell.item())
        raise InputError(f"{path}: row {row + 1}: column {column!r} is {shown} (allowed: {allowed})")
