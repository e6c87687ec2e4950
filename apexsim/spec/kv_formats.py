"""How a KV cache is stored: bytes of an element, its scales, and what expanding it costs."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.spec.dtypes import KvDtype

USUAL_HEAD = 128
"""Values that share a scale where no head is known: the head dimension of most models."""


@dataclass(frozen=True, slots=True)
class KvFormat:
    """``scale_bytes``: of the scale and zero point that each token has for each head of keys, and of values.
    ``expand``: work of the vector units over the FLOP of the attention; 0 where matrix units take it as it is."""

    bits: int
    scale_bytes: float = 0.0
    expand: float = 0.0
    kernels: str = ""


KV_FORMATS: dict[KvDtype, KvFormat] = {
    "bf16": KvFormat(16, kernels="every engine"),
    "fp16": KvFormat(16, kernels="every engine"),
    "fp8": KvFormat(8, kernels="every engine; one scale a tensor"),
    "int8": KvFormat(8, 4.0, 1.6, "TensorRT-LLM, LMDeploy, QServe (KV8)"),
    "int4": KvFormat(4, 4.0, 1.22, "QServe (KV4), LMDeploy"),
}
"""Integer caches have dynamic scales, 16 bits for the scale and 16 for the zero point, as QServe stores them. Their
``expand`` was fitted on QServe's throughput table (techniques notes, section 6); its 4-bit kernel works in packed
16-bit arithmetic with bit tricks. A naive 4-bit one runs at 0.86 to 0.90 of the speed of the 8-bit one on an A100."""


def kv_bytes(dtype: KvDtype, width: int = USUAL_HEAD) -> float:
    """Bytes of one element of the KV cache with its share of the scales; ``width`` values share one."""
    stored = KV_FORMATS[dtype]
    return stored.bits / 8 + stored.scale_bytes / width
