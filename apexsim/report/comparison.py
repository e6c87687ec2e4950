"""``ax.compare``: two plans, or two results, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apexsim.errors import UsageError
from apexsim.metrics.compare import Change, compare_values, with_intervals
from apexsim.metrics.compare import compare as compare_summaries
from apexsim.metrics.fleet import FleetUse
from apexsim.metrics.metric import Direction
from apexsim.report import plots
from apexsim.report.answer import Answer
from apexsim.report.pairing import Paired, paired, served
from apexsim.report.side import PLAN, VALIDATION, Side, read_side
from apexsim.report.simulation import (
    Conditions,
    PlanLike,
    as_plan,
    as_slo,
    as_trace,
    prepared_plan,
    simulate_under,
)
from apexsim.report.tables import UNDEFINED, Table, comparison_table
from apexsim.report.what_if import HEADLINE
from apexsim.spec.slo import SLO
from apexsim.workload.load import Load
from apexsim.workload.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AT_GOODPUT = (("goodput_rps", "goodput"), ("goodput_rps_per_device", "goodput per device"))
"""What the best plan of a search is worth, beside its summary: key, title."""

ERRORS = ("n", "median_abs_error", "p90_abs_error", "worst_abs_error", "bias")
"""Statistics of a validation's metric that are compared."""

FLEET: dict[str, tuple[str, str, Direction]] = {
    "serving_mean": ("replicas that serve, mean", "replicas", "none"),
    "device_hours": ("device-hours", "h", "down"),
    "failures": ("failures", "count", "down"),
    "retries": ("requests offered again", "count", "down"),
    "failed_requests": ("requests that failed", "count", "down"),
    "slowed_s": ("busy time due to stragglers", "s", "down"),
}
"""Of the life of a fleet: key of ``fleet`` in the summary -> title, unit, direction."""

RANKED = 10
"""Plans of each search that the table of ranks shows."""


@dataclass(frozen=True)
class Comparison(Answer):
    """Two sides. ``rows`` are their metrics, ``plan_rows`` the keys in which their plans differ."""

    base: Side
    other: Side

    @cached_property
    def rows(self) -> tuple[Change, ...]:
        """Every registered metric of both runs; of two searches those of their best plans; of two validations
        the errors by metric."""
        if self.base.kind == VALIDATION:
            return tuple(_error_changes(self.base.errors, self.other.errors))
        if self.base.summary is None or self.other.summary is None:
            return ()
        changes = compare_summaries(self.base.summary, self.other.summary)
        return (
            *self._goodput_rows(), *with_intervals(changes, self.paired.intervals),
            *_fleet_changes(self.base.summary.fleet, self.other.summary.fleet),
        )  # fmt: skip

    @cached_property
    def paired(self) -> Paired:
        """Intervals of the differences, where both ran the same requests."""
        return paired(self.base.requests, self.other.requests)

    def _goodput_rows(self) -> Iterator[Change]:
        before, after = (next(iter(side.ranking.values()), None) for side in (self.base, self.other))
        if before is not None and after is not None:
            for key, title in AT_GOODPUT:
                yield compare_values(key, title, "req/s", "up", before.get(key), after.get(key))

    @cached_property
    def plan_rows(self) -> tuple[tuple[str, str, str], ...]:
        """(key, value before, value after) of every key in which the plans differ; empty where one is not known."""
        if self.base.plan is None or self.other.plan is None:
            return ()
        before, after = dict(_flat(self.base.plan)), dict(_flat(self.other.plan))
        keys = [*before, *(key for key in after if key not in before)]
        pairs = ((key, before.get(key, UNDEFINED), after.get(key, UNDEFINED)) for key in keys)
        return tuple((key, _text(b), _text(a)) for key, b, a in pairs if b != a)

    @property
    def heading(self) -> str:
        alike = self.base.plan is not None and self.base.plan == self.other.plan
        return f"A: {self.base.name}\nB: {self.other.name}" + ("\nThe plans are the same." if alike else "")

    @property
    def tables(self) -> tuple[Table, ...]:
        tables = [Table("The plans differ in", ("", "A", "B"), self.plan_rows)] if self.plan_rows else []
        if self.base.ranking and self.other.ranking:
            tables.append(_rank_table(self.base.ranking, self.other.ranking))
        note = "" if self.base.kind == VALIDATION else self.paired.note
        return (*tables, comparison_table(self.rows, "A", "B", note))

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim compare``."""
        plan = {key: {"a": before, "b": after} for key, before, after in self.plan_rows}
        metrics = {
            row.tag: {
                "a": row.base, "b": row.other, "relative": row.relative, "verdict": row.verdict,
                "difference_ci": None if row.interval is None else list(row.interval),
            }
            for row in self.rows
        }  # fmt: skip
        drawn = {} if self.base.kind == VALIDATION else {"intervals": self.paired.to_dict()}
        return {"a": self.base.name, "b": self.other.name, "plan": plan, "metrics": metrics} | drawn

    def to_pandas(self) -> pd.DataFrame:
        """One row a metric: tag (the index), title, unit, better, base, other, relative, verdict."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("tag")

    def plot_changes(self, ax: Axes | None = None) -> Axes:
        """Relative change of the headline metrics; green is better, orange worse."""
        return plots.changes(tuple(row for row in self.rows if row.tag in HEADLINE), "A", "B", ax)


