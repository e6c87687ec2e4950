"""A search finds what replaying every plan finds: 50 small questions, colocated and disaggregated (invariant 91)."""

from __future__ import annotations

import sys

import pytest

from apexsim.search.figures import FIGURES
from apexsim.search.pareto import front, rank
from apexsim.search.prune import Context
from apexsim.search.race import Race, Round
from apexsim.search.strategies import Grid
from apexsim.testing.strategy import Toy, play
from tests.search_instances import drawn_axes, exhaustive, hold_bounds, hold_tolerance, run_race

INSTANCES = range(50)


@pytest.mark.parametrize("seed", INSTANCES)
def test_without_racing_the_winner_of_every_objective_is_that_of_an_exhaustive_search(seed):
    _, candidates, truth, _ = exhaustive(seed)
    everything = Toy(candidates, truth)
    for objective in FIGURES.values():
        asked = play(Grid(candidates, objective, keep=1, wave=2), everything)
        found = [truth[name] for name in asked if truth[name] is not None]
        assert [e.id for e in rank(found, objective)[:1]] == [e.id for e in rank(everything.feasible, objective)[:1]]
        assert set(front(found)) == set(front(everything.feasible))
        axes = drawn_axes(seed + len(objective.name))
        asked = play(Grid(candidates, objective, keep=1, axes=axes, wave=2), everything)
        found = [truth[name] for name in asked if truth[name] is not None]
        assert set(front(found, axes)) == set(front(everything.feasible, axes))


@pytest.mark.parametrize("seed", INSTANCES)
def test_no_plan_is_better_than_its_bounds(seed):
    hold_bounds(*exhaustive(seed))


def test_the_questions_are_worth_asking():
    """Of both kinds of plans there are winners, and plans that miss the SLO."""
    several, misses, winners = 0, 0, set()
    for seed in INSTANCES:
        _, candidates, truth, dropped = exhaustive(seed)
        feasible = [e for e in truth.values() if e is not None]
        several += len(feasible) > 3
        misses += len(feasible) < len(candidates) or any(d.cause == "slo" for d in dropped)
        winners |= {len(rank(feasible, objective)[0].plan.pools) for objective in FIGURES.values() if feasible}
    assert several > 25
    assert misses > 5
    assert winners == {1, 2}


@pytest.mark.parametrize(("seed", "requests"), [(seed, 500 if seed % 5 == 0 else 100) for seed in INSTANCES])
def test_a_race_is_within_its_tolerance_of_an_exhaustive_search(seed, requests, monkeypatch):
    rounds = (Round(requests, 99, apart=True), Round(3 * requests, 99))
    monkeypatch.setattr(sys.modules[Race.__module__], "ROUNDS", rounds)  # right by argument, not by length
    question, candidates, truth, _ = exhaustive(seed)
    feasible = [e for e in truth.values() if e is not None]
    context, known = Context.of(question), {}
    another = list(FIGURES.values())[seed % len(FIGURES)]
    for objective in (FIGURES["goodput"], FIGURES["energy"], another):
        found = [truth[name] for name in run_race(Race(candidates, objective, keep=1), context, truth, known)]
        found = [e for e in found if e is not None]
        hold_tolerance(found, feasible, (objective, *(FIGURES[name] for name in ("energy", "latency", "cost"))))


def test_races_leave_plans_out_and_account_for_every_one(monkeypatch):
    monkeypatch.setattr(sys.modules[Race.__module__], "ROUNDS", (Round(300, 3, apart=True), Round(1500, 1)))
    out = cut = 0
    for seed in range(0, 50, 5):
        question, candidates, truth, _ = exhaustive(seed)
        race = Race(candidates, FIGURES["goodput"], keep=1)
        asked = run_race(race, Context.of(question), truth, {})
        assert len(set(asked)) == len(asked)
        assert set(asked) | set(race.dropped) == {c.id for c in candidates}
        assert not set(asked) & set(race.dropped)
        out, cut = out + len(race.dropped) - race.cut, cut + race.cut
    assert out > 0
    assert cut > 0
