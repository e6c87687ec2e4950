"""Which pools may share a context over ranks (``cp`` > 1), and which engines can."""

from __future__ import annotations

from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

CP_ENGINES: dict[str, str] = {
    "vllm": "--prefill-context-parallel-size (vllm-project/vllm issue 25749)",
    "sglang": "prefill context parallelism (docs.sglang.io, advanced features)",
}
"""Engine -> where it says that it shards the tokens of a prompt and its KV over devices beside the tensor parallel
ones, as of November 2026."""


def wrong_context(model: ModelSpec, pool: Pool, engine: str) -> str | None:
    """Why ``engine`` cannot share this model's contexts over the pool's cp ranks, or None."""
    if pool.cp == 1:
        return None
    if engine not in CP_ENGINES:
        return f"cp={pool.cp}: {engine} splits no prompt over ranks ({' and '.join(CP_ENGINES)} do)"
    if model.window:
        return f"cp={pool.cp}: the KV of layers with a window ({model.name} has such) is not dealt to several ranks"
    if model.linear is not None:
        return f"cp={pool.cp}: a constant state ({model.name} has such layers) belongs to one rank"
    return None
