"""How sure the first places of a ranking are: intervals, the chance of each plan to beat the next one, ties.

The workers replay (``windows.py``); what is drawn from their counts is drawn here, in one process and in the order
of the ranking, so that it does not hang on who counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.metrics.by_window import shares_needed, windows_of
from apexsim.search.executors import Executor
from apexsim.search.figures import Figure
from apexsim.search.intervals import DRAWS, goodput_draws, resolved_rps, time_draws, window_draws
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.search.values import objective_draws
from apexsim.search.windows import WINDOWS, Sample, sample

Floats = NDArray[np.float64]

JUDGED = 10
"""So many of the best plans are judged, and so many of the Pareto front."""

LEVEL = 0.95
"""Of the intervals: from the 2.5th to the 97.5th percentile of the draws."""

TIED_BELOW = 0.9
"""A plan is tied with a better one that beats it in a smaller share of the draws."""

SAME = 1e-9
"""Draws that differ by less than this share of them are equal."""


@dataclass(frozen=True, slots=True)
class Chances:
    """Shares of the draws in which one plan is better than another, worse, and neither; they add up to 1."""

    beats: float
    loses: float
    ties: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How sure the place of one plan is.

    Attributes:
        goodput_ci: requests/s, the interval of ``LEVEL``.
        objective_ci: of the objective, in its unit times its scale; None where the plan has no value of it.
        step_time_sd: standard deviation of ln c, of all errors of the step times together.
        tied_rank: the best rank among the plans that it is tied with; its own where it is tied with none.
        tied_with: their ids.
        next_one: chances against the next plan of the ranking; None for the last that was judged.
    """

    goodput_ci: tuple[float, float]
    objective_ci: tuple[float, float] | None
    step_time_sd: float
    tied_rank: int
    tied_with: tuple[str, ...] = ()
    next_one: Chances | None = None

    def to_dict(self) -> dict[str, Any]:
        """The keys that the search's JSON has of a judged plan."""
        return {
            "goodput_ci": list(self.goodput_ci),
            "objective_ci": None if self.objective_ci is None else list(self.objective_ci),
            "step_time_sd": self.step_time_sd,
            "tied_rank": self.tied_rank,
            "tied_with": list(self.tied_with),
            "p_beats_next": None if self.next_one is None else self.next_one.beats,
            "p_ties_next": None if self.next_one is None else self.next_one.ties,
        }


@dataclass(frozen=True, slots=True)
class Confidence:
    """Verdicts by plan id. ``failures``: plan id -> why it could not be judged."""

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    windows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What was drawn, for the search's JSON."""
        words = {"level": LEVEL, "draws": DRAWS, "windows": self.windows, "tied_below": TIED_BELOW}
        return words | ({"failures": dict(self.failures)} if self.failures else {})


def judge(
    problem: Problem, ranked: Sequence[Evaluation], front: Sequence[str], executor: Executor, first: int = JUDGED
) -> Confidence:
    """Judge the ``first`` plans, and so many of the Pareto front.

    Args:
        ranked: all plans of the ranking, best first.
        front: ids, in that order.
        executor: one that is entered.
    """
    chosen = {evaluation.id for evaluation in ranked[:first]} | set(front[:first])
    judged = [evaluation for evaluation in ranked if evaluation.id in chosen]
    counted: dict[str, Sample] = {}
    failures: dict[str, str] = {}
    for name, found in executor.run(partial(_sample_or_why, problem), judged, _lost):
        if isinstance(found, Sample):
            counted[name] = found
        else:
            failures[name] = found
    judged = [evaluation for evaluation in judged if evaluation.id in counted]
    windows = int(windows_of(len(problem.trace), WINDOWS)[-1]) + 1
    weights = window_draws(windows, problem.seed)
    draws = {e.id: draw(problem, e, counted[e.id], weights) for e in judged}
    ranks = {evaluation.id: place for place, evaluation in enumerate(ranked, start=1)}
    return Confidence(_verdicts(problem.objective, judged, draws, ranks), failures, windows)


