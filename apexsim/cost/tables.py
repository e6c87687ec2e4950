"""Step tables: everything an engine needs to know about time, compiled once per plan.

The law of one iteration on pipeline stage p. ``nd`` sequences decode, S_k = Σ min(kv, window_k) over them (kv counts
the new token), chunks (c, past) prefill, ``n_sampled`` sequences yield a token, ``n_sched`` are scheduled:

    device_p = linear_p(T)                                 T = nd + Σ ceil(c / cp), GEMMs, norms, collectives
             + Σ_k decode_k,p(nd, S_k)                     piecewise affine in S_k for each nd
             + Σ_chunks Σ_k prefill_k,p(c, past)           each prompt is priced by itself
             + head(n_sampled)                             last stage only: LM head and sampling
    iteration_0 = max(device_0, host_floor(n_sched)) + host_serial(n_sched)      first stage; others: device_p

linear_p is ``mixed_s`` where the iteration holds prefill tokens, else ``decode_s`` (CUDA-graph padded).
prefill_k,p(c, past) = prefill_s[p, k](c) + prefill_past_s[p, k](c) · (pairs(c, past, w_k) - pairs(c, 0, w_k)) / c,
pairs(c, past, w) = Σ_{i=1..c} min(past + i, w) counts query-key pairs.

Tables over tokens are dense up to ``token_dense`` and then have a knot every ``token_stride`` tokens: index
``i <= token_dense: i``, else ``token_dense + (i - token_dense) / token_stride``; linear between knots.
Tables over the context hold, for each nd, the value at mean contexts ``context_knots`` (linear in S between
``nd · knot_j`` and ``nd · knot_j+1``; the last slope goes on beyond the last knot). Everything is in seconds.

D ranks in lockstep (``GroupTables``; one stage only) share each iteration. Rank j computes T_j tokens, or sequences
where no rank holds prefill: at least those of one sequence (a dummy batch); T = max_j T_j. Up to T = ``padded`` every
rank computes T of them. The iteration holds prefill where any rank does, and then all take the tables of mixed ones.
Passes 2 to k of a drafting layer with experts are of s_j = max(1, n_sampled of rank j) sequences, if any has one.

    own_j     = linear(T_j) + Σ attention of rank j + head(n_sampled of rank j)
    device    = max_j own_j + exchange(T) + experts(Σ_j T_j / D)
              + exchange_drafts(max_j s_j) + experts_drafts(Σ_j s_j / D)
    iteration = max(device, host_floor(n)) + host_serial(n)                n = max_j n_sched of rank j
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FULL, WINDOWED = 0, 1
"""Attention kinds: index k of the tables. A model without sliding windows has zeros in WINDOWED."""

TOKEN_DENSE, TOKEN_STRIDE = 1024, 64
"""Knots of tables over tokens: every count up to the first, then one every ``TOKEN_STRIDE``."""


NEVER_DRAFTED = np.zeros(0)
"""Where no layer with experts drafts more than once a step."""


class GroupTables(NamedTuple):
    """Seconds of what D ranks of a replica do together, in iterations with prefill (mixed) and without (decode)."""

    ranks: int  # D; 1 = no lockstep, and the arrays are empty
    padded_mixed: int  # tokens of the fullest rank up to which all ranks are padded to it
    padded_decode: int  # sequences
    exchange_mixed_s: NDArray[np.float64]  # [N] by tokens of the fullest rank
    exchange_decode_s: NDArray[np.float64]  # [M + 1]
    experts_mixed_s: NDArray[np.float64]  # [N] by the mean tokens of the ranks
    experts_decode_s: NDArray[np.float64]  # [M + 1]
    exchange_drafts_s: NDArray[np.float64] = NEVER_DRAFTED  # [M + 1] by sequences that yield a token; or empty
    experts_drafts_s: NDArray[np.float64] = NEVER_DRAFTED


ALONE = GroupTables(1, 0, 0, *(np.zeros(0) for _ in range(4)))
"""Of a replica whose attention is not data parallel."""


class StepTables(NamedTuple):
    """Seconds of an iteration's parts. P stages, K = 2 attention kinds, N token knots, M = max_num_seqs."""

    token_dense: int
    token_stride: int
    mixed_s: NDArray[np.float64]  # [P, N] by tokens of the iteration
    decode_s: NDArray[np.float64]  # [P, M + 1] by decoding sequences, an iteration without prefill
    context_knots: NDArray[np.float64]  # [J] mean context of the decoding sequences, ascending from 0
    decode_attention_s: NDArray[np.float64]  # [P, K, M + 1, J]
    prefill_s: NDArray[np.float64]  # [P, K, N] by tokens of the chunk, nothing cached before it
    prefill_past_s: NDArray[np.float64]  # [P, K, N] seconds per past token, by tokens of the chunk
    head_s: NDArray[np.float64]  # [M + 1] by sequences that yield a token
    host_floor_s: NDArray[np.float64]  # [M + 1] by scheduled sequences; hidden behind the device
    host_serial_s: NDArray[np.float64]  # [M + 1] by scheduled sequences; added to the device's time
    transfer_s: NDArray[np.float64]  # [P - 1, N] activations from a stage to the next by tokens; or [1, N] for all
    window: int  # tokens of the sliding window of kind WINDOWED, 0 = the model has none
    group: GroupTables = ALONE  # of the ranks in lockstep; the tables above are of one rank
    cp: int = 1  # ranks that share the tokens of each chunk

    @property
    def stages(self) -> int:
        return int(self.mixed_s.shape[0])


def token_knots(max_tokens: int, dense: int = TOKEN_DENSE, stride: int = TOKEN_STRIDE) -> NDArray[np.int64]:
    """Token counts at which the token tables have a knot: 0..dense, then every ``stride`` past ``max_tokens``."""
    if max_tokens <= dense:
        return np.arange(dense + 1, dtype=np.int64)
    tail = dense + stride * np.arange(1, -(-(max_tokens - dense) // stride) + 1, dtype=np.int64)
    return np.concatenate([np.arange(dense + 1, dtype=np.int64), tail])
