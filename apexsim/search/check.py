"""Is the chosen plan of a scenario still the best, as good as it was, and within the SLO?

The same search as ``apexsim search``; the chosen plan is evaluated beside it where the search had no need to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apexsim.errors import ApexsimError
from apexsim.search.baseline import DIGITS, FIGURES, Chosen, Scenario
from apexsim.search.evaluate import evaluate_all
from apexsim.search.executors import Executor
from apexsim.search.outcome import Candidate, Dropped, Evaluation
from apexsim.search.problem import Problem
from apexsim.search.prune import Context, screen
from apexsim.search.run import SearchResult, search
from apexsim.spec.legality import check_plan
from apexsim.spec.plan import Plan

Kind = Literal["slo", "best", "worse"]
ROUNDING = 10.0**-DIGITS
"""Relative; a figure that differs by no more is equal to what the file holds of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a scenario fails; ``figure`` is a key of ``FIGURES`` where one got worse."""

    kind: Kind
    message: str
    figure: str = ""


@dataclass(frozen=True)
class Checked:
    """A scenario as it was evaluated anew.

    Attributes:
        now: the chosen plan of the baseline as it is today; None where it is not ranked any more.
        best: today's best plan; None where no plan is feasible.
        findings: why it fails; empty where it passes.
        notes: what is not a failure: a tie, or figures that are better than the baseline's.
    """

    scenario: Scenario
    tolerance: float
    now: Evaluation | None
    best: Evaluation | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def searched(problem: Problem, executor: Executor) -> SearchResult:
    """The scenario's search, complete.

    Raises:
        ApexsimError: worker processes were lost. KeyboardInterrupt: it was interrupted.
    """
    result = search(problem, executor)
    if result.interruption == "interrupted":
        raise KeyboardInterrupt
    if result.interruption:
        raise ApexsimError(result.interruption)
    return result


def check(scenario: Scenario, chosen: Chosen, plan: Plan, problem: Problem, result: SearchResult,
          tolerance: float) -> Checked:  # fmt: skip
    """Hold a scenario's search against what was chosen.

    Args:
        plan: the chosen one. tolerance: relative.
    """
    best = result.ranked[0] if result.ranked else None
    outcome = _outcome(plan, problem, result)
    if isinstance(outcome, Dropped):
        finding = Finding("slo", f"{chosen.id} is not feasible any more: {outcome.reason}")
        return Checked(scenario, tolerance, None, best, (finding,), ())
    worse, better = _compared(chosen, outcome, max(tolerance, ROUNDING))
    beaten, notes = _rival(problem, outcome, best, max(tolerance, ROUNDING))
    if better:
        notes += (f"better than the baseline: {', '.join(better)}; --update takes it over",)
    return Checked(scenario, tolerance, outcome, best, (*beaten, *worse), notes)


def change(before: float | None, now: float | None) -> float | None:
    """now / before − 1; None where either is unknown or there is nothing to compare with."""
    return None if before is None or now is None or before == 0 else now / before - 1


def _outcome(plan: Plan, problem: Problem, result: SearchResult) -> Evaluation | Dropped:
    """What the search found of the plan; it is replayed where a bound was enough, or the space does not hold it."""
    for evaluation in result.ranked:
        if evaluation.id == plan.id:
            return evaluation
    illegal = check_plan(problem.model, plan)
    if illegal is not None:  # a space never holds a plan that its cluster does not
        return Dropped(plan, "illegal", illegal)
    context = Context.of(problem)
    (screened,) = screen(context, (plan,))
    if not isinstance(screened, Candidate):
        return screened
    (found,) = evaluate_all(context, [screened])
    return found


def _compared(chosen: Chosen, now: Evaluation, tolerance: float) -> tuple[tuple[Finding, ...], list[str]]:
    """Figures that are worse by more than the tolerance, and labels of those that are better by more."""
    worse: list[Finding] = []
    better: list[str] = []
    for key, figure in FIGURES.items():
        before, value = getattr(chosen, key), figure.value(now)
        if before is not None and value is None:
            worse.append(Finding("worse", f"{figure.label} is not known any more, it was {before:g}", key))
        moved = change(before, value)
        if moved is None:
            continue
        loss = -moved if figure.highest_wins else moved
        if loss > tolerance:
            message = f"{figure.label} of {chosen.id} went from {before:.4g} to {value:.4g} ({moved:+.1%})"
            worse.append(Finding("worse", message, key))
        elif loss < -tolerance:
            better.append(f"{figure.label} {moved:+.1%}")
    return tuple(worse), better


def _rival(
    problem: Problem, now: Evaluation, best: Evaluation | None, tolerance: float
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Whether another plan is better by more than the tolerance, or just as good."""
    if best is None or best.id == now.id:
        return (), ()
    objective = problem.objective
    own, other = objective.value(now), objective.value(best)
    gain = change(own, other)
    if gain is None or own is None or other is None:
        return (), ()
    gain = gain if objective.highest_wins else -gain
    words = f"{best.id} has {other * objective.scale:.4g} {objective.unit}, {now.id} {own * objective.scale:.4g}"
    if gain > tolerance:
        return (Finding("best", f"{objective.label}: {words} ({gain:.1%} better)"),), ()
    return (), (f"as good within the tolerance: {words}",) if gain > 0 else ()
