"""Attention as a PyTorch engine runs it over a paged cache: gather the pages, then one SDPA a sequence.

PyTorch has no kernel that attends over several sequences of different lengths on a CPU, so an engine either pads them
into one masked call, which multiplies every query with every key of the batch, or goes through them one by one. This
does the latter. The micro-benchmark times this very function, and the closed loop runs it inside its engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_ends: Sequence[int], key_ends: Sequence[int],
    scale: float | None = None,
) -> torch.Tensor:
    """Causal attention of sequences that lie one after another.

    Args:
        query: [1, heads, tokens, head_dim] of all sequences; a sequence's queries are its last tokens.
        key, value: [1, kv_heads, cached and new tokens, head_dim].
        query_ends, key_ends: where the sequences begin and end, from 0 on.

    Returns:
        [1, heads, tokens, head_dim]
    """
    parts = [
        _one(query[:, :, q0:q1], key[:, :, k0:k1], value[:, :, k0:k1], scale)
        for (q0, q1), (k0, k1) in zip(pairwise(query_ends), pairwise(key_ends), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """One sequence: a prompt, a token, or a chunk after cached tokens, which needs a mask."""
    new, seen = query.shape[2], key.shape[2]
    grouped = query.shape[1] != key.shape[1]
    mask = None
    if 1 < new < seen:
        mask = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=new == seen and new > 1, scale=scale, enable_gqa=grouped
    )
