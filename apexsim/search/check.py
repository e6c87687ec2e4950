"""Is the chosen plan of a scenario still the best, as good as it was, and within the SLO?

The same search as ``apexsim search``; the chosen plan is evaluated beside it where the search had no need to. Whether
another plan is better is a question of how sure that is: the two are drawn together (``duel.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apexsim.errors import ApexsimError
from apexsim.search.baseline import DIGITS, FIGURES, Chosen, Scenario
from apexsim.search.confidence import TIED_BELOW
from apexsim.search.duel import Duel, duel
from apexsim.search.evaluate import evaluate_all
from apexsim.search.executors import Executor, Serial
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
        duel: the chosen plan against the best of the others; None where there is no other, or it cannot be judged.
    """

    scenario: Scenario
    tolerance: float
    now: Evaluation | None
    best: Evaluation | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    duel: Duel | None = None

    @property
    def passed(self) -> bool:
        return not self.findings

    @property
    def tied(self) -> bool:
        """Neither the chosen plan nor the best of the others is surely the better one."""
        return self.duel is not None and max(self.duel.chances.beats, self.duel.chances.loses) < TIED_BELOW


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
          tolerance: float, sure: float = TIED_BELOW, executor: Executor | None = None) -> Checked:  # fmt: skip
    """Hold a scenario's search against what was chosen.

    Args:
        plan: the chosen one. tolerance: relative.
        sure: share of the draws in which another plan must beat the chosen one to be better.
        executor: who replays the two plans for it; this process where None.
    """
    best = result.ranked[0] if result.ranked else None
    outcome = _outcome(plan, problem, result)
    if isinstance(outcome, Dropped):
        finding = Finding("slo", f"{chosen.id} is not feasible any more: {outcome.reason}")
        return Checked(scenario, tolerance, None, best, (finding,), ())
    worse, better = _compared(chosen, outcome, max(tolerance, ROUNDING))
    notes = (f"better than the baseline: {', '.join(better)}; --update takes it over",) if better else ()
    rival = next((evaluation for evaluation in result.ranked if evaluation.id != outcome.id), None)
    if rival is None:
        return Checked(scenario, tolerance, outcome, best, worse, notes)
    with executor or Serial() as entered:
        judged = duel(problem, outcome, rival, entered)
    if isinstance(judged, str):
        notes = (f"no intervals: {judged}", *notes)
    fought = judged if isinstance(judged, Duel) else None
    beaten, tie = _beaten(problem, outcome, rival, fought, max(tolerance, ROUNDING), sure)
    return Checked(scenario, tolerance, outcome, best, (*beaten, *worse), (*tie, *notes), fought)


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


def _beaten(
    problem: Problem, now: Evaluation, rival: Evaluation, fought: Duel | None, tolerance: float, sure: float
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Whether the rival is better, by more than the tolerance and surely; or has a better value all the same: a tie."""
    objective = problem.objective
    own, other = objective.value(now), objective.value(rival)
    gain = change(own, other)
    if gain is None or own is None or other is None:
        return (), ()
    gain = gain if objective.highest_wins else -gain
    if gain <= 0:
        return (), ()
    words = f"{rival.id} has {other * objective.scale:.4g} {objective.unit}, {now.id} {own * objective.scale:.4g}"
    chance = "" if fought is None else f"; {fought.words}"
    if gain <= tolerance:
        return (), (f"as good within the tolerance: {words}{chance}",)
    if fought is not None and fought.chances.loses < sure:
        return (), (f"tied: {words} ({gain:.1%} better, but not surely){chance}",)
    return (Finding("best", f"{objective.label}: {words} ({gain:.1%} better){chance}"),), ()
