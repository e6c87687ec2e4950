"""The published words for number formats, as the plan language has them."""

from __future__ import annotations

from apexsim.spec.model import ModelSpec
from apexsim.validation.stated import CannotSimulate, Known

SIXTEEN_BIT = ("bf16", "fp16")

SAME_BITS = (("fp8", "fp8-block"), ("nvfp4", "mxfp4"))
"""Formats that sources take for each other: what the checkpoint of the row's own name holds, counts."""

WEIGHT_ONLY = {"int4": "w4a16", "int8": "w8a16"}
"""Integer weights under 16-bit activations."""

FP8_KV = ("fp8", "fp8-block", "nvfp4")
"""Weights with which TensorRT-LLM's published checkpoints keep an fp8 KV cache."""


def weight_dtype(known: Known, model: ModelSpec) -> str | None:
    """The pool's weights; None (the checkpoint's own) where the row says what the checkpoint is."""
    weights, activations = known.get("weights"), known.get("activations")
    own = model.quantization or ("fp16" if model.dtype == "fp16" else "bf16")
    if weights is None or weights == "auto":
        known.assume(f"weights = {own} (the checkpoint's)")
        return None
    if weights == "int4" and activations in ("fp8", "int8"):
        return "w4a8"
    if weights in WEIGHT_ONLY and (weights == "int4" or activations in (*SIXTEEN_BIT, None)):
        return WEIGHT_ONLY[weights]
    if weights != own and any({weights, own} == set(pair) for pair in SAME_BITS):
        known.assume(f"weights = {own} (the checkpoint's; the row says {weights})")
        return None
    return None if weights == own else str(weights)


def activation_dtype(known: Known) -> str | None:
    """The pool's activations, where the weights do not say them: int4 weights by fp8 (else by int8)."""
    weights, activations = known.get("weights"), known.get("activations")
    return "fp8" if weights == "int4" and activations == "fp8" else None


def kv_dtype(known: Known, engine: str) -> str:
    """The KV cache: as the row says it, else bf16, and fp8 for TensorRT-LLM with fp8 or nvfp4 weights."""
    default = "fp8" if engine == "tensorrt-llm" and known.row.get("weights") in FP8_KV else "bf16"
    found = known.default("kv_cache", default)
    if found in ("bf16", "fp16", "fp8", "int8", "int4"):
        return str(found)
    if found == "auto":
        return "bf16"
    raise CannotSimulate(f"kv_cache {found} is not simulated (simulated: bf16, fp16, fp8, int8, int4)")
