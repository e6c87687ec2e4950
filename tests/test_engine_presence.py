"""Little's law on every run: what replicas count while they run against how long their requests stayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.engine import simulate as simulate_module
from apexsim.engine.result import REJECTED_LATE, REJECTED_WAIT
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.engine.state import State
from apexsim.workload.trace import Trace
from tests.lockstep_worlds import lockstep_worlds
from tests.oracle import Run
from tests.paged_worlds import paged_worlds
from tests.test_engine_differential import BUILT_IN, run_both
from tests.test_engine_invariants import run
from tests.tier_worlds import swapping_worlds
from tests.worlds import World, drawn, make_tables, states_of, worlds

ALL = st.one_of(
    worlds(routers=BUILT_IN, ordered=True, phased=True), worlds(routers=BUILT_IN, pipelines=True),
    worlds(routers=BUILT_IN, drafting=True), lockstep_worlds(routers=BUILT_IN, ordered=True),
    paged_worlds(routers=BUILT_IN), swapping_worlds(routers=BUILT_IN),
)  # fmt: skip
"""Worlds of every feature: orders and load shedding, roles, pipelines, drafts, ranks, pages, tiers and swaps."""


def stays_s(expected: Run) -> float:
    """Seconds of the oracle's requests in the system. Who is shed leaves at a boundary that only the engine notes."""
    shed = (REJECTED_WAIT, REJECTED_LATE)
    assert not any(request.reason in shed for request in expected.requests)
    return sum(request.tokens[-1] - request.arrival for request in expected.requests if not request.rejected)


@given(ALL)
@drawn
def test_62_little(world: World) -> None:
    """The integral of the number in the system, as replicas count it, is the oracle's sum of times that requests stay.

    ``simulate_pool`` itself compares it with the columns of every run, those of this test and of all others.
    """
    kept = replace(world, policy=replace(world.policy, max_wait_s=np.inf, shed_late=False))
    (state,) = states_of(lambda: run(kept, seed=7))
    _, expected = run_both(kept)
    if not expected.tied:
        np.testing.assert_allclose(state.replicas.present_s.sum(), stays_s(expected), rtol=1e-9, atol=1e-12)
    run(world)  # and with those that are turned away


def lose(state: State) -> None:
    state.replicas.ended[0] -= 1


def shift(state: State) -> None:
    state.requests.finish_s[:1] += 1e-6 * state.replicas.present_s.sum()


def miscount(state: State) -> None:
    state.replicas.present_s[-1] *= 1 + 1e-6


@pytest.mark.parametrize("spoil", [lose, shift, miscount])
def test_a_run_that_lost_count_is_an_error(spoil: Callable[[State], None]) -> None:
    """One request that never ended, left at a wrong instant, or was counted for too long."""
    world = world_by_hand()
    real = simulate_module.run_pool

    def spoilt(*args: object, **kwargs: object) -> State:
        state = real(*args, **kwargs)  # type: ignore[arg-type]
        spoil(state)
        return state

    run(world)
    with mock.patch.object(simulate_module, "run_pool", spoilt), pytest.raises(RuntimeError, match="Little's law"):
        run(world)


def world_by_hand() -> World:
    """One replica, three requests."""
    random = np.random.default_rng(1)
    return World(
        trace=Trace("three", np.array([0.0, 0.01, 0.5]), np.array([5, 9, 3]), np.array([4, 2, 7])),
        tables=make_tables(random, stages=1, seqs=4, max_tokens=64, window=0, host=True),
        limits=ReplicaLimits(40, 4, 1000, 1e-3, 2e-3), policy=Policy("by hand", 16, 4), replicas=1,
        router="round-robin", concurrency=None,
    )  # fmt: skip
