"""``ax.simulate``: one plan under one trace, and what a notebook wants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apexsim import scenario
from apexsim.cost.memory import DoesNotFit
from apexsim.engine.result import (
    COMPLETED,
    FAILED_NOBODY,
    FAILED_REPLICA,
    REJECTED_CONTEXT,
    REJECTED_KV,
    REJECTED_LATE,
    REJECTED_QUEUE,
    REJECTED_WAIT,
    Encoded,
    SimulationResult,
    Transfers,
)
from apexsim.errors import NoFeasiblePlan, UsageError
from apexsim.metrics.attainment import keeps
from apexsim.metrics.goodput import WARMUP
from apexsim.metrics.latency import latencies
from apexsim.metrics.summary import Prices, Summary
from apexsim.report import perfetto, plots
from apexsim.report.console import render
from apexsim.report.fleet_tables import fleet_tables
from apexsim.report.markup import tables_html
from apexsim.report.perfetto import Thinned
from apexsim.report.pool_tables import pool_tables
from apexsim.report.tables import Table, summary_tables
from apexsim.scenario import Prepared
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.files import write_atomically
from apexsim.spec.plan import Plan
from apexsim.spec.slo import SLO
from apexsim.techniques.images import as_prefilled
from apexsim.workload.load import Load
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.visual import has_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group

PlanLike = Plan | Mapping[str, Any] | str | Path
"""A plan, a mapping as in a plan file, or the path of one."""

STATUS = ("completed", "rejected", "failed", "in_flight")
REASON = {
    REJECTED_CONTEXT: "longer than the context window", REJECTED_KV: "longer than the KV cache",
    REJECTED_QUEUE: "too many were waiting", REJECTED_WAIT: "waited too long",
    REJECTED_LATE: "too late for its deadline", FAILED_REPLICA: "its replica failed once too often",
    FAILED_NOBODY: "no replica was left",
}  # fmt: skip


def adapter_names(adapter: NDArray[np.int64], trace: Trace) -> list[str]:
    """Names of the trace where it has some, else numbers; "" for the base model."""
    names = trace.adapters if trace.adapter_code is not None else None
    return ["" if a < 0 else names[a] if names is not None else str(a) for a in adapter.tolist()]


def transfer_columns(transfers: Transfers, numbers: Sequence[int]) -> dict[str, Any]:
    """When each request's KV went from pool to pool, and where to; NaN and -1 where it never did.

    Args:
        numbers: of the engine's pools in the plan, where one that encodes may stand before them.
    """
    pool = np.append(np.array(numbers, np.int64), -1)[transfers.pool]
    return {
        "decode_pool": pool, "decode_replica": transfers.replica, "prefilled_s": transfers.left_s,
        "reserved_s": transfers.reserved_s, "landed_s": transfers.landed_s, "kv_bytes": transfers.size_bytes,
    }


def image_columns(encoded: Encoded) -> dict[str, Any]:
    """Slices of each request, and when they were preprocessed, encoded and where it is prefilled; NaN where never."""
    columns = {"images": encoded.images, "prepared_s": encoded.prepared_s}
    if encoded.units:
        columns |= {"encoded_s": encoded.encoded_s, "embedded_s": encoded.landed_s}
    return columns


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a plan is simulated, beside the trace.

    Attributes:
        load: how the trace is offered.
        price: USD per device-hour; the profile's where None.
        carbon: g CO2e per kWh; no carbon figure where None.
        warmup: leave the first 10 % of the time of arrivals out of latencies and SLO.
        timeline: keep every iteration, for ``write_timeline``.
    """

    slo: SLO | None = None
    load: Load = field(default_factory=Load)
    price: float | None = None
    carbon: float | None = None
    seed: int = 0
    warmup: bool = False
    timeline: bool = False


