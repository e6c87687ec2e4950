"""What a cost model must offer: seconds of one operator on one device, and how they are known."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.operators import AttentionOp, ExpertExchange, GroupedGemm, Phase
from apexsim.spec.cluster import Link

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Priced(NamedTuple):
    """Seconds of an operator, and how they are known."""

    seconds: Floats
    calibrated: bool  # from measured kernels of this device
    extrapolated: Bools  # outside what was measured; False everywhere where nothing was


class KernelModel(Protocol):
    """What a cost model must offer. Sizes are arrays that broadcast; results have the broadcast shape.

    Prices are finite, positive, never below ``floor_s``, and do not fall when a size grows by more than what
    quantisation to tiles explains.
    """

    def gemm(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, weights: str) -> Priced:
        """y[m, n] = x[m, k] · w[n, k], quantisation of x included."""
        ...

    def grouped_gemm(self, tokens: ArrayLike, op: GroupedGemm) -> Priced:
        """The routed experts of one rank for ``tokens`` tokens of the whole group."""
        ...

    def prefill_attention(self, batch: ArrayLike, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """``batch`` whole prompts of ``tokens`` tokens."""
        ...

    def decode_attention(self, batch: ArrayLike, context: ArrayLike, op: AttentionOp) -> Priced:
        """One new token for each of ``batch`` sequences that attend to ``context`` cached tokens."""
        ...

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """Seconds that each cached token before a chunk of ``tokens`` adds to its attention."""
        ...

    def memory_bound(self, moved: ArrayLike, kernels: int = 1) -> Priced:
        """``kernels`` elementwise kernels that read and write ``moved`` bytes together."""
        ...

    def collective(self, kind: str, message: ArrayLike, ranks: int, link: Link) -> Priced:
        """A collective of ``apexsim.cost.collectives.KINDS`` over ``ranks`` that ``link`` joins.

        ``message``: bytes of the sum, of all that is gathered, scattered or exchanged by one rank.
        """
        ...

    def exchange(self, phase: Phase, tokens: ArrayLike, op: ExpertExchange) -> Priced:
        """Tokens of each rank on their way to the ranks of their experts (``dispatch``), or back (``combine``)."""
        ...
