"""What becomes of the first plans, and of the choice among them, where the load or the step times are not as assumed.

    load           the search's rate × 0.8 and × 1.2
    step time      every time of the plan × 0.9 and × 1.1: a plan c times as slow, offered R, is the plan as it is,
                   offered c · R, with limits / c, on a clock that is c times as slow (invariant 6)
    output tokens  × 0.8 and × 1.25, rounded, at least one each

Each case is replayed as the search replays: at the rate of the search, and for a new goodput where that can change (it
does not hang on the load). Nothing is drawn, so equal searches give equal figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from apexsim.engine.result import SimulationResult
from apexsim.metrics.by_window import shortened
from apexsim.metrics.goodput import WARMUP, goodput_trace
from apexsim.metrics.summary import Prices, Summary
from apexsim.scenario import Prepared, run
from apexsim.search.evaluate import prepare_candidate
from apexsim.search.executors import Executor
from apexsim.search.measure import measure_goodput
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate

What = Literal["load", "step time", "output tokens"]

PLANS = 3
"""So many of the first plans are looked at where nobody says how many."""

HIGHEST = 3.0
"""No goodput is looked for above so many times the plan's own."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as assumed: it is ``factor`` times as large."""

    what: What
    factor: float

    @property
    def words(self) -> str:
        """As a person says it: ``load +20 %``."""
        return f"{self.what} {100 * (self.factor - 1):+.0f} %"


CHANGES = (
    Change("load", 0.8), Change("load", 1.2), Change("step time", 0.9), Change("step time", 1.1),
    Change("output tokens", 0.8), Change("output tokens", 1.25),
)  # fmt: skip
"""The lower one of each first."""


