"""How sure it is that one plan is better than another: their intervals, and the share of the draws in which it is.

The same draws as those of a ranking (``confidence.py``): windows of the trace, and errors of the step times, which two
plans share where they run the same kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apexsim.search.confidence import Chances, Confidence, Verdict, judge
from apexsim.search.executors import Executor, WorkersLost
from apexsim.search.figures import Figure, order
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem


@dataclass(frozen=True, slots=True)
class Standing:
    """One of the two: its value of the objective as a person reads it, and the 95 % intervals."""

    id: str
    value: float | None
    verdict: Verdict

    def words(self, unit: str = "") -> str:
        """``79.7 req/s (95 %: 76.1–82.9)``."""
        value = "no value" if self.value is None else f"{self.value:.4g}{unit and ' ' + unit}"
        if self.verdict.objective_ci is None:
            return value
        low, high = self.verdict.objective_ci
        return f"{value} (95 %: {low:.3g}–{high:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``objective`` in the unit of the objective."""
        interval = self.verdict.objective_ci
        return {
            "id": self.id,
            "objective": self.value,
            "objective_ci": None if interval is None else list(interval),
            "goodput_ci": list(self.verdict.goodput_ci),
        }


@dataclass(frozen=True, slots=True)
class Duel:
    """One plan against another. ``chances`` are those of the ``own`` plan."""

    objective: Figure
    own: Standing
    rival: Standing
    chances: Chances

    @property
    def words(self) -> str:
        """One line: who, how often, and both intervals."""
        unit = self.objective.unit
        often = f"beats {self.rival.id} in {self.chances.beats:.0%} of the draws"
        if self.chances.ties == 1.0:
            often = f"equals {self.rival.id} in every draw"
        elif self.chances.ties:
            often += f", equals it in {self.chances.ties:.0%}"
        return f"{self.own.id} {often}: {self.objective.label} {self.own.words(unit)} against {self.rival.words()}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "own": self.own.to_dict(),
            "rival": self.rival.to_dict(),
            "unit": self.objective.unit,
            "p_beats": self.chances.beats,
            "p_loses": self.chances.loses,
            "p_ties": self.chances.ties,
        }


def duel(problem: Problem, own: Evaluation, rival: Evaluation, executor: Executor) -> Duel | str:
    """Judge the two of them, and nobody else; why that cannot be had, in place of it.

    Args:
        executor: one that is entered.
    """
    first, second = sorted((own, rival), key=lambda evaluation: order(evaluation, problem.objective))
    try:
        judged = judge(problem, (first, second), (), executor)
    except WorkersLost as error:
        return str(error)
    if judged.failures:
        name, reason = next(iter(judged.failures.items()))
        return f"{name}: {reason}"
    chances = judged.verdicts[first.id].next_one
    assert chances is not None, "the two follow each other"
    if first is not own:
        chances = Chances(chances.loses, chances.beats, chances.ties)
    mine, other = (_standing(each, problem.objective, judged) for each in (own, rival))
    return Duel(problem.objective, mine, other, chances)


def _standing(evaluation: Evaluation, objective: Figure, judged: Confidence) -> Standing:
    value = objective.value(evaluation)
    shown = None if value is None else objective.scale * value
    return Standing(evaluation.id, shown, judged.verdicts[evaluation.id])
