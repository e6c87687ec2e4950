"""Mooncake traces (Qin et al., FAST 2025; github.com/kvcache-ai/Mooncake): JSON lines with prefix hashes.

``timestamp`` in milliseconds, ``input_length``, ``output_length`` in tokens, ``hash_ids``: one id per started
512-token block of the prompt; an equal id means an equal prompt up to the end of that block.

The published arrivals are released in batches every 3 seconds (90 % of the gaps are 0), an artefact of the
log: ``transform.jitter(trace, 3.0, seed)`` spreads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apexsim.errors import InputError
from apexsim.workload.formats.base import has_keys
from apexsim.workload.formats.cells import blocks, foreign, need, ragged, seconds, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, read_json_lines
from apexsim.workload.trace import Trace

BLOCK_TOKENS = 512
COLUMNS = {
    "timestamp": NUMBER,
    "input_length": NUMBER,
    "output_length": NUMBER,
    "hash_ids": pa.list_(pa.int64()),
}


class Mooncake:
    """Mooncake JSON lines with prefix hashes; arrivals count from the first request."""

    name = "mooncake"
    header = '{"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]} a line'
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_keys(header, "timestamp", "input_length")

    def read(self, path: Path) -> Trace:
        table = read_json_lines(path, COLUMNS)
        need(path, table, *COLUMNS)
        inputs = tokens(path, table, "input_length", least=0)
        outputs = tokens(path, table, "output_length", least=0)
        if table.column("hash_ids").null_count:
            row = int(pc.index(pc.is_null(table.column("hash_ids")), True).as_py())
            raise InputError(f"{path}: row {row + 1}: hash_ids is missing (allowed: a list of whole numbers)")
        hash_ids, hash_offsets = ragged(path, table, "hash_ids")
        blocks(path, "hash_ids", inputs, np.diff(hash_offsets), BLOCK_TOKENS)
        trace = Trace(
            name=trace_name(path),
            arrival_s=seconds(path, table, "timestamp", unit_s=1e-3),
            input_tokens=inputs,
            output_tokens=outputs,
            hash_ids=hash_ids,
            hash_offsets=hash_offsets,
            hash_block_tokens=BLOCK_TOKENS,
            source=f"{path} ({self.name})",
        )
        return foreign(trace, drop={"no output tokens": outputs == 0, "no input tokens": inputs == 0})

    def example(self) -> Mapping[str, str]:
        return {
            "mooncake.jsonl": (
                '{"timestamp": 3000, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 2]}\n'
                '{"timestamp": 3000, "input_length": 700, "output_length": 9, "hash_ids": [0, 3]}\n'
                '{"timestamp": 6000, "input_length": 20, "output_length": 0, "hash_ids": [4]}\n'
            )
        }
