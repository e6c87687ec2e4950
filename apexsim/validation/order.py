"""Whether the simulation puts plans in the order in which they were measured, on each load that several plans served.

Two rows are compared where set, model, kind of device and load are the same and the plan is not. A pair whose
measured values lie within a margin is a tie: nobody knows its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from apexsim.validation.case import Case
from apexsim.validation.simulate import Compared, Outcome

MARGIN = 0.05
"""Measured values that differ by less are a tie: runs of one plan repeat within 2 to 5 %."""

RANKED_BY = ("e2e_mean_s", "output_tokens_per_s")
"""The figure that ranks plans: the first of these that every row of a load has, else ``E2E``."""

E2E = "ttft_mean_s + tpot_mean_s"
"""What stands in for the mean E2E: the time of a mean request, TTFT + (output tokens - 1) · TPOT."""

LOAD = ("load", "rate_rps", "burstiness_cv", "concurrency", "batch_size", "requests", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """Plans on one load: pairs that are no tie, and those that the simulation orders as measured.

    Attributes:
        tau: Kendall's tau over these pairs: (right - wrong) / pairs; None without a pair.
        equal_pairs, equal_right: the same over pairs of plans with equally many devices.
    """

    set: str
    load: str
    runs: tuple[str, ...]
    ranked_by: str
    pairs: int
    right: int
    equal_pairs: int
    equal_right: int

    @property
    def tau(self) -> float | None:
        return (2 * self.right - self.pairs) / self.pairs if self.pairs else None


@dataclass(frozen=True, slots=True)
class _Ranked:
    devices: int
    compared: Compared


def plan_orders(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> tuple[PlanOrder, ...]:
    """One entry for each load that at least two plans served, in the order of the rows.

    Args:
        outcomes: of the same runs, in the same order.
    """
    loads: dict[tuple[Any, ...], list[tuple[Case, Outcome]]] = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.skipped is None:
            loads.setdefault(_load(case), []).append((case, outcome))
    found = (_order(key[-1], group) for key, group in loads.items())
    return tuple(order for order in found if order is not None)


def _load(case: Case) -> tuple[Any, ...]:
    """What rows must share to be compared; the last part names the load."""
    row = case.row
    numbers = tuple(row.get(column) for column in LOAD)
    if case.load.trace is None:
        words = ", ".join(f"{c} {v}" for c, v in zip(LOAD[1:], numbers[1:], strict=True) if v is not None)
        name = f"{row.get('load')} ({words})"
    else:
        name = hashlib.sha256(case.load.trace.read_bytes()).hexdigest()
    return (case.set, case.model.name, row.get("device"), numbers, name)


def _order(load: str, group: list[tuple[Case, Outcome]]) -> PlanOrder | None:
    if len({case.plan.id + str(case.plan.engine) for case, _ in group}) < 2:
        return None
    column = next((c for c in RANKED_BY if all(c in outcome.metrics for _, outcome in group)), E2E)
    ranked = [_ranked(case, outcome, column) for case, outcome in group]
    if any(value is None for value in ranked):
        return None
    pairs = list(_verdicts([value for value in ranked if value is not None]))
    equal = [right for right, same in pairs if same]
    first = group[0][0]
    return PlanOrder(
        first.set, first.load.trace.name if first.load.trace else load, tuple(case.run for case, _ in group), column,
        len(pairs), sum(right for right, _ in pairs), len(equal), sum(equal),
    )  # fmt: skip


def _ranked(case: Case, outcome: Outcome, column: str) -> _Ranked | None:
    if column in outcome.metrics:
        return _Ranked(case.plan.devices, outcome.metrics[column])
    ttft, tpot = (outcome.metrics.get(name) for name in ("ttft_mean_s", "tpot_mean_s"))
    tokens = case.row.get("output_tokens")
    if ttft is None or tpot is None or tokens is None:
        return None
    simulated = None
    if ttft.simulated is not None and tpot.simulated is not None:
        simulated = ttft.simulated + (tokens - 1) * tpot.simulated
    return _Ranked(case.plan.devices, Compared(ttft.measured + (tokens - 1) * tpot.measured, simulated))


def _verdicts(values: list[_Ranked]) -> Iterable[tuple[bool, bool]]:
    """(ordered as measured, equally many devices) of each pair that is no tie."""
    for a, b in combinations(values, 2):
        (low, high) = sorted((a, b), key=lambda value: value.compared.measured)
        if high.compared.measured <= low.compared.measured * (1 + MARGIN):
            continue
        if low.compared.simulated is None or high.compared.simulated is None:
            continue
        yield low.compared.simulated < high.compared.simulated, a.devices == b.devices
