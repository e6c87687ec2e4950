"""Which scheduler rules an engine of that version has, and the limits in force."""

from __future__ import annotations

import re
from typing import Any

from apexsim.engine.schedulers import PRESETS
from apexsim.errors import unknown_name
from apexsim.validation.stated import CannotSimulate, Known

PRESET_OF = {
    "vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "tensorrt-llm",
    "transformers": "vllm",  # its continuous batching: decodes first, then prompts in their order, cut at the budget
}  # fmt: skip

VLLM_V1 = (0, 8)
"""From this version on vLLM cuts prompts into chunks and caches prefixes unless it is told otherwise."""


def preset_of(known: Known, engine: str, version: str | None) -> str:
    """The scheduler preset that stands for an engine, its version and its chunking."""
    named = known.get("scheduler")
    if named is not None:
        if named not in PRESETS:
            raise CannotSimulate(
                f"{known.row.where('scheduler')}: {unknown_name('scheduler preset', named, PRESETS)}", mistake=True
            )
        return str(named)
    chunked = known.get("chunked_prefill")
    if engine == "vllm" and before_v1(version):
        if chunked is None:
            known.assume("chunked_prefill = false (vLLM before 0.8)")
        return "vllm" if chunked else "vllm-v0"
    if chunked is False and PRESETS[PRESET_OF[engine]].chunked:
        known.assume(f"chunked_prefill = false is not simulated for {engine}: prompts are cut at the token budget")
    return PRESET_OF[engine]


def before_v1(version: str | None) -> bool:
    """Whether a version of vLLM is older than its second scheduler; an unknown one is not."""
    found = re.match(r"v?(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) < VLLM_V1


def limits_of(known: Known, preset: str, engine: str) -> dict[str, Any]:
    """The scheduler's limits: the row's, else the preset's; and whether prefixes are cached."""
    rules = PRESETS[preset]
    why = f"preset {preset}"
    budget = known.get("max_num_batched_tokens")
    seqs = int(known.default("max_num_seqs", min(rules.max_num_seqs, budget or rules.max_num_seqs), why))
    if budget is None:
        budget = int(known.default("max_num_batched_tokens", max(rules.max_num_batched_tokens, seqs), why))
    if seqs > budget:
        known.assume(f"max_num_seqs = {budget} (the token budget allows no more than that of {seqs})")
        seqs = budget
    caching = engine == "sglang" or (engine == "vllm" and not before_v1(known.row.get("engine_version")))
    return {
        "max_num_batched_tokens": int(budget), "max_num_seqs": seqs,
        "prefix_caching": bool(known.default("prefix_caching", caching, f"default of {engine}")),
    }  # fmt: skip
