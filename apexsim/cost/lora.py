"""What LoRA adapters cost: the slots that they stand in, and the batched kernels beside each adapted matrix.

A matrix of d_in × d_out has A (r × d_in) and B (d_out × r) beside it: r · (d_in + d_out) values (Hu et al., ICLR 2022).
Over tensor parallel ranks a matrix that is cut by columns has all of A and a share of B on each rank, one that is cut
by rows a share of A and all of B (vLLM without ``fully_sharded_loras``). Slots have the largest rank (vLLM).

An iteration runs two batched kernels (shrink, expand) a layer for each group of matrices that have one input: q, k and
v; o; gate and up; down. They read the distinct adapters of the batch once: of n sequences that choose by themselves,
Σ_j 1 − (1 − p_j)^n in the mean, at most ``max_loras``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.memory import ALONE, Beside
from apexsim.cost.operators import AdapterOp, Operator
from apexsim.cost.precision import ACTIVATION_BYTES
from apexsim.spec.lora import Lora, Target
from apexsim.spec.model import Attention, DenseMlp, LayerGroup, ModelSpec
from apexsim.spec.plan import Pool

Floats = NDArray[np.float64]

PACKS: tuple[tuple[Target, ...], ...] = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Matrices with one input: their adapters run in one pair of kernels."""

BY_ROWS: tuple[Target, ...] = ("o", "down")
"""Matrices of which a rank has a share of the inputs."""

KERNEL_LAUNCHES = 4
"""Launches' worth of fixed time of one batched kernel, as of an attention kernel: both gather. An estimate."""

GATHER_SHARE, GATHER_RANKS = 0.7, 40.0
"""What gathering costs: each token reads the adapter of its request again, and ``GATHER_RANKS`` ranks' worth of
waste, at this share of a read from memory (caches help). Fitted by hand on two throughputs of S-LoRA (arXiv 2311.03285)
on an A100, Llama 7B, q k v o, five adapters against none: 0.83 at rank 8, 0.78 at ranks 8 to 64."""

GATHER_TILE = 16
"""Tokens of one prompt that read its adapter together."""


def lora_of(pool: Pool) -> Lora | None:
    """The adapters of a pool; None where it has none."""
    return pool.lora if pool.lora is not None and pool.lora.adapters > 0 else None


def adapter_operators(model: ModelSpec, pool: Pool, max_num_seqs: int) -> tuple[Operator, ...]:
    """The batched kernels of all layers on one rank; nothing without adapters."""
    lora = lora_of(pool)
    if lora is None:
        return ()
    found: list[Operator] = []
    for group in model.groups:
        for pack in PACKS:
            matrices = [(name, *shape) for name, shape in _shapes(group, model.hidden_size).items() if name in pack]
            adapted = [matrix for matrix in matrices if matrix[0] in lora.matrices]
            if adapted:
                found.append(_operator(pack, adapted, lora, pool.tp, group.count, max_num_seqs))
    return tuple(found)


def _operator(
    pack: tuple[Target, ...], adapted: list[tuple[Target, int, int]], lora: Lora, tp: int, count: int, max_num_seqs: int
) -> AdapterOp:
    values = sum(_rank_values(name, into, out, tp) for name, into, out in adapted)
    into = adapted[0][1] / (tp if adapted[0][0] in BY_ROWS else 1)
    out = sum(o / (1 if name in BY_ROWS else tp) for name, _, o in adapted)
    # Input is read, the small result goes through memory in 32 bits, the output is read and written.
    token_bytes = ACTIVATION_BYTES * (into + 2 * out) + 8.0 * lora.mean_rank * len(adapted)
    return AdapterOp(
        f"lora_{pack[0]}", lora.mean_rank * values * ACTIVATION_BYTES, token_bytes,
        GATHER_SHARE * (lora.mean_rank + GATHER_RANKS) * values * ACTIVATION_BYTES, 2.0 * lora.mean_rank * values,
        lora.adapters, lora.popularity.zipf, max_num_seqs, count, most_distinct=lora.max_loras,
    )  # fmt: skip


def _shapes(group: LayerGroup, hidden: int) -> dict[Target, tuple[int, int]]:
    """(inputs, outputs) of the matrices of a layer that can be adapted."""
    attention, mlp = group.attention, group.mlp
    assert isinstance(attention, Attention)
    shapes: dict[Target, tuple[int, int]] = {
        "q": (hidden, attention.heads * attention.head_dim), "k": (hidden, attention.kv_heads * attention.head_dim),
        "v": (hidden, attention.kv_heads * attention.v_head_dim),
        "o": (attention.heads * attention.v_head_dim, hidden),
    }  # fmt: skip
    if isinstance(mlp, DenseMlp):
        shapes |= {"up": (hidden, mlp.intermediate_size), "down": (mlp.intermediate_size, hidden)}
        if mlp.gated:
            shapes["gate"] = shapes["up"]
    return shapes


def _rank_values(name: Target, into: int, out: int, tp: int) -> float:
    """Values of A and B on one of the ranks, for each rank of the adapter."""
    return into / tp + out if name in BY_ROWS else into + out / tp


def adapter_bytes(model: ModelSpec, lora: Lora, rank: float, tp: int = 1) -> float:
    """One adapter on one of ``tp`` ranks, 16 bits a value."""
    values = sum(
        group.count * _rank_values(name, into, out, tp)
        for group in model.groups for name, (into, out) in _shapes(group, model.hidden_size).items()
        if name in lora.matrices
    )  # fmt: skip
    return rank * values * ACTIVATION_BYTES


def adapter_tensors(model: ModelSpec, lora: Lora) -> int:
    """A and B of every adapted matrix of all layers."""
    return sum(
        2 * group.count
        for group in model.groups for name in _shapes(group, model.hidden_size) if name in lora.matrices
    )  # fmt: skip


def slots_of(model: ModelSpec, pool: Pool) -> Beside:
    """``max_loras`` slots of the largest rank on each rank of the pool; none where adapters take KV pages."""
    lora = lora_of(pool)
    if lora is None or lora.unified:
        return ALONE
    return Beside(lora.max_loras * adapter_bytes(model, lora, max(lora.ranks), pool.tp))


@lru_cache(maxsize=64)
def _popularity(adapters: int, zipf: float) -> Floats:
    weight = np.arange(1, adapters + 1, dtype=np.float64) ** -zipf
    return np.asarray(weight / weight.sum())


def distinct_adapters(sequences: Floats, adapters: int, zipf: float) -> Floats:
    """Mean number of distinct adapters of so many sequences, each of which chooses by itself."""
    missed = (1.0 - _popularity(adapters, zipf))[:, None] ** np.atleast_1d(sequences)[None, :]
    return np.asarray((1.0 - missed).sum(axis=0))


def lora_notes(pool: Pool) -> list[str]:
    """What a reader of a result with adapters has to know."""
    lora = lora_of(pool)
    if lora is None:
        return []
    return [
        f"lora: {lora.adapters} adapters on {lora.max_loras} slots; kernels are estimated for batches in which every "
        "request has one, by their popularity; their fixed time is chosen by S-LoRA's published throughput"
    ]
