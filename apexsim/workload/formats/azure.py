"""Azure LLM inference traces 2023 and 2024 (github.com/Azure/AzurePublicDataset).

``TIMESTAMP,ContextTokens,GeneratedTokens``; timestamps are dates with up to nine digits of a second, in 2024
with an offset from UTC. They are read as whole nanoseconds, so no digit is lost to rounding before the first
is subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from apexsim.errors import InputError
from apexsim.workload.formats.base import has_columns
from apexsim.workload.formats.cells import foreign, need, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, first_row, read_table
from apexsim.workload.trace import Floats, Trace

HAS_OFFSET = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$")


class Azure:
    """Azure LLM inference traces 2023 and 2024; arrivals count from the first request."""

    name = "azure"
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_columns(header, "timestamp", "contexttokens", "generatedtokens")

    def read(self, path: Path) -> Trace:
        cell = first_row(path).get("timestamp", "")
        zone = "UTC" if HAS_OFFSET.search(cell[10:]) else None
        columns = {"timestamp": pa.timestamp("ns", zone), "contexttokens": NUMBER, "generatedtokens": NUMBER}
        table = read_table(path, columns)
        need(path, table, *columns)
        context = tokens(path, table, "contexttokens", least=0)
        generated = tokens(path, table, "generatedtokens", least=0)
        trace = Trace(
            name=trace_name(path),
            arrival_s=_seconds(path, table),
            input_tokens=context,
            output_tokens=generated,
            source=f"{path} ({self.name})",
        )
        return foreign(trace, drop={"no generated tokens": generated == 0, "no context tokens": context == 0})

    def example(self) -> Mapping[str, str]:
        return {
            "azure.csv": (
                "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                "2023-01-02 03:04:05.5000000,210,33\n"
                "2023-01-02 03:04:06.7500001,512,64\n"
                "2023-01-02 03:04:08.0000000,77,0\n"
            )
        }


def _seconds(path: Path, table: pa.Table) -> Floats:
    """Seconds since the earliest timestamp, from whole nanoseconds."""
    column = table.column("timestamp")
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"{path}: column 'timestamp' is of type {column.type} (allowed: dates with times)")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{path}: row {row + 1}: timestamp is empty (allowed: a date and time)")
    nanoseconds = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64()).to_numpy()
    return np.asarray((nanoseconds - nanoseconds.min(initial=np.iinfo(np.int64).max)) / 1e9)
