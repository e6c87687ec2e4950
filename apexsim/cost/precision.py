"""Which number formats a pool really runs, and whether the device can."""

from __future__ import annotations

from apexsim.spec.dtypes import ComputeDtype, KvDtype, WeightDtype
from apexsim.spec.formats import linear_format, partners, weights_part
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import KV_FORMATS
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool
from apexsim.spec.precision import pool_word

ACTIVATION_BYTES = 2
"""Activations between kernels are bf16 or fp16 in every engine that is modelled."""

INPUT_BYTES: dict[ComputeDtype, float] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625}
"""Bytes of an activation as the matrix units read it; fp4 with one byte of scale per 16 values."""


SAME_RATE = 0.1
"""Peaks that differ by less are one rate."""


def weights_of(model: ModelSpec, pool: Pool) -> WeightDtype:
    """Weight dtype that a pool runs: its own, else the checkpoint's, else the model's 16-bit dtype."""
    return pool.weights or model.checkpoint_dtype


def compute_dtype(profile: HardwareProfile, weights: str) -> ComputeDtype:
    """Matrix units that multiply weights of a format. ``check_dtypes`` has said before whether there are any.

    Parts that a quantised checkpoint leaves in 16 bits run in the 16-bit format that the device has.
    """
    found = profile.executes(weights)
    if found is None and weights in ("bf16", "fp16"):
        return sixteen_bit(profile)
    if found is None:
        raise ValueError(f"{profile.name} does not run {weights} weights; check_dtypes() tells before")
    return found


def dequant(profile: HardwareProfile, weights: str) -> float:
    """What expanding such weights in the main loop of a GEMM costs, as a factor on its arithmetic; 1 = nothing."""
    pair = linear_format(weights).pair(profile.peak_flops)
    return pair.dequant if pair else 1.0


def priced_by(profile: HardwareProfile, weights: str) -> tuple[tuple[str, bool], ...]:
    """Names of the measured formats that price such weights on a device, best first, and whether they are its own.

    A device that multiplies a format in other units than these kernels do (mxfp4 by fp8 or by bf16) has no own ones.
    Nothing is borrowed of units of another rate: the tiles of a kernel follow it (int8 on Blackwell Ultra).
    """
    pair = linear_format(weights).pair(profile.peak_flops)
    if pair is None:
        return ((weights, True),)
    own = weights_part(weights)
    wide = ("bf16", "fp16")  # one kernel runs both, at one rate
    usual = profile.executes(own)
    same = usual == pair.compute or (usual in wide and pair.compute in wide)
    names = ((own, True),) if same else ()
    return (*names, *((name, False) for name in pair.borrows if _as_fast(profile, name, pair.compute)))


def _as_fast(profile: HardwareProfile, weights: str, compute: ComputeDtype) -> bool:
    units = profile.executes(weights)
    return units is not None and abs(profile.peak_flops[units] / profile.peak_flops[compute] - 1) < SAME_RATE


def sixteen_bit(profile: HardwareProfile) -> ComputeDtype:
    """The 16-bit format of attention and LM head on this device."""
    return "bf16" if "bf16" in profile.peak_flops else "fp16"


def attention_compute(profile: HardwareProfile, kv_dtype: KvDtype) -> ComputeDtype:
    """What measured attention over such a KV cache may multiply in at most: fp8 where cache and device have it.

    Some kernels convert to 16 bits, and their fits reach half of that peak; those of Blackwell do not, and exceed the
    16-bit one. Integers are always expanded to 16 bits.
    """
    return "fp8" if kv_dtype == "fp8" and "fp8" in profile.peak_flops else sixteen_bit(profile)


def check_dtypes(profile: HardwareProfile, model: ModelSpec, pool: Pool) -> str | None:
    """Why the device cannot run the pool's formats, or those of one of its precision rules, in one line; or None."""
    reason = _unknown_units(profile, pool_word(model, pool)) or _unread(profile, pool.kv_cache)
    if reason is not None:
        return reason
    for rule in pool.precision:
        reason = _unknown_units(profile, rule.word) if rule.word else None
        reason = reason or (_unread(profile, rule.kv_cache) if rule.kv_cache else None)
        if reason is not None:
            return f"precision {rule.id}: {reason}"
    return None


def _unknown_units(profile: HardwareProfile, word: str) -> str | None:
    if profile.supports(word):
        return None
    weights, activations = weights_part(word), word.partition(":")[2]
    units = ", ".join(profile.peak_flops)
    if activations:
        return f"{profile.name} cannot multiply {weights} weights by {activations} activations (its units: {units})"
    others = [act for act in partners(weights) if profile.supports(f"{weights}:{act}")]
    hint = f"; activations: {others[0]} would run" if others else ""
    if weights == "bf16" and profile.supports("fp16"):
        hint = "; weights: fp16 would run"
    return f"{profile.name} has no matrix units for {weights} weights (it has: {units}){hint}"


def _unread(profile: HardwareProfile, kv_cache: KvDtype) -> str | None:
    if profile.supports_kv(kv_cache):
        return None
    if KV_FORMATS[kv_cache].expand:
        return f"kv_cache={kv_cache}: its vector units expand it, and their rate is not known of {profile.name}"
    return f"{profile.name} does not read a {kv_cache} KV cache (its units: {', '.join(profile.peak_flops)})"
