"""The physical floor: no operator runs faster than 0.95 × max(FLOP / peak, cold bytes / memory bandwidth).

The 5 % is what boost clocks and rounded datasheet figures can hide. Every price of every kernel model is clamped to
it, so a fit can be wrong but never impossible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.hardware import HardwareProfile

FLOOR = 0.95


def floor_s(
    profile: HardwareProfile, compute: ComputeDtype, flops: ArrayLike, cold_bytes: ArrayLike
) -> NDArray[np.float64]:
    """Seconds that physics needs for ``flops`` and ``cold_bytes`` (arrays that broadcast)."""
    work = np.asarray(flops, dtype=np.float64) / profile.peak_flops[compute]
    moved = np.asarray(cold_bytes, dtype=np.float64) / profile.memory_bandwidth
    return FLOOR * np.maximum(work, moved)
