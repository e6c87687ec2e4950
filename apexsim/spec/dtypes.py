"""The number formats of weights, KV cache and arithmetic, and how many bytes they take."""

from __future__ import annotations

from typing import Literal

WeightDtype = Literal["bf16", "fp16", "fp8", "fp8-block", "int8", "w8a16", "w4a16", "w4a8", "nvfp4", "mxfp4"]
KvDtype = Literal["bf16", "fp16", "fp8", "int8", "int4"]
ComputeDtype = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
"""What the tensor units multiply in; a device has a peak for each that it supports."""

_SCALE_BITS_PER_WEIGHT = {
    "fp8-block": 32 / (128 * 128),  # one fp32 scale per 128 x 128 block
    "w4a16": (16 + 4) / 128,  # fp16 scale and 4-bit zero per group of 128 (GPTQ, AWQ)
    "w4a8": (16 + 4) / 128,
    "nvfp4": 8 / 16,  # fp8 scale per 16 weights
    "mxfp4": 8 / 32,  # e8m0 scale per 32 weights (OCP microscaling)
}
_WEIGHT_BITS = {
    "bf16": 16, "fp16": 16, "fp8": 8, "fp8-block": 8, "int8": 8,
    "w8a16": 8, "w4a16": 4, "w4a8": 4, "nvfp4": 4, "mxfp4": 4,
}  # fmt: skip
_KV_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}


def weight_bytes(dtype: WeightDtype) -> float:
    """Bytes of one weight in memory, its share of the scales of its block or group included."""
    return (_WEIGHT_BITS[dtype] + _SCALE_BITS_PER_WEIGHT.get(dtype, 0.0)) / 8


def kv_bytes(dtype: KvDtype) -> float:
    """Bytes of one element of the KV cache."""
    return _KV_BYTES[dtype]
