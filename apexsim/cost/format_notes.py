"""What a reader has to know of number formats that were not measured in the kernels of a device."""

from __future__ import annotations

from collections.abc import Iterable

from apexsim.cost.kernel_model import KernelModel
from apexsim.cost.low_bit_kv import REACHED
from apexsim.cost.operators import AttentionOp, Gemm, GroupedGemm, Operator
from apexsim.cost.precision import priced_by
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import KV_FORMATS


def format_notes(profile: HardwareProfile, operators: Iterable[Operator], kernels: KernelModel) -> list[str]:
    """A line for each format whose kernels another one's measurements price, and for integer KV caches."""
    found: dict[str, None] = {}
    for op in operators:
        if isinstance(op, Gemm | GroupedGemm):
            found.update(dict.fromkeys(_borrowed(profile, op, kernels)))
        elif isinstance(op, AttentionOp) and KV_FORMATS[op.kv_dtype].expand:
            found[
                f"decode attention over {op.kv_dtype} KV was not measured: the 16-bit kernel with its bytes, and at "
                f"least what vector units at {REACHED:g} of their peak need to expand it (QServe's table)"
            ] = None
    return list(found)


def _borrowed(profile: HardwareProfile, op: Gemm | GroupedGemm, kernels: KernelModel) -> list[str]:
    names = priced_by(profile, op.weights)
    file = getattr(kernels, "file", None)
    if file is None or all(own for _, own in names):
        return []
    operator = "gemm" if isinstance(op, Gemm) else "grouped_gemm"
    name, own = next(((name, own) for name, own in names if file(operator, name) is not None), ("", True))
    if own or {op.weights, name} == {"fp8", "fp8-block"}:
        return []
    word = operator.replace("_", " ")
    return [f"{word} of {op.weights} was not measured: priced by that of {name} with its own bytes, as extrapolated"]
