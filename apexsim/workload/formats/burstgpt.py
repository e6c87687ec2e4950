"""BurstGPT (Wang et al., KDD 2025; github.com/HPMLL/BurstGPT): months of ChatGPT and GPT-4 calls at a campus.

Version 1 has ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``; version 3 inserts
``Session ID`` and ``Elapsed time`` after the timestamp, so columns are taken by name. Timestamps are whole
seconds of the file's own clock, day 0 starts at 0. A row with 0 response tokens is a failed call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apexsim.workload.formats.base import has_columns
from apexsim.workload.formats.cells import codes, foreign, need, seconds, sessions, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, TEXT, read_table
from apexsim.workload.trace import Trace

COLUMNS = {
    "timestamp": NUMBER,
    "session id": TEXT,
    "request tokens": NUMBER,
    "response tokens": NUMBER,
    "log type": TEXT,
}


class BurstGPT:
    """BurstGPT, all releases; the log type is the class, failed calls are dropped and counted."""

    name = "burstgpt"
    header = "Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,Total tokens,Log Type"
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_columns(header, "timestamp", "request tokens", "response tokens")

    def read(self, path: Path) -> Trace:
        table = read_table(path, COLUMNS)
        need(path, table, "timestamp", "request tokens", "response tokens")
        requested = tokens(path, table, "request tokens", least=0)
        answered = tokens(path, table, "response tokens", least=0)
        classes, code = codes(table, "log type") if "log type" in table.column_names else ((), None)
        trace = Trace(
            name=trace_name(path),
            arrival_s=seconds(path, table, "timestamp"),
            input_tokens=requested,
            output_tokens=answered,
            session=sessions(table, "session id") if "session id" in table.column_names else None,
            classes=classes,
            class_code=code,
            source=f"{path} ({self.name})",
        )
        return foreign(
            trace,
            drop={"failed (0 response tokens)": answered == 0, "no request tokens": requested == 0},
            origin="day",
        )

    def example(self) -> Mapping[str, str]:
        return {
            "burstgpt.csv": (
                "Timestamp,Session ID,Elapsed time,Model,"
                "Request tokens,Response tokens,Total tokens,Log Type\n"
                "90,c0ffee,3,ChatGPT,120,31,151,Conversation log\n"
                "12,,1,GPT-4,64,7,71,API log\n"
                "95,c0ffee,2,ChatGPT,190,0,190,Conversation log\n"
            )
        }