@dataclass(frozen=True, slots=True)
class Case:
    """A plan under one change, or as the search saw it (``change`` None).

    Attributes:
        attainment: at the search's rate (changed, where the load is).
        feasible: the SLO is met there.
        goodput_rps: None where the SLO is met at no rate.
        headroom: goodput over the offered rate: below 1 the load is more than the plan sustains.
        value: of the objective; None where it has none.
    """

    plan: str
    change: Change | None
    attainment: float
    feasible: bool
    goodput_rps: float | None
    censored: bool
    headroom: float
    value: float | None

    def to_dict(self) -> dict[str, Any]:
        """One row of ``sensitivity`` in the search's JSON."""
        change = self.change
        return {
            "plan": self.plan, "what": None if change is None else change.what,
            "factor": 1.0 if change is None else change.factor, "attainment": self.attainment,
            "feasible": self.feasible, "goodput_rps": self.goodput_rps, "censored": self.censored,
            "headroom": self.headroom, "value": self.value,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the plans is best under one change.

    ``lead``: how much better the search's first plan is than the best of the others, as a share of that one's value;
    negative where it is no longer best, None where one of the two is out.
    """

    change: Change | None
    best: str | None
    lead: float | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Cases plan by plan in the order of the ranking, each first as it was, then in the order of ``CHANGES``."""

    problem: Problem
    cases: tuple[Case, ...]

    @property
    def plans(self) -> tuple[str, ...]:
        """Their ids, best first."""
        return tuple(dict.fromkeys(case.plan for case in self.cases))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """As it was, then under each change."""
        return tuple(self._choice(change) for change in (None, *CHANGES))

    def of(self, plan: str) -> tuple[Case, ...]:
        """The cases of one plan."""
        return tuple(case for case in self.cases if case.plan == plan)

    def _choice(self, change: Change | None) -> Choice:
        objective = self.problem.objective
        cases = [case for case in self.cases if case.change == change]
        # as in the ranking: the objective, then goodput; a tie stays with the plan that was the better one
        runners = sorted(
            (case for case in cases if case.feasible and case.goodput_rps is not None),
            key=lambda case: (objective.loss(case.value), -(case.goodput_rps or 0.0)),
        )
        best = runners[0].plan if runners else None
        first = next((case for case in runners if case.plan == self.plans[0]), None)
        rival = next((case for case in runners if case.plan != self.plans[0]), None)
        lead = None
        if first is not None and rival is not None and first.value is not None and rival.value:
            lead = (first.value / rival.value - 1.0) * (1 if objective.highest_wins else -1)
        return Choice(change, best, lead)

    def to_dict(self) -> dict[str, Any]:
        """``sensitivity`` of the search's JSON."""
        choices = [
            {"what": c.change and c.change.what, "factor": c.change.factor if c.change else 1.0, "best": c.best,
             "lead": c.lead}
            for c in self.choices
        ]  # fmt: skip
        return {"cases": [case.to_dict() for case in self.cases], "choices": choices}


def sensitivity(
    problem: Problem, ranked: Sequence[Evaluation], executor: Executor, plans: int = PLANS
) -> Sensitivity:
    """The first ``plans`` of a ranking under each of ``CHANGES``, by an executor that is entered."""
    first = ranked[:plans]
    asked = [(evaluation, number) for evaluation in first for number in range(len(CHANGES))]
    done = dict(executor.run(partial(_numbered, problem), asked))
    cases = [
        case
        for evaluation in first
        for case in (as_it_was(problem, evaluation), *(done[evaluation.id, n] for n in range(len(CHANGES))))
    ]
    return Sensitivity(problem, tuple(cases))


def as_it_was(problem: Problem, evaluation: Evaluation) -> Case:
    """What the search knows of a plan."""
    return Case(
        evaluation.id, None, evaluation.summary["slo"]["attainment"], True, evaluation.goodput_rps, evaluation.censored,
        evaluation.goodput_rps / problem.rate_rps, problem.objective.value(evaluation),
    )  # fmt: skip


def changed_case(problem: Problem, evaluation: Evaluation, change: Change) -> Case:
    """The plan replayed under one change."""
    prepared = prepare_candidate(evaluation.plan)
    if change.what == "load":
        trace = at_rate(problem.trace, problem.rate_rps * change.factor)
        return _under_load(problem, evaluation, change, _summary(problem, prepared, trace, problem.slo))
    c = change.factor if change.what == "step time" else 1.0
    trace, slo = problem.trace, shortened(problem.slo, c)
    if change.what == "output tokens":
        longer = np.maximum(1, np.rint(trace.output_tokens * change.factor)).astype(np.int64)
        trace = trace.with_columns(output_tokens=longer)
    own = _summary(problem, prepared, at_rate(trace, c * problem.rate_rps), slo)
    highest = evaluation.goodput_rps * (1.0 if evaluation.censored else HIGHEST)
    found, last = measure_goodput(prepared, trace, slo, highest, guess_rps=evaluation.goodput_rps, seed=problem.seed)
    there = None
    if found.rps is not None:
        there = _summary(problem, prepared, goodput_trace(trace, found.rps), slo, WARMUP, last)
    goodput_rps = None if found.rps is None else found.rps / c
    changed = _evaluation(evaluation, goodput_rps or 0.0, own, there, c)
    return Case(
        evaluation.id, change, own.slo.attainment or 0.0, bool(own.slo.met), goodput_rps, found.censored,
        (goodput_rps or 0.0) / problem.rate_rps, None if there is None else problem.objective.value(changed),
    )  # fmt: skip


def _under_load(problem: Problem, evaluation: Evaluation, change: Change, own: Summary) -> Case:
    changed = replace(evaluation, summary=own.to_dict())
    return Case(
        evaluation.id, change, own.slo.attainment or 0.0, bool(own.slo.met), evaluation.goodput_rps,
        evaluation.censored, evaluation.goodput_rps / (change.factor * problem.rate_rps),
        problem.objective.value(changed),
    )  # fmt: skip


def _evaluation(
    evaluation: Evaluation, goodput_rps: float, own: Summary, there: Summary | None, c: float
) -> Evaluation:
    """The evaluation as the objectives read it: seconds, and so joules and dollars of the same work, are c fold."""
    summary = own.to_dict()
    p50 = summary["e2e_s"]["p50"]
    summary["e2e_s"] = {"p50": None if p50 is None else c * p50}
    joules = None if there is None else there.energy.j_per_output_token
    dollars = None if there is None else there.cost.usd_per_million_output_tokens
    at_goodput = {
        "attainment": None if there is None else there.slo.attainment,
        "j_per_output_token": None if joules is None else c * joules,
        "usd_per_million_output_tokens": None if dollars is None else c * dollars,
    }
    return replace(evaluation, goodput_rps=goodput_rps, summary=summary, at_goodput=at_goodput)


def _summary(
    problem: Problem, prepared: Prepared, trace: Trace, slo: SLO, warmup: float = 0.0,
    result: SimulationResult | None = None,
) -> Summary:  # fmt: skip
    prices = Prices(problem.usd_per_device_hour(prepared.plan), problem.carbon_g_per_kwh)
    return run(
        prepared, trace, slo=slo, prices=prices, seed=problem.seed, warmup=warmup, with_itl=False, result=result
    ).summary


def _numbered(problem: Problem, asked: tuple[Evaluation, int]) -> tuple[tuple[str, int], Case]:
    evaluation, number = asked
    return (evaluation.id, number), changed_case(problem, evaluation, CHANGES[number])
