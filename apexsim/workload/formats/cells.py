"""Arrow columns to checked NumPy columns, and foreign rows to a trace.

Rows count from 1, the header not counted; every message names file, row, column, value and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apexsim.errors import InputError
from apexsim.workload.limits import MOST_SECONDS, MOST_TOKENS
from apexsim.workload.trace import Floats, Ints, Trace

Mask = NDArray[np.bool_]
DAY_S = 86400.0
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
"""Fits int64 whatever its digits are."""


def refuse(path: Path, column: str, values: NDArray[np.generic], bad: Mask, allowed: str) -> None:
    """Raise for the first row where ``bad`` holds; say how many more there are.

    Raises:
        InputError: at least one row is bad.
    """
    if not bad.any():
        return
    row = int(np.argmax(bad))
    more = int(bad.sum()) - 1
    others = f"; {more} more such rows" if more else ""
    raise InputError(f"{path}: row {row + 1}: {column} is {_plain(values[row])} (allowed: {allowed}){others}")


def need(path: Path, table: pa.Table, *columns: str) -> None:
    """Raise where a column is not in the file at all."""
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing (needed: {', '.join(columns)})")


def numbers(path: Path, table: pa.Table, column: str, allowed: str = "a finite number") -> Floats:
    """float64[n], every one finite."""
    array = table.column(column)
    if array.null_count:
        row = int(pc.index(pc.is_null(array), True).as_py())
        raise InputError(f"{path}: row {row + 1}: {column} is empty (allowed: {allowed})")
    try:
        values = array.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: column {column!r} of type {array.type} holds no numbers: {error}") from error
    refuse(path, column, values, ~np.isfinite(values), allowed)
    return np.asarray(values, np.float64)


def tokens(path: Path, table: pa.Table, column: str, least: int) -> Ints:
    """int64[n], every one a whole number of at least ``least``."""
    allowed = f"a whole number, {least} or more"
    values = numbers(path, table, column, allowed)
    refuse(path, column, values, (values < least) | (values != np.floor(values)), allowed)
    # beyond int64 a cast would turn negative in silence
    refuse(path, column, values, values > MOST_TOKENS, "a whole number, 2^53 or less")
    return values.astype(np.int64)


def whole(path: Path, table: pa.Table, column: str) -> Ints:
    """int64[n], every one a whole number."""
    values = numbers(path, table, column, "a whole number")
    refuse(path, column, values, (values != np.floor(values)) | (abs(values) > MOST_TOKENS), "a whole number")
    return values.astype(np.int64)


def seconds(path: Path, table: pa.Table, column: str, unit_s: float = 1.0) -> Floats:
    """float64[n] seconds from a column in units of ``unit_s``, every one finite and not negative."""
    allowed = "0 or more"
    values = numbers(path, table, column, allowed)
    refuse(path, column, values, values < 0, allowed)
    refuse(path, column, values, values * unit_s > MOST_SECONDS, f"{MOST_SECONDS / unit_s:g} or less")
    return values if unit_s == 1.0 else values * unit_s


def blocks(path: Path, column: str, inputs: Ints, hashes: Ints, block_tokens: int) -> None:
    """Raise for the first prompt with more hashes than it has started blocks; both arrays are int64[n].

    A row without a prompt is no request, whatever it lists.
    """
    started = -(-inputs // block_tokens)
    allowed = f"as many ids as the prompt has started blocks of {block_tokens} tokens, or fewer"
    refuse(path, f"the number of {column}", hashes, (hashes > started) & (inputs > 0), allowed)


def codes(table: pa.Table, column: str) -> tuple[tuple[str, ...], Ints]:
    """Names in the order they first appear, and int64[n] that indexes them; an empty cell is the name ""."""
    encoded = pc.fill_null(table.column(column).cast(pa.string()), "").combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = tuple(str(name) for name in encoded.dictionary.to_pylist())
    return names, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def ragged(path: Path, table: pa.Table, name: str) -> tuple[Ints, Ints]:
    """A column of lists as (values, offsets): row i is ``values[offsets[i]:offsets[i + 1]]``. A null is an
    empty list."""
    column = table.column(name)
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    values = pc.list_flatten(column)
    if values.null_count:
        row = int(pc.list_parent_indices(column).filter(pc.is_null(values))[0].as_py())
        raise InputError(f"{path}: row {row + 1}: {name} holds null (allowed: whole numbers)")
    try:
        ids = values.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: column {name!r} holds {values.type} (allowed: whole numbers): {error}") from error
    return ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def sessions(table: pa.Table, column: str) -> Ints:
    """int64[n]: whole numbers as they are, other ids numbered by first appearance; empty cells are -1."""
    names, code = codes(table, column)
    if all(WHOLE_NUMBER.fullmatch(name) for name in names if name):
        ids = np.array([int(name) if name else -1 for name in names], np.int64)
        return ids[code]
    known = np.array([name != "" for name in names])
    return np.where(known, np.cumsum(known) - 1, -1).astype(np.int64)[code]


def trace_name(path: Path) -> str:
    """The file's name without its endings: ``a/b.csv.gz`` is ``b``."""
    name = path.name
    for ending in (".gz", ".csv", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending)
    return name


def foreign(trace: Trace, drop: Mapping[str, Mask], origin: Literal["first", "day", "file"] = "first") -> Trace:
    """Rows of a published log as a trace: what is no request is dropped and counted, the rest sorted by
    arrival.

    Args:
        trace: one row a row of the file, in the order of the file.
        drop: reason → rows to leave out; the first reason of a row counts.
        origin: what becomes second 0: "first" = the first request kept; "day" = the midnight of the log's own
            clock before it, so that the hour of day survives; "file" = the clock stays.
    """
    counts: dict[str, int] = {}
    keep = np.ones(len(trace), np.bool_)
    for reason, rows in drop.items():
        counts[reason] = int((rows & keep).sum())
        keep &= ~rows
    if not keep.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise InputError(f"{trace.source}: no request is left of {len(trace)} rows ({reasons})")
    kept = trace.with_columns(dropped={reason: count for reason, count in counts.items() if count})
    if not keep.all():
        kept = kept.take(np.flatnonzero(keep))
    kept = _sorted(kept)
    first = float(kept.arrival_s[0])
    start = {"first": first, "day": first - first % DAY_S, "file": 0.0}[origin]
    return kept if start == 0 else kept.with_columns(arrival_s=kept.arrival_s - start)


def _sorted(trace: Trace) -> Trace:
    late = int((np.diff(trace.arrival_s) < 0).sum())
    if not late:
        return trace
    # Stable: requests of one instant keep the order of the log.
    order = np.argsort(trace.arrival_s, kind="stable")
    return trace.take(order).noted(
        f"{late} rows arrived before the row above them; sorted by arrival, ties as in the file"
    )


def _plain(value: np.generic) -> str:
    item = value.item()
    is_whole = isinstance(item, float) and item.is_integer() and abs(item) <= MOST_TOKENS
    return str(int(item)) if is_whole else str(item)
