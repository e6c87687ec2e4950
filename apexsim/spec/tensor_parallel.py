"""What a tensor-parallel rank holds, and which engines let it hold more than another.

Ranks hold whole heads. Where tp divides the query heads each has heads / tp of them, and ceil(kv_heads / tp) KV heads:
those that fewer than tp ranks could share are copied. Else a KV head and the queries that share it stay together: with
tp <= kv_heads the fullest rank has ceil(kv_heads / tp) such groups, with more ranks every KV head is copied to
floor(tp / kv_heads) of them at least, and the fullest has its share of one group's queries.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from apexsim.spec.linear import LinearAttention
from apexsim.spec.model import Attention


class TpRule(NamedTuple):
    """How an engine splits heads and feed-forward widths over ranks."""

    uneven: bool  # some ranks may hold more query heads than others, or a wider share of a feed-forward layer
    uneven_kv: bool  # KV heads are rounded up where tp neither divides their number nor is a multiple of it
    says: str
    source: str


EQUAL = "gives every rank equally many"

TP_RULES: dict[str, TpRule] = {
    "vllm": TpRule(
        False, False, EQUAL,
        "vllm/config: 'Total number of attention heads (…) must be divisible by tensor parallel size (…).'",
    ),
    "sglang": TpRule(False, False, f"{EQUAL}; it pads on CPUs only", "sgl-project/sglang pull request 6771"),
    "tensorrt-llm": TpRule(
        False, True, EQUAL,
        "tensorrt_llm/layers/attention.py: 'num_attention_heads must be divisible by tp_size'; KV heads are rounded up",
    ),
    "transformers": TpRule(False, False, EQUAL, "as vLLM; its own plans say nothing of other splits"),
    "distserve": TpRule(False, False, EQUAL, "SwiftTransformer: whole heads, equally many a rank"),
    "aphrodite": TpRule(
        True, True, "lets ranks differ", "Aphrodite (a fork of vLLM) pull request 594, 'Asymmetric Tensor Parallel'"
    ),
}
"""By engine, as of November 2026."""


class RankHeads(NamedTuple):
    """Heads of the fullest rank."""

    heads: int
    kv_heads: int


def fullest_rank(attention: Attention, tp: int) -> RankHeads:
    """Query and KV heads of the rank that has most of them. Latent attention (MLA) has no KV heads to keep together."""
    heads = ceil(attention.heads / tp)
    if attention.kind == "mla":
        return RankHeads(heads, heads)
    if attention.heads % tp == 0:
        return RankHeads(heads, ceil(attention.kv_heads / tp))
    together = attention.heads // attention.kv_heads
    if tp <= attention.kv_heads:
        groups = ceil(attention.kv_heads / tp)
        return RankHeads(groups * together, groups)
    return RankHeads(ceil(together / (tp // attention.kv_heads)), 1)


def wrong_heads(attention: Attention | LinearAttention, tp: int, engine: str) -> str | None:
    """Why ``engine`` cannot split the heads over ``tp`` ranks, to follow 'tp=3 …'; or None."""
    if isinstance(attention, LinearAttention):
        return _wrong_linear_heads(attention, tp)
    rule = TP_RULES[engine]
    if tp > attention.heads and rule.uneven:
        return f"exceeds the {attention.heads} attention heads"
    if attention.heads % tp and not rule.uneven:
        return f"does not divide the {attention.heads} attention heads"
    if rule.uneven_kv:
        return None
    larger, smaller = max(tp, attention.kv_heads), min(tp, attention.kv_heads)
    if attention.kind == "gqa" and larger % smaller:
        return f"neither divides nor is a multiple of the {attention.kv_heads} KV heads"
    return None


def _wrong_linear_heads(attention: LinearAttention, tp: int) -> str | None:
    """No engine pads layers with a constant state."""
    if attention.heads % tp:
        return f"does not divide the {attention.heads} attention heads"
    if max(tp, attention.key_heads) % min(tp, attention.key_heads):
        return f"neither divides nor is a multiple of the {attention.key_heads} groups of linear heads"
    return None
