"""Which number formats a pool really runs, and whether the device can."""

from __future__ import annotations

from apexsim.spec.dtypes import ComputeDtype, KvDtype, WeightDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

ACTIVATION_BYTES = 2
"""Activations between kernels are bf16 or fp16 in every engine that is modelled."""

INPUT_BYTES: dict[ComputeDtype, float] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625}
"""Bytes of an activation as the matrix units read it; fp4 with one byte of scale per 16 values."""


def weights_of(model: ModelSpec, pool: Pool) -> WeightDtype:
    """Weight dtype that a pool runs: its own, else the checkpoint's, else the model's 16-bit dtype."""
    return pool.weights or model.quantization or ("fp16" if model.dtype == "fp16" else "bf16")


def compute_dtype(profile: HardwareProfile, weights: WeightDtype) -> ComputeDtype:
    """Matrix units that multiply such weights. ``check_dtypes`` has said before whether there are any.

    Parts that a quantised checkpoint leaves in 16 bits run in the 16-bit format that the device has.
    """
    found = profile.executes(weights)
    if found is None and weights in ("bf16", "fp16"):
        return sixteen_bit(profile)
    if found is None:
        raise ValueError(f"{profile.name} does not run {weights} weights; check_dtypes() tells before")
    return found


def sixteen_bit(profile: HardwareProfile) -> ComputeDtype:
    """The 16-bit format of attention and LM head on this device."""
    return "bf16" if "bf16" in profile.peak_flops else "fp16"


def attention_compute(profile: HardwareProfile, kv_dtype: KvDtype) -> ComputeDtype:
    """What measured attention over such a KV cache may multiply in at most: fp8 where cache and device have it.

    Some kernels convert to 16 bits, and their fits reach half of that peak; those of Blackwell do not, and exceed the
    16-bit one.
    """
    return "fp8" if kv_dtype not in ("bf16", "fp16") and "fp8" in profile.peak_flops else sixteen_bit(profile)


def check_dtypes(profile: HardwareProfile, model: ModelSpec, pool: Pool) -> str | None:
    """Why the device cannot run the pool's weights or KV cache, in one line; None where it can."""
    weights = weights_of(model, pool)
    if not profile.supports(weights):
        hint = "; weights: fp16 would run" if weights == "bf16" and profile.supports("fp16") else ""
        units = ", ".join(profile.peak_flops)
        return f"{profile.name} has no matrix units for {weights} weights (it has: {units}){hint}"
    if not profile.supports_kv(pool.kv_cache):
        return f"{profile.name} does not read a {pool.kv_cache} KV cache (its units: {', '.join(profile.peak_flops)})"
    return None
