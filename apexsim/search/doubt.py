"""How wrong the step times of a plan may be, and how much of that another plan shares.

    ln c = σ_E · Z(engine on device, format of the weights)             what all plans of them have in common
         + Σ_part share · measured · σ_part · Z(kernels of the part)    held-out errors of the kernel files
         + √(σ_P² − of the kernels) · Z(replica)                        what else is left between unlike replicas
         + unmeasured · σ_A · Z(roofline of the device)
         + extrapolated · σ_X · Z(replica, beyond)

c multiplies all times of the plan. Every Z is a standard normal that all plans of the same name share: plans that run
the same kernels are wrong together, and their order hangs only on what differs. ``share`` is a part's share of the
busy time, ``measured``, ``unmeasured`` and ``extrapolated`` are the fractions of ``confidence`` in the summary. The
errors of kernels of one part count as one (as if all of its shapes were wrong alike), those of different parts as
independent.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from apexsim.cost.held_out import HeldOut, held_out
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp, Collective, Exchange, GroupedGemm, Operator, Recurrence
from apexsim.scenario import Prepared
from apexsim.spec.plan import Pool
from apexsim.techniques.images import Encoders

NORMAL_MEDIAN, NORMAL_P90 = 0.6745, 1.6449
"""Of the absolute value of a standard normal: what turns a median and a p90 of errors into a standard deviation."""

ALL_SD = 0.064 / NORMAL_MEDIAN
"""Of one plan in all: the median absolute error of TPOT over all validation sets is 6.4 % (docs/validation.md)."""

REPLICA_SD = 0.065
"""σ_P: by 1,461 pairs of measured plans of one load, engine and format of weights in ``closed-loop-grid``
(benchmarks/ranking_errors.py). In ``apex-h100-llama70b``, on which terms were fitted, it is 1.5 % of 100 pairs."""

ENGINE_SD = (ALL_SD**2 - REPLICA_SD**2) ** 0.5
"""σ_E: the rest. Pairs of unlike weights differ even more (14 %, 472 pairs), so formats share nothing of it."""

ANALYTIC_SD = 0.21
"""σ_A: root mean square of ln(analytic ÷ calibrated) over steps of 8, 64 and 256 sequences and of full prompts, of 36
pairs of a measured device and a model (benchmarks/ranking_errors.py)."""

Doubt = Mapping[str, float]
"""Name of a source of error -> standard deviation of its part of ln c."""


def doubt_of(prepared: Prepared, summary: Mapping[str, Any]) -> Doubt:
    """The sources of error of a plan, by the replay that ``summary`` (the JSON) is of."""
    pools = prepared.parts or (prepared,)
    everyone: list[Prepared | Encoders] = [*pools, *prepared.encoders]
    devices = "+".join(dict.fromkeys(pool.profile.name for pool in everyone))
    formats = "+".join(dict.fromkeys(str(pool.pool.weights) for pool in pools))
    replicas = "+".join(replica_of(pool.pool) for pool in everyone)
    measured = summary["confidence"]["calibrated_fraction"] or 0.0
    beyond = summary["confidence"]["extrapolated_fraction"] or 0.0
    found: dict[str, float] = {}
    worst = 0.0
    for pool in pools:
        weight = measured * pool.pool.devices / prepared.plan.devices
        for part, (name, error) in _kernels(pool).items():
            share = weight * _share(summary["breakdown_s"], part)
            found[name] = found.get(name, 0.0) + share * error.median / NORMAL_MEDIAN
            worst = max(worst, error.p90 / NORMAL_P90)
    of_kernels = sum(sd**2 for sd in found.values())
    found[f"engine {prepared.plan.engine} on {devices}, {formats} weights"] = ENGINE_SD
    found[f"replica {replicas}"] = max(REPLICA_SD**2 - of_kernels, 0.0) ** 0.5
    found[f"roofline of {devices}"] = (1.0 - measured) * ANALYTIC_SD
    found[f"beyond {replicas}"] = beyond * worst
    return {name: sd for name, sd in found.items() if sd > 0}


def replica_of(pool: Pool) -> str:
    """What plans of equal kernels have in common: everything of a pool but its replicas and its scheduler."""
    alone = pool.model_dump(mode="json", exclude={"replicas", "scheduler"}, exclude_defaults=True)
    return f"{zlib.crc32(repr(sorted(alone.items())).encode()):08x}"


def operators_by_part(pool: Prepared) -> dict[str, list[Operator]]:
    """The operators of all stages of a pool under the parts of ``breakdown_s``."""
    found: dict[str, list[Operator]] = {}
    parts = pool.compiled.parts
    for op in dict.fromkeys(op for operators in (*parts.stages, parts.head_ops) for op in operators):
        found.setdefault(_part(op), []).append(op)
    return found


def _kernels(pool: Prepared) -> dict[str, tuple[str, HeldOut]]:
    """Part -> the name of its kernels, and their errors; only parts of which something was measured."""
    kernels = CalibratedKernels(pool.profile, pool.plan.engine)
    found = {}
    for part, operators in operators_by_part(pool).items():
        error = held_out(kernels, operators)
        if error is not None:
            digest = zlib.crc32(repr(sorted(map(repr, operators))).encode())
            found[part] = (f"kernels {part} {digest:08x} on {pool.profile.name}", error)
    return found


def _part(op: Operator) -> str:
    if isinstance(op, AttentionOp | Recurrence):
        return "attention"
    if isinstance(op, GroupedGemm):
        return "moe"
    return "communication" if isinstance(op, Collective | Exchange) else "gemm"


def _share(breakdown_s: Mapping[str, float], part: str) -> float:
    busy_s = sum(seconds for name, seconds in breakdown_s.items() if name != "idle")
    return breakdown_s.get(part, 0.0) / busy_s if busy_s else 0.0
