"""Watts and joules of a device from how busy its compute units and memory are.

    power = idle + (TDP - idle) · (COMPUTE · u_compute + MEMORY · u_memory),   at most the TDP

u_memory is the share of the datasheet bandwidth in use, u_compute the executed FLOP/s over the 16-bit peak, whatever
the dtype: in the runs below a FLOP in fp8 cost what one in bf16 does. A device whose kernels reach another share of
its peak than an H100's is assumed to draw at what it reaches what an H100 draws at its own. Both terms are linear in
FLOP and bytes, so energy follows from sums. Links show up through the bytes that collectives read and write.

The two coefficients are first values, fitted on the steady-state power of 80 decode-dominated runs on H100
(mlenergy-h100-dense, all but Gemma; 60 % of the prompt tokens taken as computed): median error 4 %, p90 11 %. The fit
gave a constant while busy, and a term for time spent in collectives, a weight of 0, so they are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.precision import sixteen_bit
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

COMPUTE, MEMORY = 1.19, 0.90
"""Shares of (TDP - idle) at full use of the 16-bit matrix units, and of the memory."""

FITTED_SHARE = 0.79
"""Share of the 16-bit peak that large GEMMs reach on the H100 of the fit (its profile's ``efficiency.gemm``)."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Joules of one device above idle."""

    idle_w: float
    limit_w: float
    joules_per_flop: float
    joules_per_byte: float

    def dynamic_j(self, seconds: ArrayLike, flops: ArrayLike, moved: ArrayLike) -> Floats:
        """Joules above idle of work that takes ``seconds``; the board's limit caps them."""
        energy = self.joules_per_flop * np.asarray(flops) + self.joules_per_byte * np.asarray(moved)
        return np.minimum(energy, (self.limit_w - self.idle_w) * np.asarray(seconds, dtype=np.float64))


def power_model(profile: HardwareProfile) -> PowerModel | None:
    """The model of a device; None where the profile knows no TDP or idle power."""
    if profile.tdp_w is None or profile.idle_w is None:
        return None
    dynamic = profile.tdp_w - profile.idle_w
    sixteen = sixteen_bit(profile)
    peak = profile.peak_flops[sixteen] * (profile.efficiency.gemm[sixteen] / FITTED_SHARE)
    return PowerModel(
        profile.idle_w, profile.tdp_w, COMPUTE * dynamic / peak, MEMORY * dynamic / profile.memory_bandwidth
    )
