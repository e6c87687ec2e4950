"""FLOP, bytes and parallel blocks of an operator from its sizes: what the laws and the floor are fed with.

All functions take arrays that broadcast and know nothing of a device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.precision import ACTIVATION_BYTES

Floats = NDArray[np.float64]

QUERY_TILE = 128
"""Query rows of one thread block of a flash-attention prefill kernel (FlashAttention-3, arXiv 2407.08608)."""


EXPERT_TILE = 16
"""Rows to which a grouped GEMM pads the tokens of one expert when they are few."""


class Work(NamedTuple):
    """What an operator must do, whatever runs it."""

    flops: Floats
    moved: Floats  # bytes read and written once each, operands cold
    blocks: Floats  # thread blocks of an attention kernel, experts touched by a grouped GEMM; 0 elsewhere
    padded_flops: Floats  # flops with rows rounded up to whole tiles
    keys: Floats  # cached tokens that one query sees at most; 0 where there are none


def gemm_work(m: Floats, n: Floats, k: Floats, weight_bytes: float, input_bytes: float) -> Work:
    """y[m, n] = x[m, k] · w[n, k] with 16-bit outputs."""
    moved = weight_bytes * n * k + input_bytes * m * k + ACTIVATION_BYTES * m * n
    flops = 2.0 * m * n * k
    none = np.zeros_like(flops)
    return Work(flops, moved, none, flops, none)


def causal_pairs(tokens: Floats, window: Floats | int = 0) -> Floats:
    """Query-key pairs of a prompt: Σ_{i=1..tokens} min(i, window), window 0 = all."""
    reach = np.where(np.asarray(window) > 0, np.minimum(tokens, window), tokens)
    return np.asarray(reach * (reach + 1) / 2 + (tokens - reach) * reach)


def prefill_work(
    batch: Floats, tokens: Floats, heads: Floats, kv_heads: Floats, head_width: Floats, window: Floats | int
) -> Work:
    """Attention of ``batch`` whole prompts of ``tokens`` each. Keys and values come fresh, in 16 bits.

    ``head_width``: key and value values of one head together.
    """
    pair_flops = 2.0 * heads * head_width
    flops = batch * pair_flops * causal_pairs(tokens, window)
    moved = batch * tokens * (heads + kv_heads) * head_width * float(ACTIVATION_BYTES)
    tiles = np.ceil(tokens / QUERY_TILE)
    keys = np.where(np.asarray(window) > 0, np.minimum(tokens, window), tokens) + 0.0 * flops
    return Work(flops, moved, batch * heads * tiles, flops * tiles * QUERY_TILE / tokens, keys)


def decode_work(
    batch: Floats, context: Floats, kv_heads: Floats | float, pair_flops: Floats, token_bytes: Floats,
    row_width: Floats | float,
) -> Work:
    """Attention of one new token for each of ``batch`` sequences with ``context`` cached tokens.

    ``pair_flops``: FLOP of one query token against one cached token, all heads; ``token_bytes``: KV bytes of a
    cached token; ``row_width``: values of queries and outputs of one sequence.
    """
    flops = batch * context * pair_flops
    moved = batch * (context * token_bytes + row_width * ACTIVATION_BYTES)
    return Work(flops, moved, batch * kv_heads + 0.0 * flops, flops, context + 0.0 * flops)


def reached_tokens(tokens: Floats, window: Floats | int) -> Floats:
    """Cached tokens that a query attends to: all, or the last ``window`` of them where it is not 0."""
    return np.asarray(np.where(np.asarray(window) > 0, np.minimum(tokens, window), tokens))


def prefill_sizes(
    batch: Floats, tokens: Floats, heads: Floats, kv_heads: Floats, window: Floats
) -> dict[str, Floats]:
    """Sizes of prefill attention: ``blocks`` are (prompt, head) pairs, ``group`` the queries that share a KV head."""
    sizes = decode_sizes(batch, tokens, heads, kv_heads, window)
    return sizes | {"blocks": batch * heads}


def decode_sizes(
    batch: Floats, tokens: Floats, heads: Floats, kv_heads: Floats, window: Floats
) -> dict[str, Floats]:
    """Sizes of decode attention: ``blocks`` are (sequence, KV head) pairs, ``tokens`` all cached ones of a sequence."""
    return {
        "blocks": batch * kv_heads, "tokens": tokens, "group": heads / kv_heads, "window": window, "batch": batch,
        "heads": heads, "kv_heads": kv_heads,
    }


def expert_work(
    tokens: Floats, rows: Floats, touched: Floats, hidden: Floats, intermediate: Floats, matrices: int,
    weight_bytes: float,
) -> Work:
    """Routed experts of one rank: ``rows`` (token, expert) pairs fall on ``touched`` of its experts.

    ``tokens`` are those of the whole group; ``intermediate``: width of an expert on this rank; ``matrices``: 3 where
    the expert is gated, else 2.
    """
    parameters = matrices * hidden * intermediate
    activations = ACTIVATION_BYTES * (2 * tokens * hidden + 2 * rows * (hidden + matrices * intermediate))
    padded = touched * np.ceil(rows / np.maximum(touched, 1e-9) / EXPERT_TILE) * EXPERT_TILE
    flops = 2.0 * rows * parameters
    moved = touched * parameters * weight_bytes + activations
    return Work(flops, moved, touched, 2.0 * padded * parameters, np.zeros_like(flops))


def expert_sizes(
    tokens: Floats, hidden: Floats, intermediate: Floats, experts: Floats, local: Floats, per_token: Floats
) -> dict[str, Floats]:
    """Sizes of a grouped GEMM; ``rows`` are the tokens of one expert, ``width`` the elements of one matrix."""
    return {
        "tokens": tokens, "rows": tokens * per_token / experts, "experts": local, "width": hidden * intermediate,
        "per_token": per_token,
    }


def collective_work(sent: Floats) -> Work:
    """A collective in which every rank sends ``sent`` bytes."""
    none = np.zeros_like(sent)
    return Work(none, sent, none, none, none)
