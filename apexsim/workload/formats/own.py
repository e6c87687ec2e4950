"""apexsim's own traces, CSV or Parquet: ``arrival_s,input_tokens,output_tokens`` and what else is known.

Optional columns: ``session`` (number or text; empty = none), ``shared_prefix_tokens``, ``block_hashes``
(numbers separated by spaces, one a block of the prompt; in Parquet a list), ``hash_block_tokens`` (tokens of
such a block, one value for the whole file), ``class`` (``log_type`` where there is no class), ``priority`` (whole
number, smaller is more urgent), ``client`` (text or number: who sent it), ``deadline_s`` (seconds from arrival to the
first token that is wanted; empty = none), ``adapter`` (text or number: the LoRA adapter that it asks for; empty = the
base model), ``images`` (slices or frames of images that the request brings; its ``input_tokens`` are the text
alone), ``visual_tokens`` (of each of them in the prompt; as the model says where there is no such column), ``failed``
(true = no request: dropped and counted). Any other column is not read, and a note says so.

This is our own format, so it is held to its word: arrivals that go back, or an output of 0 tokens, are
errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apexsim.errors import InputError, unknown_name
from apexsim.workload.formats.base import columns_of, has_columns
from apexsim.workload.formats.cells import (
    Mask,
    blocks,
    codes,
    foreign,
    numbers,
    ragged,
    refuse,
    seconds,
    sessions,
    tokens,
    trace_name,
    whole,
)
from apexsim.workload.formats.source import NUMBER, TEXT, header, read_table
from apexsim.workload.trace import Floats, Ints, Trace

COLUMNS = {
    "arrival_s": NUMBER,
    "input_tokens": NUMBER,
    "output_tokens": NUMBER,
    "session": TEXT,
    "shared_prefix_tokens": NUMBER,
    "block_hashes": pa.string(),
    "hash_block_tokens": NUMBER,
    "class": TEXT,
    "log_type": TEXT,
    "priority": NUMBER,
    "client": TEXT,
    "deadline_s": NUMBER,
    "adapter": TEXT,
    "images": NUMBER,
    "visual_tokens": NUMBER,
    "failed": TEXT,
}
KNOWN_UNREAD = {"model", "elapsed_s"}
"""Columns of published slices that say nothing a simulation uses."""

BLOCK_SIZES = tuple(16 << doubling for doubling in range(9))
"""Tokens of a hashed block that a file without ``hash_block_tokens`` may mean, tried in this order."""


class Own:
    """apexsim's own CSV or Parquet; the file's clock stays."""

    name = "apexsim"
    header = (
        "arrival_s,input_tokens,output_tokens[,session,shared_prefix_tokens,block_hashes,class,priority,client,deadline_s,"
        "adapter,images,visual_tokens]"
    )
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_columns(header, "arrival_s", "input_tokens", "output_tokens")

    def read(self, path: Path) -> Trace:
        table = read_table(path, COLUMNS)
        present = set(table.column_names)
        failed = _failed(path, table)
        arrival_s = seconds(path, table, "arrival_s")
        late = np.concatenate([[False], np.diff(arrival_s) < 0])
        refuse(path, "arrival_s", arrival_s, late, "not less than in the row above: sort the file by arrival_s")
        inputs = tokens(path, table, "input_tokens", least=0)
        outputs = tokens(path, table, "output_tokens", least=0)
        refuse(path, "input_tokens", inputs, (inputs == 0) & ~failed, "1 or more")
        refuse(
            path,
            "output_tokens",
            outputs,
            (outputs == 0) & ~failed,
            "1 or more, or 0 in a row whose failed is true",
        )
        class_column = next((name for name in ("class", "log_type") if name in present), None)
        classes, class_code = codes(table, class_column) if class_column else ((), None)
        clients, client_code = codes(table, "client") if "client" in present else ((), None)
        adapters, adapter_code = _adapters(table) if "adapter" in present else ((), None)
        trace = Trace(
            name=trace_name(path),
            arrival_s=arrival_s,
            input_tokens=inputs,
            output_tokens=outputs,
            session=sessions(table, "session") if "session" in present else None,
            shared_prefix_tokens=_shared_prefix(path, table, inputs) if "shared_prefix_tokens" in present else None,
            classes=classes,
            class_code=class_code,
            priority=whole(path, table, "priority") if "priority" in present else None,
            clients=clients,
            client_code=client_code,
            deadline_s=_deadlines(path, table) if "deadline_s" in present else None,
            adapters=adapters,
            adapter_code=adapter_code,
            images=tokens(path, table, "images", least=0) if "images" in present else None,
            visual_tokens=_visual(path, table) if "visual_tokens" in present else None,
            source=f"{path} ({self.name})",
            notes=_unread(path),
        )
        if "block_hashes" in present:
            trace = _with_hashes(path, trace, table)
        return foreign(trace, drop={"failed": failed}, origin="file")

    def example(self) -> Mapping[str, str]:
        return {
            "own.csv": (
                "arrival_s,input_tokens,output_tokens,session,shared_prefix_tokens,block_hashes,class,priority,"
                "client,deadline_s,adapter,failed\n"
                "0.0,40,5,a,0,0 1,chat,0,x,1.5,sql,false\n"
                "0.5,33,1,,0,7 8,code,-1,y,,,false\n"
                "0.5,0,0,,0,,code,0,,,,true\n"
                "2.25,64,12,a,32,0 1 2 3,chat,2,x,0.25,tone,false\n"
            )
        }


def _failed(path: Path, table: pa.Table) -> Mask:
    if "failed" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    names, code = codes(table, "failed")
    truth = {"true": True, "1": True, "false": False, "0": False, "": False}
    unknown = np.array([name.lower() not in truth for name in names], np.bool_)
    if unknown.any():
        row = int(np.argmax(unknown[code]))
        raise InputError(f"{path}: row {row + 1}: failed is {names[code[row]]!r} (allowed: true, false)")
    return np.array([truth[name.lower()] for name in names], np.bool_)[code]


def _shared_prefix(path: Path, table: pa.Table, inputs: Ints) -> Ints:
    shared = tokens(path, table, "shared_prefix_tokens", least=0)
    refuse(path, "shared_prefix_tokens", shared, shared > inputs, "no more than input_tokens")
    return shared


def _deadlines(path: Path, table: pa.Table) -> Floats:
    """float64[n], more than 0; an empty cell is inf."""
    column = pc.fill_null(table.column("deadline_s").cast(pa.float64()), np.inf)
    values = np.asarray(column.to_numpy(), np.float64)
    refuse(path, "deadline_s", values, ~(values > 0), "more than 0, or an empty cell")
    return values


def _visual(path: Path, table: pa.Table) -> Ints:
    """Tokens of each slice, 1 or more where a request has one."""
    if "images" not in table.column_names:
        raise InputError(f"{path}: column visual_tokens without images (allowed: both, or images alone)")
    visual = tokens(path, table, "visual_tokens", least=0)
    bare = (visual == 0) & (tokens(path, table, "images", least=0) > 0)
    refuse(path, "visual_tokens", visual, bare, "1 or more where images is")
    return visual


def _adapters(table: pa.Table) -> tuple[tuple[str, ...], Ints]:
    """Names, numbers by value and before other text, and int64[n] that indexes them; an empty cell is -1."""
    found, code = codes(table, "adapter")
    named = (name for name in found if name)
    names = sorted(named, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    place = {name: k for k, name in enumerate(names)}
    return tuple(names), np.array([place.get(name, -1) for name in found], np.int64)[code]


def _with_hashes(path: Path, trace: Trace, table: pa.Table) -> Trace:
    column = table.column("block_hashes")
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        column = _split(path, column)
        table = table.set_column(table.column_names.index("block_hashes"), "block_hashes", column)
    hash_ids, hash_offsets = ragged(path, table, "block_hashes")
    with_hashes = trace.with_columns(hash_ids=hash_ids, hash_offsets=hash_offsets)
    if "hash_block_tokens" in table.column_names:
        sizes = np.unique(numbers(path, table, "hash_block_tokens"))
        if len(sizes) != 1 or sizes[0] < 1 or sizes[0] != int(sizes[0]):
            raise InputError(f"{path}: hash_block_tokens is {sizes.tolist()} (allowed: one whole number, 1 or more)")
        blocks(path, "block_hashes", trace.input_tokens, np.diff(hash_offsets), int(sizes[0]))
        return with_hashes.with_columns(hash_block_tokens=int(sizes[0]))
    size = _block_tokens(trace.input_tokens, np.diff(hash_offsets))
    if size is None:
        raise InputError(
            f"{path}: no block of {BLOCK_SIZES[0]} to {BLOCK_SIZES[-1]} tokens explains the number of "
            "block_hashes of every row (allowed: one id a full or a started block, or hash_block_tokens)"
        )
    return with_hashes.with_columns(hash_block_tokens=size).noted(f"block_hashes taken as ids of {size}-token blocks")


def _split(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text ``3 1 4`` becomes the list [3, 1, 4]; an empty cell is an empty list."""
    text = pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    lists = pc.split_pattern(text, " ")
    try:
        filled = pc.if_else(pc.equal(text, ""), pa.scalar([], pa.list_(pa.string())), lists)
        return filled.cast(pa.list_(pa.int64()))
    except pa.ArrowInvalid:
        row, item = next(
            (row, item)
            for row, cell in enumerate(text.to_pylist(), start=1)
            for item in (cell.split(" ") if cell else ())
            if not _fits_int64(item)
        )
        allowed = "whole numbers below 2^63, one space between them"
        raise InputError(f"{path}: row {row}: block_hashes holds {item!r} (allowed: {allowed})") from None


def _fits_int64(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", text) is not None and -(2**63) <= int(text) < 2**63


def _block_tokens(inputs: Ints, counts: Ints) -> int | None:
    """The smallest size that gives every prompt one hash a full block, or one a started block."""
    hashed = counts > 0
    prompt, blocks = inputs[hashed], counts[hashed]
    for size in BLOCK_SIZES:
        full, started = prompt // size, -(-prompt // size)
        if bool((full == blocks).all() or (started == blocks).all()):
            return size
    return None


def _unread(path: Path) -> tuple[str, ...]:
    """A note for each column that is not read, with the nearest known name."""
    notes = []
    for name in columns_of(header(path)):
        if name not in COLUMNS and name not in KNOWN_UNREAD:
            notes.append(f"{unknown_name('column', name, COLUMNS)}: not read")
    return tuple(notes)
