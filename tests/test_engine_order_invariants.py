"""What must hold of waiting lists in any order: nothing is lost, nothing changes where it is off, and fair is fair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from apexsim.engine.result import COMPLETED
from apexsim.engine.routers import Offered, ReplicaView, RequestView
from apexsim.engine.schedulers import Policy
from tests.oracle import simulate as naive
from tests.test_engine_differential import BUILT_IN
from tests.test_engine_invariants import run
from tests.worlds import World, drawn, worlds


@given(worlds(routers=BUILT_IN), st.sampled_from(["priority", "shortest-first", "fair", "deadline"]))
@drawn
def test_51_an_order_only_permutes(world: World, order: str) -> None:
    """The same requests complete, with as many tokens, whatever the order."""
    ordered = run(replace(world, policy=replace(world.policy, order=order))).requests
    first_come = run(world).requests
    np.testing.assert_array_equal(ordered.status, first_come.status)
    np.testing.assert_array_equal(ordered.output_tokens, first_come.output_tokens)


@given(worlds(routers=BUILT_IN, ordered=True))
@drawn
def test_52_first_come_first_served_asks_for_nothing_else(world: World) -> None:
    """Without an order and limits, classes, clients and deadlines of a trace change no byte."""
    plain = {"priority": None, "client_code": None, "clients": (), "deadline_s": None}
    policy = Policy(world.policy.preset, world.policy.max_num_batched_tokens, world.policy.max_num_seqs)
    silent = replace(world, policy=policy, trace=world.trace.with_columns(**plain))
    assert run(replace(world, policy=policy)).same_bytes(run(silent))


class Counting:
    """Sends every request to the first replica, and writes down how many it has."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        pass

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        self.seen.append(int(replicas.waiting[0] + replicas.running[0]))
        return 0


@given(worlds(closed=False, ordered=True))
@drawn
def test_53_littles_law(world: World) -> None:
    """Requests in the system, as the engine counts them, are those that have arrived and not left: L = λ · W."""
    assume(world.policy.max_wait_s == np.inf and not world.policy.shed_late)  # who is shed has no instant of leaving
    router = Counting()
    columns = run(world, router=router, concurrency=None).requests
    arrival_s = columns.arrival_s + world.limits.entry_s
    stayed = columns.status == COMPLETED
    left_s = columns.finish_s - world.limits.exit_s
    for i, seen in enumerate(router.seen):
        assert seen == (stayed[:i] & (left_s[:i] > arrival_s[i] + 1e-9)).sum()
    # So the time that requests spend in the system is the integral of their number.
    instants = np.sort(np.concatenate([arrival_s[stayed], left_s[stayed]]))
    inside = [(stayed & (arrival_s <= a) & (left_s > a)).sum() for a in instants]
    area = (np.array(inside[:-1]) * np.diff(instants)).sum() if stayed.any() else 0.0
    np.testing.assert_allclose(area, (left_s - arrival_s)[stayed].sum(), rtol=1e-9, atol=1e-12)


def urgency(world: World) -> np.ndarray:
    """The key of each request, the smallest first; ties by index."""
    trace, policy = world.trace, world.policy
    if policy.order == "priority":
        return np.asarray(trace.priority, np.float64)
    if policy.order == "shortest-first":
        return np.asarray(trace.input_tokens, np.float64)
    own = np.asarray(trace.deadline_s)
    return np.asarray(trace.arrival_s + np.where(np.isfinite(own), own, policy.deadline_s))


@given(
    worlds(routers=BUILT_IN, ordered=True, closed=False), st.sampled_from(["priority", "shortest-first", "deadline"])
)
@drawn
def test_63_nobody_overtakes_a_more_urgent_request(world: World, order: str) -> None:
    """Of two that waited at one replica the more urgent starts first, or in the same iteration.

    A request fits where the iteration has budget left for a chunk of it (uncut: for all of it, or no prompt is in the
    iteration), the replica and the batch hold fewer than ``max_num_seqs`` requests, and the blocks of that chunk are
    not used by running requests. The first that does not fit ends the admission, so the law is stronger than "would
    have fitted". What a boundary knows of is who had arrived; with asynchronous scheduling, when the iteration that
    ends there began.
    """
    policy = replace(world.policy, order=order)
    held = replace(world, policy=policy)
    result = run(held, timeline=True)
    columns, line = result.requests, result.timeline
    assert line is not None
    arrival_s, key = columns.arrival_s + world.limits.entry_s, urgency(held)
    for j in np.flatnonzero(np.isfinite(columns.start_s)):
        start_s = columns.start_s[j]
        known_s = start_s
        if policy.ahead and world.tables.stages == 1:
            ends = (line.replica == columns.replica[j]) & (abs(line.end_s - start_s) < 1e-9)
            known_s = min(line.begin_s[ends], default=start_s)
        known = (columns.replica == columns.replica[j]) & (arrival_s < known_s - 1e-9)
        urgent = (key < key[j]) | ((key == key[j]) & (np.arange(len(key)) < j))
        ahead_of_it = known & urgent & np.isfinite(columns.start_s)
        assert (columns.start_s[ahead_of_it] <= start_s + 1e-9).all()


@given(worlds(closed=False), st.integers(1, 3), st.integers(1, 3))
@drawn
def test_54_backlogged_clients_are_served_alike(world: World, input_weight: int, output_weight: int) -> None:
    """Theorem 4.4 of VTC: of two clients that both wait, neither is ahead of the other by more than 2 U."""
    policy = replace(
        world.policy, order="fair", input_weight=input_weight, output_weight=output_weight, reserve=True, ahead=False
    )
    n = len(world.trace)
    trace = world.trace.with_columns(arrival_s=np.zeros(n), client_code=np.arange(n) % 2, clients=("a", "b"))
    held = naive(trace, world.tables, world.limits, policy, candidates=np.zeros((1, 1), np.int64), load="place")
    requests = [r for r in held.requests if not r.rejected]
    mine = [[r for r in requests if r.client == c] for c in (0, 1)]
    assume(all(mine))
    until = min(max(r.start for r in own) for own in mine)  # both have had requests waiting until here

    def served(own: list, until: float) -> int:
        prompts = sum(r.prompt for r in own if r.start < until)
        return input_weight * prompts + output_weight * sum(sum(t < until for t in r.tokens) for r in own)

    most = world.limits.kv_blocks * world.limits.block_size
    bound = 2 * max(input_weight * max(r.prompt for r in requests), output_weight * most)
    for at in sorted({r.start for r in requests if r.start <= until}):
        assert abs(served(mine[0], at) - served(mine[1], at)) <= bound
