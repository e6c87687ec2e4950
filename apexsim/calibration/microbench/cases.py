"""What is timed: shapes drawn evenly over the logarithms of their sizes, in a random but fixed order.

A case is one row of a table of measured kernels, with its sizes. Cases of all families are shuffled together, so
that a run that ends early has timed a sample of everything. The same seed gives the same cases in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from apexsim.errors import UsageError, unknown_name

Word = str | int

BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}
"""Words of the tables -> bytes of a value."""


@dataclass(frozen=True)
class Limits:
    """What one timed call may take on a machine; larger shapes are not drawn."""

    flops: float
    moved: float  # bytes
    dtypes: tuple[str, ...]
    ranks: int = 1  # processes of a collective; below 2 there are none


@dataclass(frozen=True)
class Case:
    """One kernel at one shape.

    ``columns`` are those of its table beyond system, backend, version and time; ``moved`` are bytes read and written
    once each, ``held`` the bytes that its operands take.
    """

    family: str
    table: str
    columns: tuple[tuple[str, Word], ...]
    flops: float
    moved: float
    held: float

    def __getitem__(self, column: str) -> Word:
        return dict(self.columns)[column]

    def number(self, column: str) -> int:
        """The value of a column that holds a size."""
        return int(self[column])

    @property
    def key(self) -> str:
        """What tells it apart in a journal."""
        return f"{self.table}: " + " ".join(f"{name}={value}" for name, value in self.columns)


def draw(families: Sequence[str], limits: Limits, seed: int) -> list[Case]:
    """The cases of ``families`` in the order in which they are timed.

    Raises:
        UsageError: no such family.
    """
    for family in families:
        if family not in FAMILIES:
            raise UsageError(f"--only: {unknown_name('family', family, FAMILIES)}")
    cases = [case for family in families for case in FAMILIES[family](limits, seed)]
    order = np.random.default_rng(seed).permutation(len(cases))
    return [cases[i] for i in order]


def _spread(seed: int, *ranges: tuple[float, float]) -> Iterator[NDArray[np.float64]]:
    """Endless points, evenly spread over the logarithms of ``ranges``."""
    sampler = qmc.Halton(len(ranges), seed=seed)
    low, high = np.log2(ranges).T
    while True:
        yield 2.0 ** (low + sampler.random(1)[0] * (high - low))


def _gemm(limits: Limits, seed: int) -> Iterator[Case]:
    """Linear layers, y[m, n] = x[m, k] · w[n, k]: some weight matrices, each with many m.

    n and k are multiples of 64, as those of models are. m is whatever tokens an iteration happens to have: beyond a few
    small ones it is drawn, because round numbers fill the tiles of a kernel and flatter it. The fit holds out whole
    matrices.
    """
    random = np.random.default_rng(seed)
    for dtype in limits.dtypes:
        matrices = _spread(seed, (64, 32_768), (64, 32_768))
        single = (_gemm_case(dtype, 1, _wide(n), _wide(k)) for n, k in matrices)
        for matrix in _first(MATRICES, single, limits):
            n, k = matrix.number("n"), matrix.number("k")
            drawn = (2.0 ** (stratum / 2 + random.random() / 2) for stratum in range(2 * FEW_ROWS, 2 * MOST_ROWS))
            rows = sorted({*(2**i for i in range(FEW_ROWS + 1)), *(round(m) for m in drawn)})
            yield from _first(len(rows), (_gemm_case(dtype, m, n, k) for m in rows), limits)


def _gemm_case(dtype: str, m: int, n: int, k: int) -> Case:
    size = BYTES[dtype]
    moved = size * (n * k + m * k) + max(size, 2) * m * n
    columns = (("dtype", dtype), ("m", m), ("n", n), ("k", k))
    return Case("gemm", "gemm", columns, 2.0 * m * n * k, moved, moved)


def _attention(limits: Limits, seed: int) -> Iterator[Case]:
    """Whole prompts, and one token for each of some sequences."""
    for dtype in limits.dtypes:
        if BYTES[dtype] < 2:  # no attention in PyTorch reads fewer bits
            continue
        heads = _heads(seed)
        prompts = _spread(seed, (1, 16), (8, 16_384))
        fitting = (_prefill_case(dtype, *_rounded(prompt), *next(heads)) for prompt in prompts)
        yield from _first(ATTENTIONS, fitting, limits)
        batches = _spread(seed, (1, 256), (8, 32_768))
        fitting = (_decode_case(dtype, *_rounded(batch), *next(heads)) for batch in batches)
        yield from _first(ATTENTIONS, fitting, limits)


def _heads(seed: int) -> Iterator[tuple[int, int, int]]:
    """(query heads, KV heads, head dimension)."""
    random = np.random.default_rng(seed)
    while True:
        kv_heads, group = int(random.choice(KV_HEADS)), int(random.choice(GROUPS))
        yield kv_heads * group, kv_heads, int(random.choice(HEAD_DIMS))


def _prefill_case(dtype: str, batch: int, tokens: int, heads: int, kv_heads: int, head_dim: int) -> Case:
    flops = 2.0 * batch * heads * head_dim * tokens * (tokens + 1)
    held = batch * tokens * 2 * (heads + kv_heads) * head_dim * BYTES[dtype]
    columns = (
        ("attn_dtype", dtype), ("kv_dtype", dtype), ("batch", batch), ("prompt_tokens", tokens), ("past_kv_tokens", 0),
        ("q_heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim), ("window_tokens", 0),
    )  # fmt: skip
    return Case("attention", "context_attention", columns, flops, held, held)


def _decode_case(dtype: str, batch: int, tokens: int, heads: int, kv_heads: int, head_dim: int) -> Case:
    flops = 4.0 * batch * heads * head_dim * tokens
    held = batch * 2 * (tokens * kv_heads + heads) * head_dim * BYTES[dtype]
    columns = (
        ("attn_dtype", dtype), ("kv_dtype", dtype), ("batch", batch), ("kv_tokens", tokens), ("q_heads", heads),
        ("kv_heads", kv_heads), ("head_dim", head_dim), ("window_tokens", 0),
    )  # fmt: skip
    return Case("attention", "generation_attention", columns, flops, held, held)


def _memory(limits: Limits, seed: int) -> Iterator[Case]:
    """Copies (a read and a write) and reads, from a page to what the machine allows."""
    for operation, passes in (("copy", 2), ("read", 1)):
        for exponent in range(12, int(log2(limits.moved / passes)) + 1):
            size = 2**exponent
            yield Case("memory", "memory", (("op", operation), ("bytes", size)), 0.0, passes * size, passes * size)


def _elementwise(limits: Limits, seed: int) -> Iterator[Case]:
    """What stands between the matrix products of a layer, by tokens and width."""
    dtype = limits.dtypes[0]
    for operation, values in ELEMENTWISE.items():
        fitting = (
            _elementwise_case(operation, dtype, round(tokens), _wide(width), values)
            for tokens, width in _spread(seed, (1, 16_384), (128, 32_768))
        )
        yield from _first(ELEMENTWISES, fitting, limits)


def _elementwise_case(operation: str, dtype: str, tokens: int, width: int, values: int) -> Case:
    moved = float(BYTES[dtype] * values * tokens * width)
    columns = (("op", operation), ("dtype", dtype), ("tokens", tokens), ("width", width), ("bytes", int(moved)))
    return Case("elementwise", "elementwise", columns, 0.0, moved, moved)


def _collectives(limits: Limits, seed: int) -> Iterator[Case]:
    """Collectives over all ranks and over each power of two below; ``bytes`` is the message of one rank."""
    dtype = limits.dtypes[0]
    size = BYTES[dtype]
    for ranks in [2**i for i in range(1, max(limits.ranks, 1).bit_length())]:
        for operation in COLLECTIVES:
            for exponent in range(8, int(log2(limits.moved / ranks)) + 1):
                message = 2**exponent
                columns = (
                    ("op", operation), ("dtype", TABLE_WORDS.get(dtype, dtype)), ("gpus", ranks),
                    ("elements", message // size), ("bytes", message),
                )  # fmt: skip
                yield Case("collectives", "nccl", columns, 0.0, message, 2.0 * ranks * message)


def _first(count: int, cases: Iterator[Case], limits: Limits) -> Iterator[Case]:
    """The first ``count`` different ones that a machine can take."""
    seen: set[str] = set()
    for case in cases:
        if len(seen) == count:
            return
        if case.flops <= limits.flops and case.moved <= limits.moved and case.key not in seen:
            seen.add(case.key)
            yield case


def _wide(size: float) -> int:
    return 64 * max(round(size / 64), 1)


def _rounded(sizes: NDArray[np.float64]) -> tuple[int, int]:
    return max(round(sizes[0]), 1), max(round(sizes[1]), 1)


MATRICES, ATTENTIONS, ELEMENTWISES = 32, 400, 40
"""Weight matrices of one dtype, shapes of prompts and of decodes each, and of one elementwise operation."""

FEW_ROWS, MOST_ROWS = 4, 14
"""m of a weight matrix, as powers of two: all of them up to the first, then two drawn an octave up to the second."""

KV_HEADS, GROUPS, HEAD_DIMS = (2, 4, 8), (1, 4, 8), (64, 128)
"""KV heads of a rank, query heads for each of them, and their width: those of models as they are served."""

ELEMENTWISE: Mapping[str, int] = {"norm": 4, "rotary": 2, "activation": 3}
"""Operation -> values that its fused form reads and writes for each value of the width, as ``cost/graph.py`` counts
them: a norm with its residual addition two and two, rotary one and one, a gated activation two and one."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
"""Words of the published tables."""

TABLE_WORDS: Mapping[str, str] = {"bfloat16": "half", "float16": "half"}
"""nccl-tests calls any 16-bit format half."""

FAMILIES: Mapping[str, Callable[[Limits, int], Iterator[Case]]] = {
    "gemm": _gemm, "attention": _attention, "memory": _memory, "elementwise": _elementwise,
    "collectives": _collectives,
}  # fmt: skip
"""What ``--only`` can name."""
