"""Trials of plans of two pools that are put together from trials of their pools."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from apexsim.metrics.goodput import MIN_REQUESTS
from apexsim.search import apart
from apexsim.search import trial as trial_of_whole_plans
from apexsim.search.apart import comes_apart, parts_of
from apexsim.search.executors import Serial
from apexsim.search.ladder import rungs, sustained
from apexsim.search.outcome import Candidate
from apexsim.search.patience import Patience
from apexsim.search.prune import Context
from apexsim.search.trial import Measured, Request, Trial, short, surely_fails
from apexsim.search.trials import Trials
from apexsim.workload.transform import repeat
from tests.search_instances import SHORTER, ShortGoodput, exhaustive

REQUESTS = 100


def question(seed: int = 0) -> tuple[Context, list[Candidate]]:
    """A small question, and its plans of two pools."""
    problem, candidates, _, _ = exhaustive(seed)
    return Context.of(problem), [candidate for candidate in candidates if comes_apart(candidate.plan)]


def made(context: Context, candidates: list[Candidate], rates: tuple[float, ...], **how) -> list[Trial]:
    return Trials(context, Serial()).make([Request(c, REQUESTS, rates, **how) for c in candidates])


def test_where_requests_never_meet_only_the_transfer_is_missing():
    context, candidates = question()
    slow_rps = 1e-3
    for whole, put_together in zip(
        made(context, candidates, (slow_rps,)), made(context, candidates, (slow_rps,), apart=True), strict=True
    ):
        there, here = whole.at[slow_rps], put_together.at[slow_rps]
        assert put_together.apart
        assert not whole.apart
        assert (here.e2e_s <= there.e2e_s + 1e-9).all()
        np.testing.assert_allclose(here.e2e_s, there.e2e_s, rtol=0.02)
        np.testing.assert_allclose(here.attainment, there.attainment, atol=0.05)
        assert here.j_per_output_token == pytest.approx(there.j_per_output_token, rel=0.02)


def test_a_trial_is_no_longer_than_a_goodput_run():
    """It has to flatter: where the queue grows a longer run fails sooner."""
    context, _ = question()
    trace = context.problem.trace
    assert len(short(trace, 50)) == 50
    assert len(short(trace, 4000)) == MIN_REQUESTS
    with ShortGoodput(SHORTER):
        assert len(short(trace, 4000)) == max(len(trace), SHORTER[0])
    long = repeat(trace, min_requests=5000)
    assert len(short(long, 4000)) == pytest.approx(4000, rel=0.05)


def test_every_pool_is_replayed_once_for_all_plans_that_it_stands_in():
    context, candidates = question()
    pools = {pool for candidate in candidates for pool in candidate.plan.pools}
    parts = parts_of([Request(candidate, REQUESTS, (1.0,), apart=True) for candidate in candidates])
    assert len(parts) == len(pools) < 2 * len(candidates)
    assert {part.pool for part in parts} == pools
    trials = Trials(context, Serial())
    trials.make([Request(candidate, REQUESTS, (1.0,), apart=True) for candidate in candidates])
    assert trials.requests == REQUESTS * len(pools)
    assert trials.tried == {candidate.id for candidate in candidates}


def test_trials_climb_until_they_surely_fail():
    context, candidates = question()
    ladder = rungs(1.0, 500.0)
    for how in ({}, {"apart": True}):
        for trial in made(context, candidates, (), climb_rps=ladder, **how):
            *kept, last = sorted(trial.at)
            assert [*kept, last] == list(ladder[: len(trial.at)])
            assert surely_fails(trial.at[last], context.problem.slo.target)
            assert not any(surely_fails(trial.at[rate], context.problem.slo.target) for rate in kept)


@pytest.mark.parametrize(("kept", "target", "fails"), [(1.0, 1.0, False), (0.9, 0.9, False), (0.99, 1.0, True)])
def test_who_just_reaches_the_target_in_every_window_does_not_fail(kept, target, fails):
    """An SLO that all requests must keep has no room above it, and nothing scatters where all of them do."""
    shown = Measured(np.full((1, 10), kept), np.ones(10), None)
    assert surely_fails(shown, target) is fails


def test_a_plan_with_a_pool_that_crashes_is_not_compared(monkeypatch):
    context, candidates = question()
    bad = candidates[0].plan.pools[1]
    real = apart.part_of

    def crashes(context, plan, pool):
        if pool == bad:
            raise ZeroDivisionError
        return real(context, plan, pool)

    monkeypatch.setattr(apart, "part_of", crashes)
    trials = made(context, candidates, (1.0,), apart=True)
    failed = {trial.id for trial in trials if trial.failed}
    assert failed == {candidate.id for candidate in candidates if bad in candidate.plan.pools}


@pytest.mark.parametrize("how", [{}, {"apart": True}])
def test_a_trial_that_takes_too_long_is_ended_and_its_plan_not_compared(monkeypatch, how):
    context, candidates = question()
    monkeypatch.setattr(trial_of_whole_plans, "run", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr(apart, "run", lambda *_, **__: time.sleep(60))
    trials = Trials(context, Serial(), Patience(0.05))
    made = trials.make([Request(candidate, REQUESTS, (1.0,), **how) for candidate in candidates[:2]])
    assert all("too long" in trial.failed for trial in made)


def test_what_a_trial_sustains_lies_on_the_line_between_two_rungs():
    def at(share: float) -> Measured:
        return Measured(np.full((1, 10), share), np.ones(10), None)

    trial = Trial("plan", {1.0: at(1.0), 2.0: at(0.95), 4.0: at(0.85)})
    assert sustained(trial, 0.9) == pytest.approx(3.0)
    assert sustained(replace(trial, at={2.0: at(0.45)}), 0.9) == pytest.approx(1.0)
    assert sustained(replace(trial, at={2.0: at(1.0)}), 0.9) == 2.0
