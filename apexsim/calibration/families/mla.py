"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), of whole prompts and of decoding sequences.

TensorRT-LLM's kernels were measured by themselves. Of vLLM the whole block was, projections and all: what is fitted is
what a block takes beyond its projections and small kernels, at the prices that a step pays for those. So a step's price
adds up to the measured block, and its errors are those of the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.experts import WORDS
from apexsim.calibration.families.family import Columns, Family, Table, Verdict, skipped, units
from apexsim.calibration.problem import Problem, device_problem, measured_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.graph import Cut, attention_block
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp, Elementwise, Gemm
from apexsim.cost.precision import attention_compute
from apexsim.cost.shapes import decode_work, prefill_work
from apexsim.spec import catalog
from apexsim.spec.dtypes import KvDtype, WeightDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import kv_bytes
from apexsim.spec.model import Attention, ModelSpec

Floats = NDArray[np.float64]

MODEL = "DeepSeek-V3"
"""All rows are of its shapes; ``q_heads`` of its 128 heads on a rank."""

KV_WORDS: dict[str, KvDtype] = {"bfloat16": "bf16", "fp8": "fp8"}

CACHES = {"bf16": ("bfloat16", "bfloat16"), "fp8": ("fp8", "bfloat16"), "fp8-fp8": ("fp8", "fp8")}
"""dtype of the kernel file -> ``kv_dtype`` and ``attn_dtype`` of the tables. fp8-fp8: the queries come in fp8 too;
vLLM does that only where it is asked to."""

LENGTH = {"mla_prefill": "prompt_tokens", "mla_decode": "kv_tokens"}

MIN_SHARE = 0.02
"""A block of which projections leave less is left out: what is left of it is the error of their prices."""


MIN_ROWS = 100
"""Blocks with projections in a dtype that fewer rows have are not fitted: another dtype stands for it."""


def _attention() -> tuple[ModelSpec, Attention]:
    model = catalog.model(MODEL)
    attention = model.groups[0].attention
    assert isinstance(attention, Attention)
    return model, attention


def _block(heads: float, weights: WeightDtype, kv_cache: KvDtype) -> tuple[Gemm | Elementwise | AttentionOp, ...]:
    """The operators of the measured block with ``heads`` of the model's heads."""
    model, attention = _attention()
    tp = attention.heads // int(heads)
    cut = Cut(tp, 1, 1, weights, weights, weights, weights, "bf16", kv_cache)
    found = attention_block(attention, model.hidden_size, cut)
    return tuple(op for op in found if isinstance(op, Gemm | Elementwise | AttentionOp))


def _around_s(kernels: CalibratedKernels, tokens: Floats, heads: Floats, weights: WeightDtype) -> Floats:
    """Seconds of projections and small kernels of each row's block."""
    total = np.zeros_like(tokens)
    for count in np.unique(heads):
        rows = heads == count
        for op in _block(count, weights, "bf16"):
            if isinstance(op, Gemm):
                total[rows] += kernels.gemm(tokens[rows], op.n, op.k, op.weights).seconds
            elif isinstance(op, Elementwise):
                total[rows] += kernels.memory_bound(tokens[rows] * op.token_bytes, op.kernels).seconds
    return total


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """One; of vLLM's blocks one a dtype of the projections, which thereby holds what their prices miss."""
    if "gemm_dtype" not in rows.words:
        yield _problem(recipe, rows, profile)
    for word in np.unique(rows.words.get("gemm_dtype", np.empty(0, dtype=np.str_))):
        if not profile.supports(WORDS[str(word)]):
            continue
        mine = rows.take(rows.words["gemm_dtype"] == word)
        tokens = mine.sizes["batch"] * (1.0 if recipe.operator == "mla_decode" else mine.sizes["prompt_tokens"])
        around = _around_s(CalibratedKernels(profile, recipe.engine), tokens, mine.sizes["q_heads"], WORDS[str(word)])
        left = mine.seconds - around > MIN_SHARE * mine.seconds
        if left.sum() >= MIN_ROWS:
            problem = _problem(recipe, mine.take(left), profile, around[left])
            yield problem.beside(around[left]).told_apart(WORDS[str(word)])


def _problem(recipe: Recipe, rows: Rows, profile: HardwareProfile, around: Floats | float = 0.0) -> Problem:
    batch, length, heads = (rows.sizes[name] for name in ("batch", LENGTH[recipe.operator], "q_heads"))
    _, attention = _attention()
    latent, width = attention.kv_lora_rank or 0, attention.head_dim + attention.v_head_dim
    latent_width, cache = latent + (attention.rope_head_dim or 0), KV_WORDS[recipe.where["kv_dtype"]]
    if recipe.operator == "mla_decode":
        stored = np.full_like(batch, latent_width * kv_bytes(cache))
        query = heads * (latent_width + latent)
        work = decode_work(batch, length, 1.0, 2.0 * query, stored, query)
    else:
        work = prefill_work(batch, length, heads, heads, np.asarray(float(width)), 0)
    sizes = {"batch": batch, "tokens": length, "heads": heads}
    return device_problem(
        profile, attention_compute(profile, cache), work, sizes, rows.seconds - around,
        {name: measured_knots(size) for name, size in sizes.items()}, variant=latent_width,
    )  # fmt: skip


