"""Built-in routers as data, and a plug-in router that SimPy asks at every arrival."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given

from apexsim.engine.result import COMPLETED
from apexsim.engine.routers import Offered, PlugInRouter, ReplicaView, RequestView, router
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace
from tests.test_engine_tiny import SEQS, tables
from tests.worlds import World, drawn, worlds


class ShortestQueueInPython:
    """Join-shortest-queue once more, as an outside package would write it."""

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        self.replicas = replicas

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        return int(np.argmin(replicas.waiting + replicas.running))


class OutOfRange(ShortestQueueInPython):
    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        return self.replicas


@given(worlds(routers=("join-shortest-queue",), closed=False))
@drawn
def test_a_plug_in_through_simpy_gives_the_bytes_of_the_compiled_loop(world: World) -> None:
    """Cutting a series more often must change nothing but the way a run of equal gaps is written down."""
    results = [
        simulate_pool(world.trace, world.tables, world.limits, world.policy, replicas=world.replicas, router=chosen)
        for chosen in ("join-shortest-queue", ShortestQueueInPython())
    ]
    assume((results[0].requests.status == COMPLETED).any())
    assert (results[0].requests.replica == results[1].requests.replica).all()
    assert results[0].same_bytes(results[1])


def test_a_router_that_leaves_the_fleet_is_stopped() -> None:
    law, limits, policy = tables(), ReplicaLimits(100, 1, 60), Policy("t", 8, SEQS)
    trace = Trace("tiny", np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    with pytest.raises(IndexError, match="chose replica 2 of 2"):
        simulate_pool(trace, law, limits, policy, replicas=2, router=OutOfRange())


def test_a_plug_in_router_in_a_closed_loop_is_refused() -> None:
    trace = Trace("tiny", np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    with pytest.raises(UsageError, match="open loops only"):
        simulate_pool(
            trace, tables(), ReplicaLimits(100, 1, 60), Policy("t", 8, SEQS), router=OutOfRange(), concurrency=1
        )


def test_seams_are_told_apart() -> None:
    assert isinstance(OutOfRange(), PlugInRouter)
    assert not isinstance(router("random"), PlugInRouter)


def test_session_affine_keeps_a_session_together() -> None:
    session = np.array([4, 9, 4, -1, 9, -1, 4])
    choice = router("session-affine").candidates(Offered(7, session), 3, seed=1)
    replica = choice.candidates[:, 0]
    assert len(set(replica[session == 4])) == 1
    assert len(set(replica[session == 9])) == 1
    assert ((replica >= 0) & (replica < 3)).all()


def test_power_of_two_draws_two_distinct_replicas() -> None:
    choice = router("power-of-two").candidates(Offered(1000, np.full(1000, -1)), 5, seed=1)
    first, second = choice.candidates.T
    assert (first != second).all()
    assert set(first) == set(second) == set(range(5))


def test_unknown_router_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'round-robin'"):
        router("round-robbin")
