"""Bytes of a file to Arrow columns: CSV, JSON lines and Parquet, plain or gzipped.

Arrow reads fast but cannot say which row it fell over. When it fails, the file is read again slowly, to name
the row, the column and the value.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from apexsim.errors import InputError
from apexsim.workload.formats.base import columns_of

GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
HEADER_BYTES = 1 << 20
"""A first line longer than this is no header of a trace."""

NUMBER, TEXT = pa.float64(), pa.dictionary(pa.int32(), pa.string())
"""The two kinds of cell. Numbers are read as float64: whole numbers are exact up to 2^53."""


def magic(path: Path) -> bytes:
    """The first four bytes of a file.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def header(path: Path) -> str:
    """First line of the unzipped text; of a Parquet file its column names joined by commas.

    Raises:
        InputError: the file cannot be read, or is no text.
    """
    first = magic(path)
    if first == PARQUET_MAGIC:
        return ",".join(_parquet(path).schema_arrow.names)
    try:
        with _open_bytes(path) as file:
            line = file.readline(HEADER_BYTES)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return _text(path, line).strip()


def _text(path: Path, line: bytes) -> str:
    # a line that was cut may end within a character
    whole = len(line) < HEADER_BYTES
    try:
        text = str(line, "utf-8-sig", errors="strict" if whole else "replace")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    if "\0" in text:
        raise InputError(f"{path}: not a text file (byte {line.index(0)} is 0; allowed: UTF-8, gzip, Parquet)")
    return text


def first_row(path: Path) -> dict[str, str]:
    """Cells of the first data row of a CSV, by lower-case column name; empty where there is none."""
    try:
        with _open_text(path) as file:
            rows = csv.reader(file)
            names, cells = next(rows, []), next(rows, [])
    except (OSError, EOFError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {_one_line(error)}") from error
    return dict(zip((name.strip().lower() for name in names), cells, strict=False))


def read_table(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The named columns of a CSV or Parquet file; a column that the file lacks is left out.

    Args:
        types: lower-case column name → Arrow type of its cells.
    """
    if magic(path) == PARQUET_MAGIC:
        return _read_parquet(path, types)
    return _read_csv(path, types)


def read_json_lines(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    """One row a line, one column a key; other keys are ignored, a key that a line lacks is null."""
    schema = pa.schema(list(types.items()))
    try:
        with _open_arrow(path) as stream:
            return pa_json.read_json(
                stream,
                read_options=pa_json.ReadOptions(block_size=16 << 20),
                parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
    except (pa.ArrowInvalid, OSError) as error:
        _explain_json(path, types)
        raise InputError(f"{path}: cannot be read as JSON lines: {_one_line(error)}") from error


def _read_csv(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    names = _csv_names(path)
    chosen = {actual: types[name] for name, actual in names.items() if name in types}
    options = pa_csv.ConvertOptions(
        column_types=chosen, include_columns=list(chosen), null_values=[""], strings_can_be_null=True
    )
    try:
        with _open_arrow(path) as stream:
            table = pa_csv.read_csv(stream, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        _explain_csv(path, chosen)
        raise InputError(f"{path}: cannot be read as CSV: {_one_line(error)}") from error
    return table.rename_columns([actual.strip().lower() for actual in table.column_names])


def _read_parquet(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    file = _parquet(path)
    chosen = [name for name in file.schema_arrow.names if name.lower() in types]
    try:
        table = file.read(columns=chosen)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from error
    return table.rename_columns([name.lower() for name in chosen])


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from error


def _csv_names(path: Path) -> dict[str, str]:
    """Lower-case name → name as the file writes it."""
    line = header(path)
    actual = next(csv.reader([line]), [])
    repeated = sorted({name for name in columns_of(line) if columns_of(line).count(name) > 1})
    if repeated:
        raise InputError(f"{path}: column {repeated[0]!r} is there twice (each column once)")
    return {name.strip().lower(): name for name in actual}


def _open_bytes(path: Path) -> Any:
    return gzip.open(path, "rb") if magic(path)[:2] == GZIP_MAGIC else path.open("rb")


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="replace", newline="")


def _open_arrow(path: Path) -> Any:
    zipped = magic(path)[:2] == GZIP_MAGIC
    return pa.input_stream(str(path), compression="gzip" if zipped else None)


def _explain_csv(path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Raise for the first row that is ragged or holds something that is no number; return where there is
    none."""
    try:
        with _open_text(path) as file:
            rows = csv.reader(file)
            names = next(rows, [])
            for number, row in enumerate(filter(None, rows), start=1):
                if len(row) != len(names):
                    raise InputError(
                        f"{path}: row {number}: {len(row)} cells (allowed: {len(names)}, as in the header)"
                    )
                for name, cell in zip(names, row, strict=True):
                    _check_cell(path, number, name, cell, types.get(name))
    except (OSError, EOFError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {_one_line(error)}") from error


def _check_cell(path: Path, number: int, name: str, cell: str, kind: pa.DataType | None) -> None:
    if kind is None or pa.types.is_dictionary(kind) or not cell:
        return
    try:
        if pa.types.is_floating(kind):
            float(cell)
        else:
            pa.scalar(cell).cast(kind)
    except (ValueError, pa.ArrowInvalid):
        allowed = "a number" if pa.types.is_floating(kind) else "a date and time like 2023-01-02 03:04:05.5000000"
        raise InputError(f"{path}: row {number}: column {name.strip()!r} is {cell!r} (allowed: {allowed})") from None


def _explain_json(path: Path, types: Mapping[str, pa.DataType]) -> None:
    for number, line in _numbered_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}: line {number}: no complete JSON object: {error.msg} at character {error.pos + 1}, "
                f"{line[-40:]!r} (allowed: one object a line)"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: {line[:40]!r} is no JSON object (allowed: one object a line)")
        for key, kind in types.items():
            _check_json_value(path, number, key, row.get(key), kind)


def _check_json_value(path: Path, number: int, key: str, value: Any, kind: pa.DataType) -> None:
    if value is None:
        return
    listed = pa.types.is_list(kind)
    if listed:
        fits = isinstance(value, list) and all(type(item) is int for item in value)
    else:
        fits = type(value) in (int, float)
    if not fits:
        allowed = "a list of whole numbers" if listed else "a number"
        raise InputError(f"{path}: line {number}: key {key!r} is {value!r} (allowed: {allowed})")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
