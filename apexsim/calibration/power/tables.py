"""The metered tables: kernels with their time and their mean power, and how their columns become work.

A table has the columns of its unmetered twin, and ``power_w``: the mean of NVML readings, 100 ms apart, over a loop of
one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.experts import SIZES as EXPERT_SIZES
from apexsim.calibration.families.family import Columns
from apexsim.calibration.families.gemm import WORDS as GEMM_WORDS
from apexsim.cost.precision import INPUT_BYTES, compute_dtype
from apexsim.cost.shapes import decode_work, expert_sizes, expert_work, gemm_work, prefill_work
from apexsim.spec.dtypes import ComputeDtype, KvDtype, WeightDtype
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import kv_bytes

Floats = NDArray[np.float64]

MLA_HIDDEN, MLA_QUERY_RANK, MLA_KV_RANK, MLA_ROPE, MLA_HEAD = 7168, 1536, 512, 64, 128
"""DeepSeek-V3's, of which all metered MLA blocks are: hidden size, ranks, rotary and head dimensions (config.json)."""

WEIGHT_WORDS: dict[str, WeightDtype] = {**GEMM_WORDS, "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4"}
KV_WORDS: dict[str, KvDtype] = {"bfloat16": "bf16", "fp8": "fp8"}


class Ideal(NamedTuple):
    """Seconds that a kernel's work takes at the peak of what executes, and its bytes at the memory's bandwidth."""

    compute_s: Floats
    memory_s: Floats


@dataclass(frozen=True)
class Metered:
    """One metered table.

    ``dtype``: from the words of a row to the dtype of its law; ``ideal`` and ``sizes`` take rows of equal words.
    """

    operator: str
    words: tuple[str, ...]
    numbers: tuple[str, ...]
    dtype: Callable[[tuple[str, ...]], str | None]
    ideal: Callable[[Columns, tuple[str, ...], HardwareProfile], Ideal]
    sizes: Callable[[Columns], dict[str, Floats]]
    knots: Mapping[str, int]  # knots of the grid of readings along each of ``sizes``
    shape: tuple[str, ...]  # columns that make a model's or a matrix's shape, for errors on whole ones held out
    smoothness: float  # weight of a step between neighbouring knots of that grid against one row
    title: int = 1  # words that name a line of the report
    may_be_zero: tuple[str, ...] = ()


def _numbers(columns: Columns, *names: str) -> tuple[Floats, ...]:
    return tuple(np.asarray(columns[name], dtype=np.float64) for name in names)


def _ideal(profile: HardwareProfile, compute: ComputeDtype, flops: Floats, moved: Floats) -> Ideal:
    return Ideal(flops / profile.peak_flops[compute], moved / profile.memory_bandwidth)


