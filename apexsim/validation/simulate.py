"""One case, simulated: measured beside simulated, metric by metric and request by request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from apexsim.cost.host import HostModel
from apexsim.cost.memory import DoesNotFit
from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.errors import InputError, UsageError
from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan
from apexsim.validation import window as windows
from apexsim.validation.beside import numbers, read_csv
from apexsim.validation.case import Case, Skipped
from apexsim.validation.floor import floor_notes
from apexsim.validation.loads import requests_of
from apexsim.validation.metrics import Simulated
from apexsim.workload.trace import Floats, Trace

PER_REQUEST = ("ttft_s", "tpot_s", "e2e_s")
"""Columns of a file in ``requests/`` that are compared one by one."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A measured value and the simulated one; ``error`` = simulated / measured - 1, None where undefined."""

    measured: float
    simulated: float | None

    @property
    def error(self) -> float | None:
        if self.simulated is None or self.measured == 0:
            return None
        return self.simulated / self.measured - 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of one row.

    Attributes:
        skipped: the reason why it was not simulated; then there is nothing else.
        mistake: the row is wrong, not the release too small.
        metrics: column -> measured and simulated, for every metric that the row has.
        per_request: column -> errors of each single request, where they were measured.
        notes: what a reader of the simulated values has to know.
        guessed: what of the plan is a guess, as ``column = value``: the row may have run with another one.
    """

    set: str
    run: str
    regime: str | None
    skipped: str | None = None
    mistake: bool = False
    metrics: Mapping[str, Compared] = field(default_factory=dict)
    per_request: Mapping[str, Floats] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()


def simulate_case(case: Case | Skipped, host: HostModel | None = None) -> Outcome:
    """Simulate one run, and hold every metric that was measured against it.

    Args:
        host: host terms in place of those of the run's engine, for a fit; what the run did not measure is taken
            off them all the same (``Case.host``).
    """
    if isinstance(case, Skipped):
        return Outcome(case.set, case.run, case.row.get("regime"), skipped=case.reason, mistake=case.mistake)
    prepared = prepared_case(case, host)
    if isinstance(prepared, str):
        return Outcome(case.set, case.run, case.row.get("regime"), skipped=prepared, assumptions=case.assumptions)
    trace = offered(case, prepared)
    result = replay(
        prepared, trace, concurrency=case.load.concurrency, timeline="mean_running_requests" in case.measured
    )
    if not (result.requests.status == COMPLETED).any():
        reason = f"all {len(trace)} requests are longer than the context or the KV cache of the plan"
        return Outcome(case.set, case.run, case.row.get("regime"), skipped=reason, assumptions=case.assumptions)
    window, notes = _window(case, prepared, trace, result)
    simulated = Simulated(prepared, result, window, from_engine=case.ttft_anchor == "engine")
    return Outcome(
        set=case.set, run=case.run, regime=case.row.get("regime"),
        metrics={c: Compared(value, simulated.value(c)) for c, value in case.measured.items()},
        per_request=_per_request(case, simulated), assumptions=case.assumptions,
        notes=(*notes, *_rejected(result), *floor_notes(case, prepared)), guessed=case.guessed,
    )  # fmt: skip


def prepared_case(case: Case, host: HostModel | None = None) -> Prepared | str:
    """The case's plan, compiled; or why this release cannot run it: not simulated, or it does not fit (by how much)."""
    return _prepared(case.plan, case.model, case.host(host))


@lru_cache(maxsize=8)  # rows of one plan come one after the other
def _prepared(plan: Plan, model: ModelSpec, host: HostModel) -> Prepared | str:
    try:
        prepared = prepare(plan, model=model, host=host)
    except (InputError, UsageError) as problem:
        return str(problem).removeprefix("plan: ")
    return f"the plan does not fit: {prepared.reason}" if isinstance(prepared, DoesNotFit) else prepared


def offered(case: Case, prepared: Prepared) -> Trace:
    """The requests of a case, cut to what the plan's context holds where their lengths are drawn."""
    return requests_of(case.load, case.row, case.folder, prepared.compiled.memory.max_model_len)


def _window(
    case: Case, prepared: Prepared, trace: Trace, result: SimulationResult
) -> tuple[windows.Window | None, tuple[str, ...]]:
    if case.window == "all":
        return windows.whole(result), ()
    if case.load.concurrency is not None:
        return None, ("a steady window is defined for open loops only",)
    if prepared.parts:
        return None, ("a steady window is defined for plans of one pool only",)
    window = windows.steady(prepared, trace, result)
    return window, () if window else ("no steady window: too few requests for their batch",)


def _rejected(result: SimulationResult) -> tuple[str, ...]:
    count = int((result.requests.status != COMPLETED).sum())
    if not count:
        return ()
    return (f"{count} of {len(result.requests.status)} requests are longer than the context or the KV cache",)


def _per_request(case: Case, simulated: Simulated) -> dict[str, Floats]:
    """Relative errors of each request, in the order of the trace; empty where none was measured by itself."""
    path = _requests_file(case)
    if path is None:
        return {}
    table = read_csv(path)
    columns = {column: getattr(simulated.latencies, column) for column in PER_REQUEST if column in table}
    errors = {}
    for column, values in columns.items():
        if len(table) != len(values):
            raise InputError(f"{path}: {len(table)} requests (allowed: {len(values)}, as in the trace)")
        order = numbers(path, table, "request") if "request" in table else np.arange(len(table))
        if sorted(order.tolist()) != list(range(len(values))):
            raise InputError(f"{path}: column 'request' does not number the requests 0 to {len(values) - 1}")
        with np.errstate(divide="ignore", invalid="ignore"):
            errors[column] = values[order.astype(np.int64)] / numbers(path, table, column) - 1.0
    return {column: values[np.isfinite(values)] for column, values in errors.items()}


def _requests_file(case: Case) -> Path | None:
    """``requests/`` holds a file of the run's name, or of its trace's."""
    names = [case.run.rpartition("/")[2]]
    if case.load.trace is not None:
        names.append(case.load.trace.name.removesuffix(".gz").removesuffix(".csv"))
    folder = case.folder / "requests"
    candidates = (folder / f"{name}{ending}" for name in names for ending in (".csv", ".csv.gz"))
    return next((path for path in candidates if path.is_file()), None)
