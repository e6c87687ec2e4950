"""The number formats of weights, activations, KV cache and arithmetic, and the bytes of a KV cache.

Which weights go with which activations, and what a weight takes, is in ``formats.py``.
"""

from __future__ import annotations

from typing import Literal

WeightDtype = Literal["bf16", "fp16", "fp8", "fp8-block", "int8", "w8a16", "w4a16", "w4a8", "nvfp4", "mxfp4"]
ActivationDtype = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
KvDtype = Literal["bf16", "fp16", "fp8", "int8", "int4"]
ComputeDtype = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
"""What the tensor units multiply in; a device has a peak for each that it supports."""

_KV_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}


def kv_bytes(dtype: KvDtype) -> float:
    """Bytes of one element of the KV cache."""
    return _KV_BYTES[dtype]