@dataclass(frozen=True, slots=True)
class Draws:
    """[draws] of one plan: requests/s, and the objective (None where it has no value)."""

    goodput_rps: Floats
    objective: Floats | None
    step_time_sd: float


def draw(problem: Problem, evaluation: Evaluation, counted: Sample, weights: Floats) -> Draws:
    """What the counts of one plan give under each draw."""
    log_c = time_draws(counted.doubt, problem.seed, len(weights))
    relative = goodput_draws(counted, shares_needed(problem.slo), weights, log_c)
    values = objective_draws(problem, evaluation, counted, relative, weights, log_c)
    sd = float(np.sqrt(sum(part**2 for part in counted.doubt.values())))
    return Draws(resolved_rps(evaluation, problem.slo.target) * relative, values, sd)


def chances(one: Draws, other: Draws, objective: Figure) -> Chances:
    """How often ``one`` is better by the objective; where it is equal, by goodput, as the ranking has it."""
    better = _sign(one.goodput_rps, other.goodput_rps, highest_wins=True)
    if objective.name != "goodput" and one.objective is not None and other.objective is not None:
        first = _sign(one.objective, other.objective, objective.highest_wins)
        better = np.where(first == 0, better, first)
    return Chances(float(np.mean(better > 0)), float(np.mean(better < 0)), float(np.mean(better == 0)))


def _sign(one: Floats, other: Floats, highest_wins: bool) -> NDArray[np.int64]:
    """[draws] 1 where the one is better, -1 where the other is, 0 where they are equal."""
    apart = np.abs(one - other) > SAME * np.maximum(np.abs(one), np.abs(other))
    return np.where(apart, np.where((one > other) == highest_wins, 1, -1), 0)


def _verdicts(
    objective: Figure, judged: Sequence[Evaluation], draws: Mapping[str, Draws], ranks: Mapping[str, int]
) -> dict[str, Verdict]:
    groups = tied_groups(objective, judged, draws)
    found = {}
    for place, evaluation in enumerate(judged):
        name, one = evaluation.id, draws[evaluation.id]
        following = judged[place + 1] if place + 1 < len(judged) else None
        adjacent = following is not None and ranks[following.id] == ranks[name] + 1
        found[name] = Verdict(
            interval(one.goodput_rps),
            None if one.objective is None else interval(objective.scale * one.objective),
            one.step_time_sd,
            ranks[groups[name][0]],
            tuple(other for other in groups[name] if other != name),
            chances(one, draws[following.id], objective) if following is not None and adjacent else None,
        )
    return found


def tied_groups(
    objective: Figure, judged: Sequence[Evaluation], draws: Mapping[str, Draws]
) -> dict[str, tuple[str, ...]]:
    """Plan id -> the group that it is tied with, itself among them.

    A group begins with the best plan that is in none, and goes on while that plan beats the next one in less than
    ``TIED_BELOW`` of the draws. Only the best of a group is compared, so that a chain of small steps is no tie.
    """
    groups: list[list[str]] = []
    for evaluation in judged:
        leads = groups and chances(draws[groups[-1][0]], draws[evaluation.id], objective).beats >= TIED_BELOW
        if not groups or leads:
            groups.append([])
        groups[-1].append(evaluation.id)
    return {name: tuple(group) for group in groups for name in group}


def interval(values: Floats) -> tuple[float, float]:
    """The percentiles between which the share ``LEVEL`` of the draws lies."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _sample_or_why(problem: Problem, evaluation: Evaluation) -> tuple[str, Sample | str]:
    """A plan that cannot be counted costs its interval, not the search."""
    try:
        return evaluation.id, sample(problem, evaluation)
    except Exception as error:
        return evaluation.id, f"{type(error).__name__}: {error}"


def _lost(evaluation: Evaluation) -> tuple[str, Sample | str]:
    return evaluation.id, "its worker was killed"