@dataclass(frozen=True)
class SimulationReport:
    """What one plan does under one trace.

    Attributes:
        prepared: the plan, its model, device and compiled cost.
        trace: the requests as they were read, before ``conditions.load`` was applied.
        summary: the figures; ``summary.to_dict()`` is the JSON of ``apexsim simulate``.
        result: every request, the gaps between tokens and the engine's counters.
    """

    prepared: Prepared
    trace: Trace
    conditions: Conditions
    summary: Summary
    result: SimulationResult

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    @property
    def heading(self) -> str:
        stand = dict(zip(self._numbers, self.prepared.parts or (self.prepared,), strict=True))
        pools = [stand.get(k) or self.prepared.encoders[0] for k in range(len(self.plan.pools))]
        devices = " and ".join(f"{each.plan.devices} × {each.profile.name}" for each in pools)
        return f"{self.prepared.model.name} on {devices} ({self.plan.id})"

    @property
    def _numbers(self) -> list[int]:
        """Of the pools that the engine runs, in the plan: all but the one that encodes."""
        return [k for k, pool in enumerate(self.plan.pools) if pool.role != "encode"]

    @property
    def offered(self) -> str:
        """One line: the load that the plan was under."""
        trace, load = self.conditions.load.of(self.trace), self.conditions.load
        if load.concurrency is not None:
            how = f"{load.concurrency} in flight"
        else:
            how = f"{trace.rate_rps:.4g} requests/s" if trace.span_s > 0 else "all at once"
        tokens = f"{_input_tokens(as_prefilled(self.plan, self.prepared.model, trace))} and"
        return (
            f"{len(trace):,} requests of {trace.name}, {how}; mean {tokens} {trace.output_tokens.mean():,.0f} output "
            "tokens"
        )

    def to_dict(self) -> dict[str, Any]:
        """The summary JSON, and the plan that it is of."""
        return self.summary.to_dict() | {"plan": self.plan.model_dump(mode="json")}

    def to_pandas(self) -> pd.DataFrame:
        """One row a request, in the order of the trace: instants and latencies in s, NaN where undefined."""
        requests, per_request = self.result.requests, latencies(self.result.requests)
        columns = {
            "arrival_s": requests.arrival_s,
            "start_s": requests.start_s,
            "first_token_s": requests.first_token_s,
            "finish_s": requests.finish_s,
            "input_tokens": requests.input_tokens,
            "output_tokens": requests.output_tokens,
            "status": pd.Categorical.from_codes(requests.status, pd.Index(STATUS)),
            "reason": [REASON.get(code, "") for code in requests.reason.tolist()],
            "replica": requests.replica,
            "preemptions": requests.preemptions,
            "cached_tokens": requests.cached_tokens,
            "queue_s": per_request.queue_s,
            "ttft_s": per_request.ttft_s,
            "tpot_s": per_request.tpot_s,
            "itl_max_s": per_request.itl_max_s,
            "e2e_s": per_request.e2e_s,
        }
        slo = self.conditions.slo
        if slo is not None and slo.mode == "joint":
            completed = requests.status == COMPLETED
            kept = [keeps(limit, per_request, completed) for limit in slo.limits]
            columns["within_slo"] = np.logical_and.reduce(kept)
        if requests.adapter is not None:
            columns["adapter"] = adapter_names(requests.adapter, self.trace)
        if requests.attempts is not None:
            columns["attempts"] = requests.attempts
        if self.result.transfers is not None and (len(self.plan.pools) > 1 or self.plan.fleet is not None):
            columns |= transfer_columns(self.result.transfers, self._numbers)
        if self.result.encoded is not None:
            columns |= image_columns(self.result.encoded)
        return pd.DataFrame(columns)

    def write_timeline(self, path: Path | str) -> Thinned:
        """Iterations, requests, transfers, queues and KV as a trace that Perfetto opens; gzipped where ``path`` says
        .gz. Returns what stands in it.

        Raises:
            UsageError: it was simulated without ``timeline``, or ``path`` cannot be written.
        """
        if self.result.timeline is None:
            raise UsageError("write_timeline: simulate with timeline=True first")
        pools = [f"pool {k}: {self.plan.pools[k].role}" for k in self._numbers]
        text, thinned = perfetto.trace_text(self.result, pools, self.heading)
        write_atomically(path, perfetto.packed(text) if str(path).endswith(".gz") else text)
        return thinned

    def plot_latency(self) -> Figure:
        """Share of requests up to each TTFT, TPOT and E2E, with the limits of the SLO."""
        return plots.latency(latencies(self.result.requests), self.conditions.slo)

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Requests that wait and that run, over time."""
        return plots.timeline(self.result.requests, ax)

    def plot_breakdown(self, ax: Axes | None = None) -> Axes:
        """Where the replicas' time goes."""
        return plots.breakdown(self.summary.breakdown_s, ax)

    def __rich__(self) -> Group:
        return render(self._tables())

    def _repr_html_(self) -> str:
        return tables_html(self.heading, self._tables())

    def _tables(self) -> tuple[Table, ...]:
        summary = self.summary
        return (
            *summary_tables(summary, self.conditions.slo), *pool_tables(summary), *fleet_tables(summary),
        )  # fmt: skip


