"""What a row says in its notes or its name and not in a column: where a clock starts, what a window holds.

A published set may leave such a fact to its notes. Each phrase here stands for the value of a column; the column
itself, where it is there, wins. What was read this way is an assumption of the run and is printed as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from apexsim.validation.columns import Row, Value, read_cell


@dataclass(frozen=True, slots=True)
class Fact:
    """A phrase, and the column and value that it stands for ({1} = the phrase's first group).

    Attributes:
        place: the column in which the phrase stands.
    """

    phrase: str
    column: str
    value: str
    place: str = "notes"


FACTS: tuple[Fact, ...] = (
    Fact(r"steady-state window", "window", "steady"),
    # TTFT that a server's own /metrics page gives starts when the engine gets the request
    Fact(r"server-side means from /metrics", "measured_at", "server"),
    Fact(r"in-process engine", "measured_at", "engine"),
    # LoadGen calls the engine in its own process
    Fact(r"^MLPerf Inference", "measured_at", "engine"),
    # engines compiled with TensorRT, which TensorRT-LLM's releases before 1.0 are
    Fact(r"software as submitted: TensorRT \d", "engine_version", "0.20"),
    Fact(r"KV gets (0?\.\d+|1(?:\.0+)?) of the free", "gpu_memory_utilization", "{1}"),
    # MAX_UTILIZATION admits while blocks are free and evicts when they run out: vLLM's rules
    Fact(r"batch scheduler max_util", "scheduler", "tensorrt-llm-max-utilization"),
    Fact(r"prompts repeated x(\d+)", "prompt_repeats", "{1}"),
    # a quarter to a half of the tokens of later chat turns: the range that mlenergy-h100-dense derives
    Fact(r"part of which the prefix cache served", "prefix_hit_share", "0.375"),
    Fact(r"multimodal", "modality", "multimodal"),
    # dumps of InferenceX runs, whose clients draw lengths with --random-range-ratio 0.8
    Fact(r"silicon_sample\.csv \(20\d\d-\d\d-\d\d\.csv\)", "length_range_ratio", "0.8", "source"),
    # WORKLOAD-2DP4TP-0: replica 0 of a plan of two replicas with tp 4 (the names of APEX+)
    Fact(r"^(.+)-(?:\d+DP)?\d+TP(?:-\d+)?$", "workload", "{1}", "run"),
    Fact(r"-((?:\d+DP)?\d+TP)(?:-\d+)?$", "plan", "{1}", "run"),
)


def stated(row: Row, column: str) -> tuple[Value, str] | None:
    """What the notes or the name of a row say of a column, and the words; None where they say nothing."""
    for fact in FACTS:
        text = str(row.get(fact.place) or "")
        match = re.search(fact.phrase, text, re.IGNORECASE) if fact.column == column else None
        if match:
            value = fact.value.replace("{1}", match.group(1) if match.groups() else "")
            return read_cell(column, value), match.group(0)
    return None
