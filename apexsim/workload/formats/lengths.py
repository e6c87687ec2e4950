"""Lengths without arrivals: ``input_tokens,output_tokens`` a row, as ShareGPT, LMSYS-Chat or arXiv sets are
shared.

Nothing is known of when the requests came, so all arrive at 0 (offline, in the order of the file) and a note
says so. ``synthetic.with_arrivals`` imposes a Poisson or Gamma process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from apexsim.workload.formats.base import columns_of
from apexsim.workload.formats.cells import foreign, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, read_table
from apexsim.workload.trace import Trace

NOTE = "the file has no arrival times: all requests arrive at 0 (offline); impose a rate to replay it online"


class Lengths:
    """Lengths only (ShareGPT, LMSYS-Chat, …); every request arrives at 0."""

    name = "lengths"
    header = "input_tokens,output_tokens"
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        columns = columns_of(header)
        return "arrival_s" not in columns and {"input_tokens", "output_tokens"} <= set(columns)

    def read(self, path: Path) -> Trace:
        table = read_table(path, {"input_tokens": NUMBER, "output_tokens": NUMBER})
        inputs = tokens(path, table, "input_tokens", least=0)
        outputs = tokens(path, table, "output_tokens", least=0)
        trace = Trace(
            name=trace_name(path),
            arrival_s=np.zeros(len(inputs)),
            input_tokens=inputs,
            output_tokens=outputs,
            source=f"{path} ({self.name})",
            notes=(NOTE,),
        )
        return foreign(trace, drop={"no output tokens": outputs == 0, "no input tokens": inputs == 0})

    def example(self) -> Mapping[str, str]:
        return {"lengths.csv": "input_tokens,output_tokens\n101,11\n202,22\n303,0\n"}