def _input_tokens(trace: Trace) -> str:
    """The mean prompt of a trace as it is prefilled, and how much of it is images."""
    mean = f"{trace.input_tokens.mean():,.0f} input"
    if trace.images is None or trace.visual_tokens is None or not has_images(trace):
        return mean
    visual = float((trace.images * trace.visual_tokens).mean())
    return f"{mean} ({visual:,.0f} of them of {trace.images.mean():.3g} image slices)"


def simulate(
    plan: PlanLike,
    trace: Trace | str | Path,
    slo: SLO | str | None = None,
    *,
    rate: float | None = None,
    rate_scale: float | None = None,
    concurrency: int | None = None,
    requests: int | None = None,
    price: float | None = None,
    carbon: float | None = None,
    seed: int = 0,
    warmup: bool = False,
    timeline: bool = False,
) -> SimulationReport:
    """What ``plan`` does under ``trace``.

    Args:
        trace: a trace, the path of one, or the name of a bundled one.
        slo: ``ttft=2s,tpot=100ms@0.9`` or ``ttft:p99<=500ms;tpot:p95<=50ms``.
        rate: requests/s; ``rate_scale`` is a factor on the trace's own rate, ``concurrency`` a closed loop.
        requests: only this many of the first requests.
        price: USD per device-hour; the profile's where None. carbon: g CO2e per kWh.
        warmup: leave the first 10 % of the time of arrivals out of latencies and SLO.
        timeline: keep every iteration, for ``write_timeline``.

    Raises:
        NoFeasiblePlan: the plan does not fit; the message says by how much and where it would.
        UsageError, InputError: a name, an SLO, a file or a plan that cannot be.
    """
    limits = as_slo(slo)
    load = Load(rate, rate_scale, concurrency, requests)
    conditions = Conditions(limits, load, price, carbon, seed, warmup, timeline)
    return simulate_under(prepared_plan(plan), as_trace(trace), conditions)


def simulate_under(prepared: Prepared, trace: Trace, conditions: Conditions) -> SimulationReport:
    """The same with everything resolved: what the command line and ``what_if`` call."""
    known = prepared.price_usd_per_hour if conditions.price is None else conditions.price
    run = scenario.run(
        prepared, conditions.load.of(trace), slo=conditions.slo, prices=Prices(known, conditions.carbon),
        seed=conditions.seed, concurrency=conditions.load.concurrency,
        warmup=WARMUP if conditions.warmup else 0.0, timeline=conditions.timeline,
    )
    return SimulationReport(prepared, trace, conditions, run.summary, run.result)


def prepared_plan(plan: PlanLike, source: str | None = None) -> Prepared:
    """A plan that fits, compiled; ``source`` is what messages call it.

    Raises:
        NoFeasiblePlan: it does not fit.
    """
    source = source or (str(plan) if isinstance(plan, str | Path) else "plan")
    declared = as_plan(plan)
    prepared = scenario.prepare(declared, source=source)
    if isinstance(prepared, DoesNotFit):
        raise NoFeasiblePlan(f"{source}: {prepared.reason}{_where(declared, prepared)}")
    return prepared


def as_plan(plan: PlanLike) -> Plan:
    """A plan from whatever stands for one."""
    if isinstance(plan, Plan):
        return plan
    return parse(Plan, plan, source="plan") if isinstance(plan, Mapping) else catalog.load_plan(plan)


def as_trace(trace: Trace | str | Path) -> Trace:
    """A trace from whatever stands for one."""
    return trace if isinstance(trace, Trace) else read_trace(trace)


def as_slo(slo: SLO | str | None) -> SLO | None:
    """An SLO from its text, or from the path of a file that declares it."""
    return catalog.slo(slo) if isinstance(slo, str) else slo


def _where(plan: Plan, miss: DoesNotFit) -> str:
    """At which tp the plan would fit its cluster; nothing where more devices are no remedy."""
    if miss.resource != "memory":
        return ""
    larger = scenario.where_it_fits(plan)
    if larger is None:
        return f"; it fits at no larger tp on {plan.cluster}"
    pool = larger.pools[0]
    return f"; it would fit at tp={pool.tp} with {pool.replicas} replica{'s' if pool.replicas > 1 else ''}"