def _units(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"units": units(profile)}]


def _price(columns: Columns, profile: HardwareProfile, *, operator: str, engine: str) -> Iterator[Verdict]:
    """A verdict for each dtype: of the projections where a block was measured, else of the KV cache."""
    block = "gemm_dtype" in columns
    words = columns["gemm_dtype" if block else "kv_dtype"].astype(str)
    for word in map(str, np.unique(words)):
        part = {name: column[words == word] for name, column in columns.items()}
        if block and not profile.supports(WORDS[word]):
            yield skipped(word, f"{profile.name} has no matrix units for {WORDS[word]}", len(part["batch"]))
            continue
        kernels = CalibratedKernels(profile, engine)
        seconds, calibrated = _attention_s(kernels, operator, part, WORDS[word] if block else "bf16")
        if block:
            batch, length, heads = (part[name].astype(np.float64) for name in ("batch", LENGTH[operator], "q_heads"))
            tokens = batch if operator == "mla_decode" else batch * length
            seconds += _around_s(kernels, tokens, heads, WORDS[word])
        yield Verdict(word, seconds, part["latency_ms"].astype(np.float64) * 1e-3, calibrated=calibrated)


def _attention_s(
    kernels: CalibratedKernels, operator: str, columns: Columns, weights: WeightDtype
) -> tuple[Floats, bool]:
    """Seconds of the rows' attention, and whether fits priced all of it."""
    batch, length, heads = (columns[name].astype(np.float64) for name in ("batch", LENGTH[operator], "q_heads"))
    caches, queries = columns["kv_dtype"].astype(str), columns["attn_dtype"].astype(str)
    price = kernels.decode_attention if operator == "mla_decode" else kernels.prefill_attention
    seconds, calibrated = np.zeros_like(batch), True
    for cache, query, count in sorted(set(zip(caches, queries, heads, strict=True))):
        rows = (caches == cache) & (queries == query) & (heads == count)
        block = _block(count, weights, KV_WORDS[str(cache)])
        op = next(op for op in block if isinstance(op, AttentionOp))
        found = price(batch[rows], length[rows], replace(op, queries=KV_WORDS[str(query)]))
        seconds[rows], calibrated = found.seconds, calibrated and found.calibrated
    return seconds, calibrated


def _recipes(operator: str, phase: str) -> Iterator[Recipe]:
    sizes = ("batch", LENGTH[operator], "q_heads")
    for dtype, (cache, query) in CACHES.items():
        where = {"kv_dtype": cache, "attn_dtype": query}
        yield Recipe(operator, dtype, "tensorrt-llm", f"mla_{phase}_kernel", sizes, where)
        yield Recipe(operator, dtype, "vllm", f"mla_{phase}_module", sizes, where, words=("gemm_dtype",))


def _tables(operator: str, phase: str) -> dict[str, Table]:
    words, numbers = ("kv_dtype", "attn_dtype"), ("batch", LENGTH[operator], "q_heads", "latency_ms")
    kernel, block = (partial(_price, operator=operator, engine=engine) for engine in ("tensorrt-llm", "vllm"))
    return {
        f"mla_{phase}_kernel": Table(words, numbers, kernel),
        f"mla_{phase}_module": Table((*words, "gemm_dtype"), numbers, block),
    }


MLA_PREFILL = Family(
    operator="mla_prefill",
    recipes=tuple(_recipes("mla_prefill", "context")),
    problems=_problems,
    search={
        "compute": (0.6, 0.05, 1.1), "memory": (0.7, 0.05, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 3e-4), "quantisation": (0.5, 0.01, 1), "critical_s": (5e-9, 1e-12, 1e-6),
    },
    smoothness=0.1,
    fixed=_units,
    after=("gemm",),
    tables=_tables("mla_prefill", "context"),
)  # fmt: skip

MLA_DECODE = Family(
    operator="mla_decode",
    recipes=tuple(_recipes("mla_decode", "generation")),
    problems=_problems,
    search={
        "compute": (0.5, 0.01, 3), "memory": (0.85, 0.05, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 3e-4), "block_s": (3e-6, 1e-8, 1e-4), "critical_s": (1e-10, 1e-13, 1e-7),
    },
    smoothness=0.1,
    fixed=_units,
    after=("gemm",),
    tables=_tables("mla_decode", "generation"),
)  # fmt: skip
