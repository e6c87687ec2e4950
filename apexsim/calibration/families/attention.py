"""Attention of whole prompts, and of decoding sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Family, units
from apexsim.calibration.problem import Problem, device_problem, even_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.precision import sixteen_bit
from apexsim.cost.shapes import Work, decode_work, prefill_work
from apexsim.spec.dtypes import kv_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

MIN_ROWS = 100
"""A variant with fewer rows is not fitted: the nearest other one serves it, flagged as extrapolated."""

PREFILL_KNOTS = {"blocks": 11, "tokens": 15, "group": 4}
DECODE_KNOTS = {"blocks": 12, "tokens": 14, "group": 7}


def _recipes(operator: str, table: str, length: str) -> tuple[Recipe, ...]:
    sizes = ("batch", length, "q_heads", "kv_heads", "head_dim", "window_tokens")
    return tuple(
        # With attn_dtype fp8 TensorRT-LLM multiplies in fp8 too; the law's peak is that of 16 bits.
        Recipe(operator, dtype, engine, f"{table}{suffix}", sizes, {"kv_dtype": word, "attn_dtype": "bfloat16"})
        for engine, suffix in (("vllm", ""), ("tensorrt-llm", "_trtllm"))
        for dtype, word in (("bf16", "bfloat16"), ("fp8", "fp8"))
    )


def _variants(rows: Rows) -> Iterator[tuple[int, bool, Rows]]:
    """(head dimension, windowed, its rows)."""
    windowed_row = rows.sizes["window_tokens"] > 0
    for head_dim in np.unique(rows.sizes["head_dim"]):
        for windowed in (False, True):
            mine = rows.take((rows.sizes["head_dim"] == head_dim) & (windowed_row == windowed))
            if mine.seconds.size >= MIN_ROWS:
                yield int(head_dim), windowed, mine


def _prefill(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    for head_dim, windowed, mine in _variants(rows):
        batch, tokens, heads, kv_heads, window = (
            mine.sizes[name] for name in ("batch", "prompt_tokens", "q_heads", "kv_heads", "window_tokens")
        )
        work = prefill_work(batch, tokens, heads, kv_heads, np.asarray(2.0 * head_dim), window)
        sizes = {"blocks": batch * heads, "tokens": tokens, "group": heads / kv_heads, "window": window}
        axes = PREFILL_KNOTS | ({"window": 2} if windowed else {})
        yield _problem(profile, work, sizes, mine, axes, head_dim, windowed)


def _decode(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """A windowed decode costs what a full one of min(kv, window) does, times a factor."""
    for head_dim, windowed, mine in _variants(rows):
        if windowed:
            continue
        batch, tokens, heads, kv_heads = (mine.sizes[name] for name in ("batch", "kv_tokens", "q_heads", "kv_heads"))
        token_bytes = 2 * kv_heads * head_dim * kv_bytes("bf16" if recipe.dtype == "bf16" else "fp8")
        work = decode_work(batch, tokens, kv_heads, 4 * heads * head_dim, token_bytes, 2 * heads * head_dim)
        sizes = {"blocks": batch * kv_heads, "tokens": tokens, "group": heads / kv_heads}
        factor = window_factor(rows, head_dim)
        yield _problem(profile, work, sizes, mine, DECODE_KNOTS, head_dim, False, factor)


def _problem(
    profile: HardwareProfile, work: Work, sizes: dict[str, Floats], rows: Rows, axes: Mapping[str, int], head_dim: int,
    windowed: bool, factor: float = 1.0,
) -> Problem:
    knots = {axis: even_knots(sizes[axis], count) for axis, count in axes.items()}
    return device_problem(
        profile, sixteen_bit(profile), work, sizes, rows.seconds, knots, variant=head_dim, windowed=windowed,
        window_factor=factor,
    )  # fmt: skip


def window_factor(rows: Rows, head_dim: int) -> float:
    """Decode attention past its window against full attention over as many tokens: the median over equal shapes."""
    names = ("batch", "q_heads", "kv_heads")
    window, kv = rows.sizes["window_tokens"], rows.sizes["kv_tokens"]
    mine = rows.sizes["head_dim"] == head_dim
    whole = mine & (window == 0)
    full = dict(zip(_keys(rows, names, kv, whole), rows.seconds[whole], strict=True))
    past = mine & (window > 0) & (kv > window)
    ratios = [
        seconds / full[key]
        for key, seconds in zip(_keys(rows, names, window, past), rows.seconds[past], strict=True) if key in full
    ]
    return float(np.median(ratios)) if ratios else 1.0


def _keys(
    rows: Rows, names: tuple[str, ...], length: Floats, mask: NDArray[np.bool_]
) -> list[tuple[float, ...]]:
    columns = [rows.sizes[name][mask] for name in names] + [length[mask]]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _units(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"units": units(profile)}]


PREFILL = Family(
    operator="prefill_attention",
    recipes=_recipes("prefill_attention", "context_attention", "prompt_tokens"),
    problems=_prefill,
    search={
        "compute": (0.6, 0.1, 1.1), "memory": (0.7, 0.1, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "quantisation": (0.5, 0.01, 1), "critical_s": (5e-9, 1e-12, 1e-6),
    },
    smoothness=0.3,
    fixed=_units,
)  # fmt: skip

DECODE = Family(
    operator="decode_attention",
    recipes=_recipes("decode_attention", "generation_attention", "kv_tokens"),
    problems=_decode,
    search={
        "compute": (0.5, 0.01, 3), "memory": (0.85, 0.3, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "block_s": (3e-6, 1e-8, 1e-4), "critical_s": (1e-10, 1e-13, 1e-7),
    },
    smoothness=0.1,  # TensorRT-LLM's kernels are tuned by shape
    fixed=_units,
)  # fmt: skip
