"""Built-in routers as data, and a plug-in router that SimPy asks at every arrival."""

from __future__ import annotations

from typing import ClassVar

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


def conversation(arrivals: list[float], sessions: list[int]) -> Trace:
    """Prompts of 6 tokens, 4 of them shared by a session; each is done in 16 s."""
    n = len(arrivals)
    ids = np.array([[10 * s, 10 * s + 1, 10 * s + 2, 10 * s + 3] for s in sessions]).ravel()
    return Trace(
        "chat", np.array(arrivals), np.full(n, 6), np.ones(n, np.int64), hash_ids=ids,
        hash_offsets=np.arange(n + 1) * 4, hash_block_tokens=1,
    )  # fmt: skip


def replicas_of(trace: Trace, name: str, replicas: int, *, prefix_caching: bool = True) -> list[int]:
    policy = Policy("t", 8, SEQS, prefix_caching=prefix_caching)
    result = simulate_pool(trace, tables(), ReplicaLimits(100, 1, 60), policy, replicas=replicas, router=name)
    return [int(r) for r in result.requests.replica]


def test_prefix_aware_goes_where_the_prompt_is_cached() -> None:
    """Three sessions at once spread over three replicas; later each returns to its own, though all are idle."""
    trace = conversation([0.0, 0.1, 0.2, 100.0, 200.0, 300.0], [0, 1, 2, 2, 0, 1])
    assert replicas_of(trace, "prefix-aware", 3) == [0, 1, 2, 2, 0, 1]
    assert replicas_of(trace, "prefix-aware", 3, prefix_caching=False) == [0, 1, 2, 0, 0, 0]


@pytest.mark.parametrize(("arrival_s", "replica"), [(75.0, 0), (80.0, 1)])
def test_prefix_aware_knows_what_a_running_series_has_evicted(arrival_s: float, replica: int) -> None:
    """Twelve blocks: 4 cached, and a decode that takes its 9th at 78 s. From then on the first replica has no more."""
    trace = Trace(
        "chat", np.array([0.0, 20.0, arrival_s]), np.array([4, 4, 5]), np.array([1, 8, 1]),
        hash_ids=np.array([1, 2, 1]), hash_offsets=np.arange(4), hash_block_tokens=4,
    )  # fmt: skip
    policy = Policy("t", 8, SEQS, prefix_caching=True)
    result = simulate_pool(trace, tables(), ReplicaLimits(12, 1, 60), policy, replicas=2, router="prefix-aware")
    assert result.requests.replica.tolist() == [0, 0, replica]


def test_prefix_aware_leaves_an_overloaded_replica() -> None:
    """Nine of one session may be unfinished where another replica has none; the tenth goes there."""
    arrivals = [0.0, *(100.0 + 0.01 * k for k in range(10))]
    found = replicas_of(conversation(arrivals, [0] * 11), "prefix-aware", 2)
    assert found == [0] * 10 + [1]


def test_a_plug_in_sees_the_cached_prefix() -> None:
    class Watcher(ShortestQueueInPython):
        seen: ClassVar[list[list[int]]] = []

        def choose(self, request: RequestView, replicas: ReplicaView) -> int:
            self.seen.append(replicas.prefix_tokens.tolist())
            return request.index % 2

    policy = Policy("t", 8, SEQS, prefix_caching=True)
    trace = conversation([0.0, 50.0, 100.0], [0, 1, 0])
    simulate_pool(trace, tables(), ReplicaLimits(100, 1, 60), policy, replicas=2, router=Watcher())
    assert Watcher.seen == [[0, 0], [0, 0], [4, 0]]


def test_unknown_router_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'round-robin'"):
        router("round-robbin")
