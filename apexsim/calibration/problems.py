"""Rows of a recipe as fitting problems: one for each variant (head dimension, window or not, number of ranks)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.collectives import sent_bytes
from apexsim.cost.floor import FLOOR, floor_s
from apexsim.cost.precision import INPUT_BYTES, compute_dtype, sixteen_bit
from apexsim.cost.shapes import (
    Work,
    collective_work,
    decode_work,
    expert_sizes,
    expert_work,
    gemm_work,
    prefill_work,
)
from apexsim.errors import InputError
from apexsim.spec.dtypes import kv_bytes, weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

MIN_ROWS = 100
"""A variant with fewer rows is not fitted: the nearest other one serves it, flagged as extrapolated."""

MIN_COLLECTIVE_ROWS = 10


@dataclass(frozen=True)
class Problem:
    """What a law is fitted on: work, sizes and measured seconds, row by row."""

    variant: int
    windowed: bool
    work: Work
    sizes: dict[str, Floats]
    seconds: Floats
    floor: Floats  # 0.95 × roofline
    peak: float
    bandwidth: float

    def take(self, rows: NDArray[np.int64]) -> Problem:
        """The same problem on some of the rows."""
        return replace(
            self, work=Work(*(column[rows] for column in self.work)),
            sizes={name: size[rows] for name, size in self.sizes.items()},
            seconds=self.seconds[rows], floor=self.floor[rows],
        )


def problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """The fitting problems that the rows of ``recipe`` make."""
    if recipe.operator == "gemm":
        yield _gemm(recipe, rows, profile)
    elif recipe.operator == "grouped_gemm":
        yield _grouped_gemm(recipe, rows, profile)
    elif recipe.operator.endswith("_attention"):
        yield from _attention(recipe, rows, profile)
    else:
        yield from _collective(recipe, rows, profile)


def _gemm(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Problem:
    weights = recipe.dtype
    compute = compute_dtype(profile, weights)  # type: ignore[arg-type]  # recipes hold words of WeightDtype
    m, n, k = (rows.sizes[name] for name in "mnk")
    work = gemm_work(m, n, k, weight_bytes(weights), INPUT_BYTES[compute])  # type: ignore[arg-type]  # the same
    floor = floor_s(profile, compute, work.flops, work.moved)
    sizes = {"m": m, "n": n, "k": k}
    return Problem(0, False, work, sizes, rows.seconds, floor, profile.peak_flops[compute], profile.memory_bandwidth)


def _grouped_gemm(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Problem:
    """Balanced rows deal the tokens to the experts in turn, and so touch as many experts as they can."""
    weights = recipe.dtype
    compute = compute_dtype(profile, weights)  # type: ignore[arg-type]  # recipes hold words of WeightDtype
    tokens, hidden, intermediate, experts, per_token, tp, ep = (
        rows.sizes[name] for name in (
            "tokens", "hidden_size", "moe_intermediate_size", "experts", "experts_per_token", "moe_tp", "moe_ep",
        )
    )
    width, local, pairs = intermediate / tp, experts / ep, tokens * per_token
    touched = np.minimum(experts, pairs) / ep
    stored = weight_bytes(weights)  # type: ignore[arg-type]  # the same
    work = expert_work(tokens, pairs / ep, touched, hidden, width, 3, stored)
    floor = floor_s(profile, compute, work.flops, work.moved)
    sizes = expert_sizes(tokens, hidden, width, experts, local, per_token)
    return Problem(0, False, work, sizes, rows.seconds, floor, profile.peak_flops[compute], profile.memory_bandwidth)


def _attention(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    compute = sixteen_bit(profile)
    prefill = recipe.operator == "prefill_attention"
    windowed_row = rows.sizes["window_tokens"] > 0
    for head_dim in np.unique(rows.sizes["head_dim"]):
        for windowed in (False, True):
            mine = rows.take((rows.sizes["head_dim"] == head_dim) & (windowed_row == windowed))
            # A windowed decode costs what a full one of min(kv, window) does, times a factor: see window_factor().
            if mine.seconds.size < MIN_ROWS or (windowed and not prefill):
                continue
            work, sizes = (_prefill if prefill else _decode)(mine, recipe)
            floor = floor_s(profile, compute, work.flops, work.moved)
            yield Problem(
                int(head_dim), windowed, work, sizes, mine.seconds, floor,
                profile.peak_flops[compute], profile.memory_bandwidth,
            )


def _prefill(rows: Rows, recipe: Recipe) -> tuple[Work, dict[str, Floats]]:
    batch, tokens, heads, kv_heads, head_dim, window = (
        rows.sizes[name]
        for name in ("batch", "prompt_tokens", "q_heads", "kv_heads", "head_dim", "window_tokens")
    )
    work = prefill_work(batch, tokens, heads, kv_heads, 2 * head_dim, window)
    return work, {"blocks": batch * heads, "tokens": tokens, "group": heads / kv_heads, "window": window}


def _decode(rows: Rows, recipe: Recipe) -> tuple[Work, dict[str, Floats]]:
    batch, tokens, heads, kv_heads, head_dim = (
        rows.sizes[name] for name in ("batch", "kv_tokens", "q_heads", "kv_heads", "head_dim")
    )
    token_bytes = 2 * kv_heads * head_dim * kv_bytes("bf16" if recipe.dtype == "bf16" else "fp8")
    work = decode_work(batch, tokens, kv_heads, 4 * heads * head_dim, token_bytes, 2 * heads * head_dim)
    return work, {"blocks": batch * kv_heads, "tokens": tokens, "group": heads / kv_heads}


def _collective(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    if profile.scaleup is None:
        raise InputError(f"{profile.name}: has no scale-up links, but {recipe.table} has rows of it")
    bandwidth = profile.scaleup.bandwidth
    for ranks in np.unique(rows.sizes["gpus"]):
        mine = rows.take(rows.sizes["gpus"] == ranks)
        if mine.seconds.size < MIN_COLLECTIVE_ROWS:
            continue
        sent = sent_bytes(recipe.operator, mine.sizes["bytes"], int(ranks))
        floor = FLOOR * sent / bandwidth
        sizes = {"bytes": mine.sizes["bytes"]}
        yield Problem(int(ranks), False, collective_work(sent), sizes, mine.seconds, floor, 0.0, bandwidth)


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
