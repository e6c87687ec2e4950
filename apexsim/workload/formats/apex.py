"""APEX+ traces (github.com/microsoft/apex_plus): JSON lines with the offset of each request in nanoseconds.

``StartTimeOffset`` in nanoseconds since the start, ``ContextTokens`` and ``GeneratedTokens``; other keys are
not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apexsim.workload.formats.base import has_keys
from apexsim.workload.formats.cells import foreign, need, seconds, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, read_json_lines
from apexsim.workload.trace import Trace

COLUMNS = {"StartTimeOffset": NUMBER, "ContextTokens": NUMBER, "GeneratedTokens": NUMBER}


class Apex:
    """APEX+ JSON lines; arrivals count from the first request."""

    name = "apex"
    header = '{"StartTimeOffset": ns, "ContextTokens": …, "GeneratedTokens": …} a line'
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_keys(header, "StartTimeOffset")

    def read(self, path: Path) -> Trace:
        table = read_json_lines(path, COLUMNS)
        need(path, table, *COLUMNS)
        context = tokens(path, table, "ContextTokens", least=0)
        generated = tokens(path, table, "GeneratedTokens", least=0)
        trace = Trace(
            name=trace_name(path),
            arrival_s=seconds(path, table, "StartTimeOffset", unit_s=1e-9),
            input_tokens=context,
            output_tokens=generated,
            source=f"{path} ({self.name})",
        )
        return foreign(trace, drop={"no generated tokens": generated == 0, "no context tokens": context == 0})

    def example(self) -> Mapping[str, str]:
        return {
            "apex.jsonl": (
                '{"StartTimeOffset": 0, "ContextTokens": 210, "GeneratedTokens": 33}\n'
                '{"StartTimeOffset": 1250000100, "ContextTokens": 512, "GeneratedTokens": 64}\n'
                '{"StartTimeOffset": 2500000000, "ContextTokens": 77, "GeneratedTokens": 0}\n'
            )
        }
