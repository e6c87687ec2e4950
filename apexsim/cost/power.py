"""Watts and joules of a device: laws of running kernels, idle power in between, collectives apart.

    joules of an iteration = Σ over operators (watts of its kernel · its seconds) + idle watts · all other seconds

What a kernel draws follows from how busy it keeps compute and memory (``power_law.py``). Laws were fitted on metered
kernels of three devices; any other takes those of the device that its profile names (``power_from``). Between equal
dies ("rates") a FLOP and a byte cost the same joules; else ("shares") a device draws the same share of what lies
between its own idle power and its own limit at the same use, where use of compute counts from what large GEMMs reach.

Three global factors (``Serving``) tie the laws to serving: a loop of one kernel saturates the board at less work than
the same kernel among others, metered attention had a cache that nobody had filled, and collectives were not metered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.clock import AT_BOOST, Clock
from apexsim.cost.power_law import PowerLaw, Serving, load_power, load_serving
from apexsim.cost.precision import sixteen_bit
from apexsim.spec.catalog import data_root, device, profile_folder
from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

ATTENTION = ("prefill_attention", "decode_attention", "mla_prefill", "mla_decode")

NEAREST: dict[str, tuple[str, ...]] = {
    "fp16": ("bf16",), "fp8": ("fp8-block",), "fp8-block": ("fp8",), "int8": ("fp8", "fp8-block"), "w8a16": ("bf16",),
    "w4a16": ("bf16",), "w4a8": ("fp8", "fp8-block"), "nvfp4": ("fp8", "fp8-block"), "mxfp4": ("bf16",),
    "int4": ("fp8",),
}  # fmt: skip
"""Dtype without a law of its own -> the ones that stand for it, best first; bf16 stands for any other."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Joules of one device above idle."""

    idle_w: float
    limit_w: float
    laws: Mapping[tuple[str, str], PowerLaw]  # by operator and dtype
    peak_flops: Mapping[ComputeDtype, float]  # that use of compute counts from, at the pool's clock
    memory_bandwidth: float  # that use of memory counts from
    communicating: float  # share of what lies between idle and limit that a collective draws
    metered: str  # the device whose laws these are
    clock: Clock = AT_BOOST

    def law(self, operator: str, dtype: str) -> PowerLaw:
        """The law of an operator, or of the nearest dtype of it that was metered, as it is while serving."""
        found = (self.laws.get((operator, each)) for each in (dtype, *NEAREST.get(dtype, ()), "bf16"))
        return next(law for law in found if law is not None)

    def running_j(
        self, law: PowerLaw, compute: ComputeDtype, seconds: ArrayLike, flops: ArrayLike, moved: ArrayLike
    ) -> Floats:
        """Joules above idle of kernels that run for ``seconds`` and do ``flops`` and move ``moved`` bytes meanwhile.

        Several kernels alike may stand in one number: then ``seconds``, ``flops`` and ``moved`` are their sums.
        """
        time = np.asarray(seconds, dtype=np.float64)
        each = 1.0 / np.maximum(time, 1e-30)
        rate = np.asarray(moved, dtype=np.float64) * each
        share = law.share(np.asarray(flops) * each / self.peak_flops[compute], rate / self.memory_bandwidth)
        room = self.limit_w - self.idle_w
        return self.clock.watts(np.minimum(share, 1.0) * room, rate) * time

    def communicating_j(self, seconds: ArrayLike) -> Floats:
        """Joules above idle of collectives that last ``seconds``."""
        watts = self.clock.watts(self.communicating * (self.limit_w - self.idle_w), 0.0)
        return np.asarray(watts * np.asarray(seconds, dtype=np.float64))


def committed_serving() -> Serving:
    """The factors in force."""
    return load_serving(data_root() / "hardware_profiles" / "serving_power.json").factors


def power_model(
    profile: HardwareProfile, clock: Clock = AT_BOOST, serving: Serving | None = None
) -> PowerModel | None:
    """The model of a device; None where the profile knows no TDP or idle power.

    Args:
        serving: factors in place of the committed ones, for a fit.
    """
    if profile.tdp_w is None or profile.idle_w is None:
        return None
    metered = profile if profile.power_from == profile.name else device(profile.power_from)
    folder = metered.folder or profile_folder(metered.name)
    serving = serving or committed_serving()
    laws = {
        (fit.operator, fit.dtype): fit.law.times(serving.attention if fit.operator in ATTENTION else 1.0)
        for fit in load_power(folder / "power.json").fits
    }
    peaks, bandwidth = _full_use(profile, metered)
    peaks = {dtype: peak * clock.fraction / serving.compute for dtype, peak in peaks.items()}
    return PowerModel(
        profile.idle_w, profile.tdp_w, laws, peaks, bandwidth, serving.communicating, metered.name, clock
    )


def _full_use(profile: HardwareProfile, metered: HardwareProfile) -> tuple[dict[ComputeDtype, float], float]:
    """FLOP/s by dtype and bytes/s that count as a use of 1 in the laws of ``metered``."""
    if profile.power_carries == "rates":
        room = _room_w(profile) / _room_w(metered)
        peaks = {**profile.peak_flops, **metered.peak_flops}
        return {dtype: peak * room for dtype, peak in peaks.items()}, metered.memory_bandwidth * room
    reached = profile.efficiency.gemm[sixteen_bit(profile)] / metered.efficiency.gemm[sixteen_bit(metered)]
    return {dtype: peak * reached for dtype, peak in profile.peak_flops.items()}, profile.memory_bandwidth


def _room_w(profile: HardwareProfile) -> float:
    return (profile.tdp_w or 0.0) - (profile.idle_w or 0.0)
