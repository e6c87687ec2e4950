"""Whether the simulation puts plans in the order in which they were measured, on each load that several plans served.

Rows are of one load where set, model, kind of device and requests are the same, or where they name the same
``workload``; rows that name the same ``plan`` of a workload are its replicas and stand for one plan, by their mean. A
pair whose measured values lie within a margin is a tie: nobody knows its order.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from apexsim.validation.case import Case
from apexsim.validation.facts import stated
from apexsim.validation.simulate import Compared, Outcome

MARGIN = 0.05
"""Measured values that differ by less are a tie: runs of one plan repeat within 2 to 5 %."""

SAME_REQUESTS = ("e2e_mean_s", "output_tokens_per_s")
"""What ranks plans that served the same requests: the first of these that every row has, else ``MEAN_E2E``."""

MEAN_E2E = "ttft_mean_s + (output_tokens - 1) · tpot_mean_s"
"""What stands in for the mean E2E: the time of a mean request."""

SAME_WORKLOAD = ("itl_mean_s", "tpot_mean_s")
"""What ranks plans of one workload, whose requests need not be the same ones: time per token."""

LOAD = ("load", "rate_rps", "burstiness_cv", "concurrency", "batch_size", "requests", "input_tokens", "output_tokens")

Member = tuple[Case, Outcome]


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """Plans under one load: pairs that are no tie, and those that the simulation orders as measured.

    Attributes:
        runs: names of the rows, plan by plan.
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
        """Kendall's tau over the pairs: (right - wrong) / pairs; None without a pair."""
        return (2 * self.right - self.pairs) / self.pairs if self.pairs else None


@dataclass(frozen=True, slots=True)
class _Load:
    """What rows must share to be compared."""

    set: str
    model: str
    device: str
    name: str
    is_workload: bool
    numbers: tuple[Any, ...] = ()
    requests: str = ""  # digest of the trace file


@dataclass(frozen=True, slots=True)
class RankedPlan:
    """A plan under one load: its figure (seconds or tokens/s, see ``RankedLoad.ranked_by``), the mean over its rows."""

    name: str
    devices: int
    tp: int
    measured: float
    simulated: float


@dataclass(frozen=True, slots=True)
class RankedLoad:
    """Plans that served one load. ``runs`` are all rows of it, plan by plan."""

    set: str
    model: str
    device: str
    load: str
    ranked_by: str
    runs: tuple[str, ...]
    plans: tuple[RankedPlan, ...]


def plan_orders(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> tuple[PlanOrder, ...]:
    """One entry for each load that at least two plans served, in the order of the rows.

    Args:
        outcomes: of the same runs, in the same order.
    """
    return tuple(_order(load) for load in ranked_loads(cases, outcomes))


def ranked_loads(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> tuple[RankedLoad, ...]:
    """Each load that at least two plans served, with their figures; arguments as of ``plan_orders``."""
    loads: dict[_Load, dict[str, list[Member]]] = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.skipped is None:
            load = _load(case)
            plans = loads.setdefault(load, {})
            plans.setdefault(_plan(case, load), []).append((case, outcome))
    found = (_ranked_load(load, plans) for load, plans in loads.items() if len(plans) > 1)
    return tuple(ranked for ranked in found if ranked is not None)


def _load(case: Case) -> _Load:
    row = case.row
    workload = row.get("workload") or (stated(row, "workload") or (None,))[0]
    same = (case.set, case.model.name, str(row.get("device")))
    if workload is not None:
        return _Load(*same, str(workload), is_workload=True)
    numbers = tuple(row.get(column) for column in LOAD)
    if case.load.trace is None:
        words = (f"{c} {v:g}" for c, v in zip(LOAD[1:], numbers[1:], strict=True) if v is not None)
        return _Load(*same, f"{case.load.kind}: {', '.join(words)}", is_workload=False, numbers=numbers)
    digest = hashlib.sha256(case.load.trace.read_bytes()).hexdigest()
    return _Load(*same, case.load.trace.name, is_workload=False, numbers=numbers, requests=digest)


def _plan(case: Case, load: _Load) -> str:
    named = case.row.get("plan") or (stated(case.row, "plan") or (None,))[0]
    return str(named) if load.is_workload and named else f"{case.plan.engine} {case.plan.id}"


def _ranked_load(load: _Load, plans: Mapping[str, list[Member]]) -> RankedLoad | None:
    members = [member for group in plans.values() for member in group]
    columns = SAME_WORKLOAD if load.is_workload else SAME_REQUESTS
    column = next((c for c in columns if all(c in outcome.metrics for _, outcome in members)), None)
    if column is None and load.is_workload:
        return None
    ranked = [_ranked(name, group, column) for name, group in plans.items()]
    return RankedLoad(
        load.set, load.model, load.device, load.name, column or MEAN_E2E, tuple(case.run for case, _ in members),
        tuple(one for one in ranked if one is not None),
    )  # fmt: skip


def _order(load: RankedLoad) -> PlanOrder:
    pairs = list(_verdicts(load.plans))
    equal = [right for right, same in pairs if same]
    return PlanOrder(
        load.set, load.load, load.runs, load.ranked_by, len(pairs), sum(right for right, _ in pairs), len(equal),
        sum(equal),
    )  # fmt: skip


def _ranked(name: str, group: list[Member], column: str | None) -> RankedPlan | None:
    """A plan's value, the mean over its rows; None where one of them has none."""
    values = [outcome.metrics.get(column) if column else _mean_e2e(case, outcome) for case, outcome in group]
    pairs = [(v.measured, v.simulated) for v in values if v is not None and v.simulated is not None]
    if len(pairs) < len(values):
        return None
    measured, simulated = (fmean(side) for side in zip(*pairs, strict=True))
    return RankedPlan(name, _devices(name, group), group[0][0].plan.pools[-1].tp, measured, simulated)


def _devices(name: str, group: list[Member]) -> int:
    """Devices of the whole plan: as its name says (a replica's row may be missing), else those of its rows."""
    degrees = re.fullmatch(r"(?:(\d+)DP)?(\d+)TP", name)
    if degrees:
        return math.prod(int(degree or 1) for degree in degrees.groups())
    return sum(case.plan.devices for case, _ in group)


def _mean_e2e(case: Case, outcome: Outcome) -> Compared | None:
    ttft, tpot = (outcome.metrics.get(name) for name in ("ttft_mean_s", "tpot_mean_s"))
    gaps = case.row.get("output_tokens")
    if ttft is None or tpot is None or gaps is None or ttft.simulated is None or tpot.simulated is None:
        return None
    return Compared(
        ttft.measured + (gaps - 1) * tpot.measured, ttft.simulated + (gaps - 1) * tpot.simulated
    )


def _verdicts(values: Sequence[RankedPlan]) -> Iterable[tuple[bool, bool]]:
    """(ordered as measured, equally many devices) of each pair that is no tie."""
    for a, b in combinations(values, 2):
        low, high = (a, b) if a.measured < b.measured else (b, a)
        if high.measured > low.measured * (1 + MARGIN):
            yield low.simulated < high.simulated, a.devices == b.devices
