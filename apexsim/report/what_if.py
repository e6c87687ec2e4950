"""``ax.what_if``: the same plan with some keys changed, under the same trace, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apexsim.errors import UsageError, unknown_name
from apexsim.metrics.compare import Change, compare, with_intervals
from apexsim.report import plots
from apexsim.report.console import render
from apexsim.report.markup import tables_html
from apexsim.report.pairing import Paired, paired, served
from apexsim.report.simulation import (
    Conditions,
    PlanLike,
    SimulationReport,
    as_slo,
    as_trace,
    prepared_plan,
    simulate_under,
)
from apexsim.report.tables import Table, comparison_table
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.spec.slo import SLO
from apexsim.workload.load import Load
from apexsim.workload.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Group

LOAD_KEYS = {"rate": "rate_rps", "rate_scale": "rate_scale", "concurrency": "concurrency", "requests": "requests"}
CONDITION_KEYS = ("price", "carbon", "seed", "warmup")
PLAN_KEYS = tuple(key for key in Plan.model_fields if key != "pools")
POOL_KEYS = tuple(key for key in Pool.model_fields if key not in ("scheduler", "device"))
SCHEDULER_KEYS = tuple(Scheduler.model_fields)
KNOWN = ("device", *PLAN_KEYS, *POOL_KEYS, *SCHEDULER_KEYS, *LOAD_KEYS, *CONDITION_KEYS)
"""Every key that can be changed. ``device`` puts another device into the cluster, with as many of them."""

HEADLINE = (
    "ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "e2e_p50", "e2e_p99", "attainment", "output_tokens_per_s",
    "kv_peak", "j_per_output_token", "usd_per_million_output_tokens",
)
"""Metrics of the picture; the table has all."""


@dataclass(frozen=True)
class WhatIf:
    """A base run and one with ``changes``; every registered metric of both."""

    base: SimulationReport
    other: SimulationReport
    changes: dict[str, Any]

    @cached_property
    def rows(self) -> tuple[Change, ...]:
        return with_intervals(compare(self.base.summary, self.other.summary), self.paired.intervals)

    @cached_property
    def paired(self) -> Paired:
        """Intervals of the differences, where both served the same requests."""
        return paired(served(self.base.to_pandas()), served(self.other.to_pandas()))

    @property
    def heading(self) -> str:
        changed = ", ".join(f"{key}={value}" for key, value in self.changes.items())
        return f"What if {changed}? {self.base.heading}"

    def to_pandas(self) -> pd.DataFrame:
        """One row a metric: tag (the index), title, unit, better, base, other, relative, verdict, interval."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("tag")

    def plot_changes(self, tags: Iterable[str] = HEADLINE, ax: Axes | None = None) -> Axes:
        """Relative change of some metrics; green is better, orange worse."""
        wanted = list(tags)
        drawn = tuple(row for row in self.rows if row.tag in wanted)
        return plots.changes(drawn, "base", "changed", ax)

    def plot_latency(self, metric: str = "ttft", ax: Axes | None = None) -> Axes:
        """Share of requests up to each latency, both runs in one picture: ttft, tpot, e2e, queue or itl_max."""
        runs = {"base": self.base.result, "changed": self.other.result}
        return plots.overlaid_latency(runs, metric, ax)

    def __rich__(self) -> Group:
        return render((self._table(),))

    def _repr_html_(self) -> str:
        return tables_html(self.heading, (self._table(),))

    def _table(self) -> Table:
        return comparison_table(self.rows, "base", "changed", self.paired.note)


def what_if(
    base: SimulationReport | PlanLike,
    trace: Trace | str | Path | None = None,
    slo: SLO | str | None = None,
    **changes: Any,
) -> WhatIf:
    """Simulate a plan as it is and with ``changes``, under the same trace.

        ax.what_if("plan.yaml", trace="burstgpt-day", tp=4, kv_cache="fp8")
        ax.what_if(ax.simulate("plan.yaml", "burstgpt-day"), rate=10)

    Args:
        base: a plan, or the report of a run, which brings its own trace and conditions.
        changes: keys of a pool (tp, pp, replicas, weights, kv_cache, …), of its scheduler (max_num_seqs, …), of the
            plan (router, cluster, model, …), of the load (rate, rate_scale, concurrency, requests), price, carbon,
            seed, warmup, or ``device``.

    Raises:
        UsageError: an unknown key or value. NoFeasiblePlan: the changed plan does not fit.
    """
    if not changes:
        raise UsageError(f"what_if needs at least one change (allowed: {', '.join(KNOWN)})")
    unknown = next((key for key in changes if key not in KNOWN), None)
    if unknown is not None:
        raise UsageError(unknown_name("change", unknown, KNOWN))
    run = _base_run(base, trace, slo)
    prepared = run.prepared
    if set(changes) - {*LOAD_KEYS, *CONDITION_KEYS}:
        prepared = prepared_plan(changed_plan(run.plan, changes), source="changed plan")
    other = simulate_under(prepared, run.trace, _changed_conditions(run.conditions, changes))
    return WhatIf(run, other, changes)


def changed_plan(plan: Plan, changes: dict[str, Any]) -> Plan:
    """The plan with every key that belongs to a plan replaced; the rest of ``changes`` is not looked at."""
    data = plan.model_dump(mode="json", exclude_unset=True)
    pool = data["pools"][0]
    scheduler = pool.setdefault("scheduler", {})
    for section, keys in ((data, PLAN_KEYS), (pool, POOL_KEYS), (scheduler, SCHEDULER_KEYS)):
        section |= {key: value for key, value in changes.items() if key in keys}
    if "device" in changes:
        pool.pop("device", None)
        data["cluster"]["device"] = changes["device"]
    return parse(Plan, data, source="changed plan", error=UsageError)


def _base_run(
    base: SimulationReport | PlanLike, trace: Trace | str | Path | None, slo: SLO | str | None
) -> SimulationReport:
    limits = as_slo(slo)
    if not isinstance(base, SimulationReport):
        if trace is None:
            raise UsageError("what_if of a plan needs a trace (a path, or the name of a bundled trace)")
        return simulate_under(prepared_plan(base), as_trace(trace), Conditions(limits))
    if trace is None and limits is None:
        return base
    conditions = base.conditions if limits is None else replace(base.conditions, slo=limits)
    return simulate_under(base.prepared, base.trace if trace is None else as_trace(trace), conditions)


def _changed_conditions(conditions: Conditions, changes: dict[str, Any]) -> Conditions:
    load = {field: changes[key] for key, field in LOAD_KEYS.items() if key in changes}
    if load.keys() & {"rate_rps", "rate_scale", "concurrency"}:
        # another way to offer the trace replaces the old one, it does not join it
        load = {"requests": conditions.load.requests} | load
        changed = Load(**load)
    else:
        changed = replace(conditions.load, **load)
    return replace(conditions, load=changed, **{key: changes[key] for key in CONDITION_KEYS if key in changes})
