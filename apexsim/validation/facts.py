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
        also: columns and phrases that must stand in the row, too.
    """

    phrase: str
    column: str
    value: str
    place: str = "notes"
    also: tuple[tuple[str, str], ...] = ()


DUMPED = r"silicon_sample\.csv \(20\d\d-\d\d-\d\d\.csv\)"
"""Dumps of InferenceX runs (SemiAnalysis)."""

ONLY_MTP = (
    r"r1_h200_sxm_trtllm_fp8_agg_1024x8192_c128_tp8_(?:0_)?ep8",
    r"r1_b200_sxm_trtllm_fp4_agg_1024x1024_c(?:16|32)_tp4_(?:0_)?ep4",
    r"r1_b200_sxm_trtllm_fp4_agg_1024x8192_(?:c32_tp4_ep4|c(?:8|16)_tp8_ep8)",
)
NEVER_MTP = (
    r"r1_b200_sxm_trtllm_fp8_agg_8192x1024_c64_tp8_ep8",
    r"r1_b200_sxm_trtllm_fp4_agg_1024x(?:1024|8192)_c32_tp4_ep1",
    r"r1_b200_sxm_trtllm_fp4_agg_1024x8192_c16_tp8_ep1",
    r"r1_b200_sxm_trtllm_fp4_agg_8192x1024_(?:c(?:4|8|16)_tp4_ep4|c32_tp8_ep1)",
)
"""Runs of DeepSeek-R1 that only one of two sweeps with the same image holds, by their names."""

R1 = (("source", DUMPED), ("model", "DeepSeek-R1"))
R1_DP = (*R1, ("dp", r"^[2-9]\d*$"))
OLDER = (*R1, ("engine_version", r"^1\.1\.0rc2\.post2$"))


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
    Fact(DUMPED, "length_range_ratio", "0.8", "source"),
    # and so do those of its runs with separate pools (sa-bench)
    Fact(r"silicon_sample\.csv \(db-dump/", "length_range_ratio", "0.8", "source", (("mode", "^disagg$"),)),
    # What they serve DeepSeek-R1 with, by image: .github/configs/nvidia-master.yaml at 0004cf5f and 525079ad, and
    # benchmarks/single_node/dsr1_*_trt*.sh: attention_dp_config, and MTP with 3 drafts, or 1 with attention DP.
    Fact(DUMPED, "attention_dp_timeout_iters", "60", "source", R1_DP),
    Fact(r"^1\.2\.0rc6\.post3$", "speculative", "mtp", "engine_version", R1),
    # The older image served both; what only one of its two sweeps holds is told by the run's name.
    *(Fact(phrase, "speculative", "mtp", "run", OLDER) for phrase in ONLY_MTP),
    *(Fact(phrase, "speculative", "none", "run", OLDER) for phrase in NEVER_MTP),
    Fact(r"^1\.1\.0rc2\.post2$", "speculative", "mtp-or-none", "engine_version", R1),
    Fact(DUMPED, "num_speculative_tokens", "1", "source", R1_DP),
    Fact(DUMPED, "num_speculative_tokens", "3", "source", R1),
    # WORKLOAD-2DP4TP-0: replica 0 of a plan of two replicas with tp 4 (the names of APEX+)
    Fact(r"^(.+)-(?:\d+DP)?\d+TP(?:-\d+)?$", "workload", "{1}", "run"),
    Fact(r"-((?:\d+DP)?\d+TP)(?:-\d+)?$", "plan", "{1}", "run"),
)


def stated(row: Row, column: str) -> tuple[Value, str] | None:
    """What the notes or the name of a row say of a column, and the words; None where they say nothing."""
    for fact in FACTS:
        text = str(row.get(fact.place) or "")
        match = re.search(fact.phrase, text, re.IGNORECASE) if fact.column == column else None
        if match and all(re.search(phrase, str(row.get(place) or "")) for place, phrase in fact.also):
            value = fact.value.replace("{1}", match.group(1) if match.groups() else "")
            return read_cell(column, value), match.group(0)
    return None
