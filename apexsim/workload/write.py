"""A trace to a file: our own CSV or Parquet, or the JSON lines of Mooncake and APEX+. Bytes depend on the
trace only."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from apexsim.errors import UsageError, unknown_name
from apexsim.spec.files import write_atomically
from apexsim.workload.table import to_table
from apexsim.workload.trace import Trace

MOST_NANOSECONDS = 2**62
"""Some 146 years; int64 holds twice as much."""


def write_trace(trace: Trace, path: Path | str, format: str | None = None) -> None:
    """Write a trace; ``.gz`` at the end of the name zips it.

    Args:
        format: ``csv``, ``parquet``, ``mooncake`` or ``apex``; from the name's ending where None.

    Raises:
        UsageError: an ending or a format that nobody knows, a trace that the format cannot hold, or a file
            that cannot be written.
    """
    path = Path(path)
    writer = WRITERS.get(format or _format_of(path))
    if writer is None:
        raise UsageError(unknown_name("output format", format or path.name, WRITERS))
    data = writer(trace)
    if path.suffix == ".gz":
        # No time in the header: equal traces give equal files.
        data = gzip.compress(data, 6, mtime=0)
    write_atomically(path, data)


def _format_of(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    endings = {".csv": "csv", ".parquet": "parquet"}
    ending = Path(name).suffix
    if ending not in endings:
        raise UsageError(
            f"{path}: ending {ending!r} does not say the format "
            "(allowed: .csv, .csv.gz, .parquet, or a format: csv, parquet, mooncake, apex)"
        )
    return endings[ending]


def _csv(trace: Trace) -> bytes:
    table = to_table(trace)
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_large_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())), " ")
        elif name == "session":
            # -1 stands for none in memory; a cell that is empty says so to everyone.
            column = pc.if_else(pc.less(column, 0), pa.scalar(None, pa.int64()), column)
        elif name in ("class", "client", "adapter"):
            column = column.cast(pa.string())
        elif name == "deadline_s":
            # None is inf in memory, and an empty cell here.
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
        table = table.set_column(table.column_names.index(name), name, column)
    out = io.BytesIO()
    # Our own header line: Arrow would put quotes around every name.
    out.write((",".join(table.column_names) + "\n").encode())
    pa_csv.write_csv(table, out, pa_csv.WriteOptions(include_header=False, quoting_style="needed"))
    return out.getvalue()


def _parquet(trace: Trace) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(to_table(trace), out, compression="zstd")
    return bytes(out.getvalue().to_pybytes())


def _mooncake(trace: Trace) -> bytes:
    if trace.hash_ids is None or trace.hash_offsets is None or trace.hash_block_tokens != 512:
        raise UsageError(
            f"{trace.name}: Mooncake's format needs hashes of 512-token blocks (allowed: csv, parquet, apex)"
        )
    ids, offsets = trace.hash_ids, trace.hash_offsets
    columns = zip(
        (trace.arrival_s * 1e3).tolist(),
        trace.input_tokens.tolist(),
        trace.output_tokens.tolist(),
        offsets[:-1].tolist(),
        offsets[1:].tolist(),
        strict=True,
    )
    return _lines(
        {
            "timestamp": int(ms) if ms.is_integer() else round(ms, 6),
            "input_length": inputs,
            "output_length": outputs,
            "hash_ids": ids[begin:end].tolist(),
        }
        for ms, inputs, outputs, begin, end in columns
    )


def _apex(trace: Trace) -> bytes:
    last_s = float(trace.arrival_s[-1])
    if last_s > MOST_NANOSECONDS / 1e9:
        raise UsageError(f"{trace.name}: an arrival at {last_s:g} s in nanoseconds is more than APEX+'s format holds")
    nanoseconds = np.rint(trace.arrival_s * 1e9).astype(np.int64).tolist()
    columns = zip(nanoseconds, trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    return _lines(
        {"StartTimeOffset": ns, "ContextTokens": inputs, "GeneratedTokens": outputs} for ns, inputs, outputs in columns
    )


def _lines(rows: Iterator[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Trace], bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "mooncake": _mooncake,
    "apex": _apex,
}
