"""How wrong the measured prices of an operator are known to be: errors that its kernel file carries.

Each fit was also made without a fifth of its shapes; the file holds the errors on those (``median`` and
``p90`` of the absolute relative error). An operator has the mean over the fits of its file, by rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from apexsim.cost.coefficients import KernelFile
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp, Collective, Exchange, Gemm, GroupedGemm, Operator
from apexsim.cost.precision import priced_by

ATTENTION_PHASES = ("decode", "prefill")


class HeldOut(NamedTuple):
    """Absolute relative errors of kernels on shapes that their fits had not seen."""

    median: float
    p90: float


def held_out(kernels: CalibratedKernels, operators: Iterable[Operator]) -> HeldOut | None:
    """The mean over the operators that were measured; None where none was."""
    found = [error for op in operators if (error := _of(kernels, op)) is not None]
    return _mean([(1, error) for error in found])


def _of(kernels: CalibratedKernels, op: Operator) -> HeldOut | None:
    """Of the files that price an operator."""
    files = [file for names in _names(kernels, op) if (file := _first(kernels, names)) is not None]
    errors = (
        (fit.rows, HeldOut(fit.held_out["median"], fit.held_out["p90"]))
        for file in files for fit in file.fits if fit.held_out.get("n")
    )  # fmt: skip
    return _mean(list(errors))


def _names(kernels: CalibratedKernels, op: Operator) -> list[list[tuple[str, str]]]:
    """For each kernel of an operator the (operator, dtype) of its files, best first."""
    if isinstance(op, Gemm | GroupedGemm):
        kind = "gemm" if isinstance(op, Gemm) else "grouped_gemm"
        return [[(kind, name) for name, _ in priced_by(kernels.profile, op.weights)]]
    if isinstance(op, AttentionOp):
        dtype = "fp8" if op.kv_dtype == "fp8" else "bf16"
        kinds = (f"mla_{phase}" if op.latent else f"{phase}_attention" for phase in ATTENTION_PHASES)
        return [[(kind, dtype)] for kind in kinds]
    if isinstance(op, Collective):
        return [[(op.kind, "bf16")]]
    if isinstance(op, Exchange):
        return [[(op.phase, carrier.dtype)] for carrier in (op.prefill, op.decode)]
    return []


def _first(kernels: CalibratedKernels, names: Iterable[tuple[str, str]]) -> KernelFile | None:
    return next((file for name in names if (file := kernels.file(*name)) is not None), None)


def _mean(errors: Sequence[tuple[int, HeldOut]]) -> HeldOut | None:
    total = sum(weight for weight, _ in errors)
    if not total:
        return None
    median = sum(weight * error.median for weight, error in errors) / total
    p90 = sum(weight * error.p90 for weight, error in errors) / total
    return HeldOut(median, p90)
