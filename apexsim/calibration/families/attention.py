"""Attention of whole prompts, and of decoding sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns, Family, Table, Verdict, skipped, units
from apexsim.calibration.problem import Problem, device_problem, even_knots, measured_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp
from apexsim.cost.precision import attention_compute
from apexsim.cost.shapes import Work, decode_sizes, decode_work, prefill_sizes, prefill_work, reached_tokens
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import kv_bytes

Floats = NDArray[np.float64]

MIN_ROWS = 100
"""A variant with fewer rows is not fitted: the nearest other one serves it, flagged as extrapolated."""

PREFILL_KNOTS = {"blocks": 12, "group": 5}
DECODE_KNOTS = {"blocks": 12, "group": 7}
"""Knots of the trend along thread blocks and queries that share a KV head; along tokens and windows all measured."""

FINER = (
    ("batch", "tokens"), ("heads", "tokens"), ("kv_heads", "tokens"), ("blocks", "tokens"), ("batch", "heads"),
    ("batch", "kv_heads"), ("heads", "kv_heads"),
)  # fmt: skip
"""Pairs of sizes with a grid of their own: kernels choose how they split the keys, and which heads share a tile, by
thresholds on them."""

SUFFIXES = {"vllm": "", "tensorrt-llm": "_trtllm"}
"""Engine -> how the names of its tables end. SGLang's attention was not measured."""

HEADS = ("q_heads", "kv_heads", "head_dim", "window_tokens")

DTYPES = {"bf16": ("bfloat16", "bfloat16"), "fp8": ("fp8", "bfloat16"), "fp8-fp8": ("fp8", "fp8")}
"""Our word -> ``kv_dtype`` and ``attn_dtype`` of the tables. fp8-fp8: the queries come in fp8 too."""

KV: dict[str, KvDtype] = {"bfloat16": "bf16", "fp8": "fp8"}

TOO_FAST, DOUBTED = "tensorrt-llm+too-fast", ("a100-sxm-80gb",)
"""TensorRT-LLM's decode rows on A100 imply up to 1.7 x its memory bandwidth: their fit prices them in a report only."""


def _recipes(operator: str, table: str, length: str) -> Iterator[Recipe]:
    sizes = ("batch", length, *HEADS)
    for engine, suffix in SUFFIXES.items():
        for dtype, (kv, multiplied) in DTYPES.items():
            where = {"kv_dtype": kv, "attn_dtype": multiplied}
            recipe = Recipe(operator, dtype, engine, f"{table}{suffix}", sizes, where)
            if operator == "decode_attention" and engine == "tensorrt-llm":
                yield replace(recipe, not_for=DOUBTED)
                yield replace(recipe, engine=TOO_FAST, only_for=DOUBTED)
            else:
                yield recipe


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
        sizes = prefill_sizes(batch, tokens, heads, kv_heads, window)
        yield _problem(recipe, profile, work, sizes, mine, PREFILL_KNOTS, head_dim, windowed)


