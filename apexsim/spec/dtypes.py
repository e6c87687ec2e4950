"""The words for number formats of weights, activations, KV cache and arithmetic.

Which weights go with which activations, and what a weight takes, is in ``formats.py``; the KV cache in
``kv_formats.py``.
"""

from __future__ import annotations

from typing import Literal

WeightDtype = Literal["bf16", "fp16", "fp8", "fp8-block", "int8", "w8a16", "w4a16", "w4a8", "nvfp4", "mxfp4"]
ActivationDtype = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
KvDtype = Literal["bf16", "fp16", "fp8", "int8", "int4"]
ComputeDtype = Literal["bf16", "fp16", "fp8", "int8", "fp4"]
"""What the tensor units multiply in; a device has a peak for each that it supports."""
