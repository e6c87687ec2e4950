"""Decode attention over a KV cache of few bits: what the vector units need to expand it.

A read of fewer bytes is not all. Keys and values come as 8- or 4-bit integers with a scale a head, and every one of
them is expanded by the vector units (CUDA cores) before it is multiplied:

    seconds = max(16-bit kernel that reads these bytes, FLOP · expand / (vector_flops · REACHED))

FLOP are those of the attention itself, all query heads; ``expand`` is the format's (``spec/kv_formats.py``). The law is
that of techniques notes on QServe (Lin et al., MLSys 2025, section 5.3: attention over 4-bit KV on A100 is bound by
CUDA cores, not by bytes), its factors fitted on the throughput table of QServe's README. An fp8 cache is no such
case: devices that have fp8 expand it in hardware, and it was measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.kernel_model import Priced
from apexsim.cost.shapes import Work
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import KV_FORMATS

Floats = NDArray[np.float64]

REACHED = 0.10
"""Share of the vector units' peak that attention kernels reach: 3.9 TFLOP/s of an A100, 9.2 of an L40S."""


def expand_s(profile: HardwareProfile, kv_dtype: KvDtype, flops: Floats) -> Floats:
    """Seconds of the vector units for decode attention of ``flops``; 0 where they have nothing to expand."""
    factor = KV_FORMATS[kv_dtype].expand
    if factor == 0.0 or profile.vector_flops is None:
        return np.zeros_like(flops)
    return flops * factor / (profile.vector_flops * REACHED)


def expanded(profile: HardwareProfile, kv_dtype: KvDtype, work: Work, price: Priced) -> Priced:
    """``price`` of a kernel that only reads such a cache, at least as long as its expansion takes. Never measured."""
    if KV_FORMATS[kv_dtype].expand == 0.0:
        return price
    seconds = np.maximum(price.seconds, expand_s(profile, kv_dtype, work.flops))
    return Priced(seconds, price.calibrated, np.full(seconds.shape, price.calibrated))