def _gemm(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    weights = WEIGHT_WORDS[words[0]]
    compute = compute_dtype(profile, weights)
    m, n, k = _numbers(columns, "m", "n", "k")
    work = gemm_work(m, n, k, weight_bytes(weights), INPUT_BYTES[compute])
    return _ideal(profile, compute, work.flops, work.moved)


def _gemm_sizes(columns: Columns) -> dict[str, Floats]:
    """``sweep``: sizes one above a tile were metered in a sweep of their own, with other readings."""
    m, n, k = _numbers(columns, "m", "n", "k")
    return {"m": m, "n": n, "k": k, "sweep": 1.0 + m % 2}


def _prefill(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    batch, tokens, heads, kv_heads, head_dim, window = _numbers(
        columns, "batch", "prompt_tokens", "q_heads", "kv_heads", "head_dim", "window_tokens"
    )
    work = prefill_work(batch, tokens, heads, kv_heads, 2 * head_dim, window)
    return _ideal(profile, "fp8" if words[0] == "fp8" else "bf16", work.flops, work.moved)


def _prefill_sizes(columns: Columns) -> dict[str, Floats]:
    batch, tokens, heads, kv_heads, head_dim = _numbers(
        columns, "batch", "prompt_tokens", "q_heads", "kv_heads", "head_dim"
    )
    return {"blocks": batch * heads, "tokens": tokens, "group": heads / kv_heads, "head_dim": head_dim}


def _decode(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    batch, heads, kv_heads, head_dim = _numbers(columns, "batch", "q_heads", "kv_heads", "head_dim")
    token_bytes = 2 * kv_heads * head_dim * kv_bytes(KV_WORDS[words[1]])
    work = decode_work(
        batch, _seen(columns), kv_heads, 4 * heads * head_dim, token_bytes, 2 * heads * head_dim
    )
    return _ideal(profile, "bf16", work.flops, work.moved)


def _seen(columns: Columns) -> Floats:
    """Cached tokens that a query sees."""
    tokens, window = _numbers(columns, "kv_tokens", "window_tokens")
    return np.where(window > 0, np.minimum(tokens, window), tokens)


def _decode_sizes(columns: Columns) -> dict[str, Floats]:
    batch, heads, kv_heads, head_dim = _numbers(columns, "batch", "q_heads", "kv_heads", "head_dim")
    return {"blocks": batch * kv_heads, "tokens": _seen(columns), "group": heads / kv_heads, "head_dim": head_dim}


def _experts(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    weights = WEIGHT_WORDS[words[0]]
    compute = compute_dtype(profile, weights)
    tokens, hidden, intermediate, experts, per_token, tp, ep = _numbers(columns, *EXPERT_SIZES)
    pairs = tokens * per_token
    matrices = 2 if words[1].endswith("nongated") else 3
    touched = np.minimum(experts, pairs) / ep
    work = expert_work(tokens, pairs / ep, touched, hidden, intermediate / tp, matrices, weight_bytes(weights))
    return _ideal(profile, compute, work.flops, work.moved)


def _expert_sizes(columns: Columns) -> dict[str, Floats]:
    tokens, hidden, intermediate, experts, per_token, tp, ep = _numbers(columns, *EXPERT_SIZES)
    return expert_sizes(tokens, hidden, intermediate / tp, experts, experts / ep, per_token)


def _mla(columns: Columns, words: tuple[str, ...], profile: HardwareProfile, *, decode: bool) -> Ideal:
    """The block with its projections: low-rank queries, latent and output, and attention in 16 bits."""
    weights = WEIGHT_WORDS[words[0]]
    batch, heads, length = _numbers(columns, "batch", "q_heads", "kv_tokens" if decode else "prompt_tokens")
    parameters = (
        MLA_HIDDEN * (MLA_QUERY_RANK + MLA_KV_RANK + MLA_ROPE)
        + heads * (MLA_QUERY_RANK * (MLA_HEAD + MLA_ROPE) + 2 * MLA_KV_RANK * MLA_HEAD + MLA_HEAD * MLA_HIDDEN)
    )
    new = batch if decode else batch * length
    if decode:  # queries meet the latent itself
        attention = 2 * batch * length * heads * (2 * MLA_KV_RANK + MLA_ROPE)
        cache = batch * length * (MLA_KV_RANK + MLA_ROPE) * kv_bytes(KV_WORDS[words[1]])
    else:
        attention = batch * length * (length + 1) * heads * (2 * MLA_HEAD + MLA_ROPE)
        cache = new * 4 * heads * (2 * MLA_HEAD + MLA_ROPE)
    compute_s = 2 * new * parameters / profile.peak_flops[compute_dtype(profile, weights)]
    moved = parameters * weight_bytes(weights) + new * 4 * MLA_HIDDEN + cache
    return Ideal(compute_s + attention / profile.peak_flops["bf16"], moved / profile.memory_bandwidth)


def _mla_prefill(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    return _mla(columns, words, profile, decode=False)


def _mla_decode(columns: Columns, words: tuple[str, ...], profile: HardwareProfile) -> Ideal:
    return _mla(columns, words, profile, decode=True)


def _mla_prefill_sizes(columns: Columns) -> dict[str, Floats]:
    batch, tokens, heads = _numbers(columns, "batch", "prompt_tokens", "q_heads")
    return {"batch": batch, "tokens": tokens, "heads": heads}


def _mla_decode_sizes(columns: Columns) -> dict[str, Floats]:
    batch, tokens, heads = _numbers(columns, "batch", "kv_tokens", "q_heads")
    return {"batch": batch, "tokens": tokens, "heads": heads}


def _weights(words: tuple[str, ...]) -> str | None:
    return WEIGHT_WORDS.get(words[0])


def _cache(words: tuple[str, ...]) -> str | None:
    """Of attention that multiplies in fp8 the laws are kept apart from those of an fp8 cache alone."""
    if words[0] == "fp8":
        return "fp8 x fp8" if words[1] == "fp8" else None
    return KV_WORDS.get(words[1])


_ATTENTION = ("batch", "q_heads", "kv_heads", "head_dim", "window_tokens")
_MODULE_WORDS = ("gemm_dtype", "kv_dtype", "attn_dtype")
_MODULE_KNOTS = {"batch": 9, "tokens": 12, "heads": 6}

METERED: dict[str, Metered] = {
    "power_gemm": Metered(
        "gemm", ("dtype",), ("m", "n", "k"), _weights, _gemm, _gemm_sizes,
        {"m": 20, "n": 10, "k": 10, "sweep": 2}, ("n", "k"), 0.05,
    ),
    "power_context_attention": Metered(
        "prefill_attention", ("attn_dtype", "kv_dtype"), (*_ATTENTION, "prompt_tokens"), _cache, _prefill,
        _prefill_sizes, {"blocks": 11, "tokens": 12, "group": 4, "head_dim": 3}, ("q_heads", "kv_heads", "head_dim"),
        0.1, 2, ("window_tokens",),
    ),
    "power_generation_attention": Metered(
        "decode_attention", ("attn_dtype", "kv_dtype"), (*_ATTENTION, "kv_tokens"), _cache, _decode, _decode_sizes,
        {"blocks": 12, "tokens": 12, "group": 5, "head_dim": 3}, ("q_heads", "kv_heads", "head_dim"),
        0.1, 2, ("window_tokens",),
    ),
    "power_moe": Metered(
        "grouped_gemm", ("dtype", "kernel"), EXPERT_SIZES, _weights, _experts, _expert_sizes,
        {"rows": 12, "experts": 6, "width": 12, "per_token": 4},
        ("hidden_size", "moe_intermediate_size", "experts", "experts_per_token"), 0.2,
    ),
    "power_mla_context_module": Metered(
        "mla_prefill", _MODULE_WORDS, ("batch", "prompt_tokens", "q_heads"), _weights, _mla_prefill,
        _mla_prefill_sizes, _MODULE_KNOTS, ("q_heads",), 0.2,
    ),
    "power_mla_generation_module": Metered(
        "mla_decode", _MODULE_WORDS, ("batch", "kv_tokens", "q_heads"), _weights, _mla_decode, _mla_decode_sizes,
        _MODULE_KNOTS, ("q_heads",), 0.2,
    ),
}
"""Name of a table -> how it is read."""