def _decode(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    stored = kv_bytes("bf16" if recipe.dtype == "bf16" else "fp8")
    for head_dim, windowed, mine in _variants(rows):
        batch, tokens, heads, kv_heads, window = (
            mine.sizes[name] for name in ("batch", "kv_tokens", "q_heads", "kv_heads", "window_tokens")
        )
        read = reached_tokens(tokens, window)
        token_bytes = 2 * kv_heads * head_dim * stored
        work = decode_work(batch, read, kv_heads, 4 * heads * head_dim, token_bytes, 2 * heads * head_dim)
        sizes = decode_sizes(batch, tokens, heads, kv_heads, window)
        yield _problem(recipe, profile, work, sizes, mine, DECODE_KNOTS, head_dim, windowed)


def _problem(
    recipe: Recipe, profile: HardwareProfile, work: Work, sizes: dict[str, Floats], rows: Rows, even: Mapping[str, int],
    head_dim: int, windowed: bool,
) -> Problem:
    trend = {axis: even_knots(sizes[axis], count) for axis, count in even.items()}
    trend |= {axis: measured_knots(sizes[axis]) for axis in (("tokens", "window") if windowed else ("tokens",))}
    finer = tuple({axis: measured_knots(sizes[axis]) for axis in pair} for pair in FINER)
    compute = attention_compute(profile, "bf16" if recipe.dtype == "bf16" else "fp8")
    return device_problem(
        profile, compute, work, sizes, rows.seconds, trend, variant=head_dim, windowed=windowed, finer=finer
    )


def _price(columns: Columns, profile: HardwareProfile, *, prefill: bool, engine: str) -> Iterator[Verdict]:
    """As a serving step of ``engine`` is priced, operator by operator; what was set aside, by its own fit."""
    aside = engine == "tensorrt-llm" and not prefill and profile.name in DOUBTED
    kernels = CalibratedKernels(profile, TOO_FAST if aside else engine)
    for kv, multiplied in sorted(set(zip(columns["kv_dtype"].tolist(), columns["attn_dtype"].tolist(), strict=True))):
        words = f"{kv} kv, {multiplied} attn"
        chosen = (columns["kv_dtype"] == kv) & (columns["attn_dtype"] == multiplied)
        mine = {name: column[chosen] for name, column in columns.items()}
        if (kv, multiplied) in DTYPES.values():
            yield from _verdicts(words, kernels, mine, KV[kv], KV[multiplied], prefill)
        else:
            yield skipped(words, f"{words} is no combination that a plan can name", int(chosen.sum()))


def _verdicts(
    words: str, kernels: CalibratedKernels, columns: Columns, kv: KvDtype, queries: KvDtype, prefill: bool
) -> Iterator[Verdict]:
    """One an operator: rows of the same heads, head dimension and window."""
    keys = np.column_stack([columns[name] for name in ("q_heads", "kv_heads", "head_dim", "window_tokens")])
    shapes, of_row = np.unique(keys, axis=0, return_inverse=True)
    for index, shape in enumerate(shapes):
        heads, kv_heads, head_dim, window = map(int, shape)
        op = AttentionOp("attention", heads, kv_heads, head_dim, head_dim, window, kv, 1, queries=queries)
        rows = of_row.ravel() == index
        batch, seconds = columns["batch"][rows], columns["latency_ms"][rows] * 1e-3
        if prefill:
            tokens, past = columns["prompt_tokens"][rows], columns["past_kv_tokens"][rows]
            price = kernels.prefill_attention(batch, tokens, op)
            predicted = price.seconds + batch * past * kernels.prefill_past(tokens, op).seconds
        else:
            price = kernels.decode_attention(batch, columns["kv_tokens"][rows], op)
            predicted = price.seconds
        yield Verdict(words, predicted, seconds, calibrated=price.calibrated)


def _tables(prefill: bool, table: str, length: str) -> dict[str, Table]:
    numbers = ("batch", length, *(("past_kv_tokens",) if prefill else ()), *HEADS, "latency_ms")
    return {
        f"{table}{suffix}": Table(
            ("kv_dtype", "attn_dtype"), numbers, partial(_price, prefill=prefill, engine=engine),
            may_be_zero=("past_kv_tokens", "window_tokens"),
        )
        for engine, suffix in SUFFIXES.items()
    }  # fmt: skip


def _units(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"units": units(profile)}]


PREFILL = Family(
    operator="prefill_attention",
    recipes=tuple(_recipes("prefill_attention", "context_attention", "prompt_tokens")),
    problems=_prefill,
    search={
        "compute": (0.5, 0.05, 1.1), "memory": (0.7, 0.1, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "quantisation": (0.5, 0.01, 1), "critical_s": (5e-9, 1e-12, 1e-6),
    },
    smoothness=0.15,
    fixed=_units,
    tables=_tables(True, "context_attention", "prompt_tokens"),
)  # fmt: skip

DECODE = Family(
    operator="decode_attention",
    recipes=tuple(_recipes("decode_attention", "generation_attention", "kv_tokens")),
    problems=_decode,
    search={
        "compute": (0.5, 0.01, 3), "memory": (0.85, 0.3, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "block_s": (3e-6, 1e-8, 1e-4), "critical_s": (1e-10, 1e-13, 1e-7),
    },
    smoothness=0.1,  # TensorRT-LLM's kernels are tuned by shape
    fixed=_units,
    tables=_tables(False, "generation_attention", "kv_tokens"),
)  # fmt: skip
