"""What layers with a constant state cost beside their projections: convolution, gates, recurrence, norm.

Decoding reads and writes the state of each sequence, whatever its context. A prompt is computed in chunks of L tokens:
inside a chunk every token meets the others, between chunks only the state goes on. FLOP of a token and head, with keys
of k and values of v:

    decode                       2 (decay, write) k·v + k·v + 2 (read) k·v; gated delta: 2 k·v more, to look up
    prefill, all                 2·L·(k + v) within the chunk, 4·k·v to read and to write the state
    prefill, gated delta         L·(4·k + 2·v + L) more for the WY form of the chunk's writes, 2·k·v to look up

Sources: Mamba-2 (arXiv 2405.21060, section 6), gated DeltaNet (arXiv 2412.06464, section 3.3), lightning attention
(arXiv 2501.08313, section 2.2). No measurements of these kernels are at hand: the price is the roofline at the shares
of the peaks that the device's profile states for attention and memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.operators import Recurrence
from apexsim.cost.precision import sixteen_bit
from apexsim.cost.tables import token_knots
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.linear import LinearAttention

Floats = NDArray[np.float64]


def recurrence_of(attention: LinearAttention, tp: int, count: int) -> Recurrence:
    """The layer's recurrence on one rank; groups of heads are copied where there are fewer of them than ranks."""
    return Recurrence(
        "recurrence", attention.kind, attention.value_heads // tp, max(1, attention.key_heads // tp),
        attention.key_dim, attention.value_dim, attention.conv_kernel, attention.chunk, attention.state_dtype, count,
    )  # fmt: skip


def decode_s(profile: HardwareProfile, op: Recurrence, max_num_seqs: int, clock: float = 1.0) -> Floats:
    """[M + 1] seconds of one run with a token of each of so many sequences: each state is read and written."""
    sequences = np.arange(max_num_seqs + 1.0)
    moved = sequences * (2.0 * op.state_bytes + op.token_bytes)
    return _roofline(profile, sequences * op.decode_flops, moved, clock)


def prefill_s(profile: HardwareProfile, op: Recurrence, max_tokens: int, clock: float = 1.0) -> Floats:
    """[N] seconds of one run with a chunk of a prompt, at the token knots, after any past.

    The state is read and written once; kernels compute whole chunks of their own.
    """
    tokens = token_knots(max_tokens).astype(np.float64)
    padded = np.ceil(tokens / op.chunk) * op.chunk
    moved = np.where(tokens > 0, 2.0 * op.state_bytes + tokens * op.token_bytes, 0.0)
    return _roofline(profile, padded * op.prefill_flops, moved, clock)


def _roofline(profile: HardwareProfile, flops: Floats, moved: Floats, clock: float) -> Floats:
    """``clock``: of the compute units, over the boost clock."""
    reached = profile.efficiency
    compute = flops / (profile.peak_flops[sixteen_bit(profile)] * reached.attention * clock)
    return np.maximum(compute, moved / (profile.memory_bandwidth * reached.memory))