def compare(
    a: PlanLike,
    b: PlanLike,
    trace: Trace | str | Path | None = None,
    slo: SLO | str | None = None,
    *,
    rate: float | None = None,
    rate_scale: float | None = None,
    concurrency: int | None = None,
    requests: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Lay two plans, or two results, side by side.

    Args:
        a, b: a plan (a file, a mapping, a ``Plan``), the JSON of ``simulate``, ``search`` or ``validate``, or the
            folder of a search, for which its best plan stands.
        trace: what plans are simulated under; needed where one side is a plan.
        slo, rate, rate_scale, concurrency, requests, seed: of that simulation, as in ``simulate``.

    Raises:
        UsageError: a plan without a trace, a condition without a plan, or two kinds that share no metric.
        InputError: a file that cannot be read. NoFeasiblePlan: a plan does not fit.
    """
    sides = (_side(a), _side(b))
    kinds = [side.kind for side in sides]
    if kinds.count(VALIDATION) == 1:
        raise UsageError(f"{sides[0].name} is {kinds[0]}, {sides[1].name} is {kinds[1]}: they share no metric")
    if PLAN not in kinds:
        if any(given is not None for given in (trace, slo, rate, rate_scale, concurrency, requests)):
            raise UsageError("a trace, its load and an SLO are for plans: both sides are results, which have run")
        return Comparison(*sides)
    if trace is None:
        name = sides[kinds.index(PLAN)].name
        raise UsageError(f"{name} is a plan: name the trace that it runs under, or compare the JSON files of two runs")
    conditions = Conditions(as_slo(slo), Load(rate, rate_scale, concurrency, requests), seed=seed)
    arriving = as_trace(trace)
    return Comparison(_run(sides[0], a, arriving, conditions), _run(sides[1], b, arriving, conditions))


def _side(given: PlanLike) -> Side:
    if isinstance(given, str | Path):
        return read_side(given)
    return Side(as_plan(given).id, PLAN)


def _run(side: Side, plan: PlanLike, trace: Trace, conditions: Conditions) -> Side:
    """The side with the summary of its plan under ``trace``; a result is what it was."""
    if side.kind != PLAN:
        return side
    report = simulate_under(prepared_plan(plan), trace, conditions)
    declared, requests = report.plan.model_dump(mode="json"), served(report.to_pandas())
    return replace(side, summary=report.summary, plan=declared, requests=requests)


def _fleet_changes(base: FleetUse | None, other: FleetUse | None) -> Iterator[Change]:
    """What happened to replicas, where some came or went in one of the runs."""
    if base is not None or other is not None:
        for key, (title, unit, better) in FLEET.items():
            before, after = (None if use is None else float(getattr(use, key)) for use in (base, other))
            yield compare_values(f"fleet_{key}", title, unit, better, before, after)


def _flat(data: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``pools[0].tp`` and its value, for every leaf."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, list) and data and isinstance(data[0], Mapping | list):
        for index, value in enumerate(data):
            yield from _flat(value, f"{key}[{index}]")
    else:
        yield key, data


def _text(value: Any) -> str:
    return "default" if value is None else str(value)


def _rank_table(base: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> Table:
    """The best plans of either search, with their rank and goodput in both."""
    shown = [*list(base)[:RANKED], *(plan for plan in list(other)[:RANKED] if plan not in list(base)[:RANKED])]
    ranks = [{plan: place for place, plan in enumerate(side, start=1)} for side in (base, other)]

    def cells(plan: str) -> tuple[str, ...]:
        rank = [str(side[plan]) if plan in side else UNDEFINED for side in ranks]
        goodput = [f"{side[plan]['goodput_rps']:.4g}" if plan in side else UNDEFINED for side in (base, other)]
        return (plan, *rank, *goodput)

    header = ("", "rank A", "rank B", "req/s A", "req/s B")
    return Table("Ranks and goodput of the best plans", header, tuple(cells(plan) for plan in shown))


def _error_changes(
    base: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]
) -> Iterator[Change]:
    for metric in (*base, *(name for name in other if name not in base)):
        for name in ERRORS:
            before, after = (side.get(metric, {}).get(name) for side in (base, other))
            # More runs are neither, and a bias is no better for being lower.
            better: Direction = "none" if name in ("n", "bias") else "down"
            title, unit = f"{metric} {name.replace('_', ' ')}", "count" if name == "n" else "share"
            yield compare_values(f"{metric}_{name}", title, unit, better, before, after)
