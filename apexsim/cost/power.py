"""Watts and joules of a device from how busy its compute units, memory and links are.

    power = idle + busy + compute · u_compute + memory · u_memory + link · u_link,   at most the board's limit

u is the share of the datasheet rate in use. The terms are linear in time, FLOP and bytes, so energy follows from
sums: ``busy`` joules a second, and joules a FLOP, a byte read and a byte sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.spec.cluster import Link
from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

BUSY, COMPUTE, MEMORY, LINK = 0.22, 0.80, 0.45, 0.10
"""Shares of (TDP - idle) at full use of each. First values; see docs/costs.md for how they were chosen."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Joules of one device above idle."""

    idle_w: float
    limit_w: float
    busy_w: float
    joules_per_flop: dict[ComputeDtype, float]
    joules_per_byte: float
    joules_per_sent_byte: float

    def dynamic_j(
        self, seconds: ArrayLike, compute: ComputeDtype, flops: ArrayLike, moved: ArrayLike, sent: ArrayLike = 0.0
    ) -> Floats:
        """Joules above idle of work that takes ``seconds``; capped at the board's limit."""
        time = np.asarray(seconds, dtype=np.float64)
        work = self.joules_per_flop[compute] * np.asarray(flops) + self.joules_per_byte * np.asarray(moved)
        energy = self.busy_w * time + work + self.joules_per_sent_byte * np.asarray(sent)
        return np.minimum(energy, (self.limit_w - self.idle_w) * time)


def power_model(profile: HardwareProfile, link: Link) -> PowerModel | None:
    """The model of a device; None where the profile knows no TDP or idle power."""
    if profile.tdp_w is None or profile.idle_w is None:
        return None
    dynamic = profile.tdp_w - profile.idle_w
    return PowerModel(
        profile.idle_w, profile.tdp_w, BUSY * dynamic,
        {dtype: COMPUTE * dynamic / peak for dtype, peak in profile.peak_flops.items()},
        MEMORY * dynamic / profile.memory_bandwidth, LINK * dynamic / link.bandwidth,
    )
