"""A ledger: what the operators of an iteration cost, line by line, for many iteration sizes at once.

A ledger is an array [LINES, sizes]. Seconds by part come first, so that their sum is the time; then what power,
utilisation and confidence are computed from. Norms, activation, rotary embedding, embedding, LM head and sampling
count as ``gemm``, the part of the step that is not attention, experts or communication.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ledger = NDArray[np.float64]

PARTS: tuple[str, ...] = ("gemm", "attention", "moe", "communication")
"""Names of the first lines, seconds each."""

GEMM, ATTENTION, MOE, COMMUNICATION, MOVED_BYTES, JOULES, CALIBRATED, EXTRAPOLATED = range(8)
"""Lines. Bytes and joules (above idle) are of one rank; the last two are seconds of the time above."""

LINES = 8


def seconds(ledger: Ledger) -> NDArray[np.float64]:
    """Device seconds of each size."""
    return np.asarray(ledger[: len(PARTS)].sum(axis=0))
