"""Ranks in lockstep against the oracle, and what must hold of them."""

from __future__ import annotations

from dataclasses import fields
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given

from apexsim.cost.tables import GroupTables, StepTables
from apexsim.engine import fleet
from apexsim.engine import simulate as simulate_module
from apexsim.engine.result import COMPLETED, IN_FLIGHT, Counters, SimulationResult
from apexsim.engine.state import IDLE, State, new_state
from apexsim.validation.window import between
from tests.lockstep_worlds import lockstep_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.test_engine_invariants import run
from tests.test_engine_marks import SHARES, instants
from tests.test_engine_routers import ShortestQueueInPython
from tests.test_engine_tiny import SEQS, serve, tables
from tests.worlds import World, drawn, with_states, worlds


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_ranks_agree_with_the_oracle(world: World) -> None:
    check_requests(world)


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_every_gap_and_every_iteration_of_ranks_agrees(world: World) -> None:
    check_iterations(world)


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_ranks_of_a_group_begin_and_end_every_iteration_together(world: World) -> None:
    line = run(world, timeline=True).timeline
    assert line is not None
    ranks = world.tables.group.ranks
    for first in range(0, world.replicas * ranks, ranks):
        of_rank = [line.replica == rank for rank in range(first, first + ranks)]
        for column in (line.begin_s, line.end_s, line.steps):
            own = [column[rank] for rank in of_rank]
            assert all(np.array_equal(own[0], each) for each in own)
        busy = sum(line.requests[rank] for rank in of_rank)
        assert (np.asarray(busy) > 0).all(), "somebody has work, or the group idles"


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_ranks_conserve_requests_and_blocks(world: World) -> None:
    result, (state,) = with_states(lambda: run(world))
    assert not (result.requests.status == IN_FLIGHT).any()
    replicas, groups = state.replicas, state.groups
    assert (replicas.used_blocks == 0).all()
    assert (replicas.peak_blocks <= world.limits.kv_blocks).all()
    assert (replicas.running == 0).all()
    assert (replicas.waiting == 0).all()
    assert (groups.phase == IDLE).all()
    assert (groups.kv == 0).all()


@given(lockstep_worlds())
@drawn
def test_the_time_of_ranks_adds_up(world: World) -> None:
    """What a rank runs itself, what all run together, and waiting for the slowest is the time of every iteration."""
    none = np.zeros_like(world.tables.host_serial_s)
    law = world.tables._replace(host_floor_s=none, host_serial_s=none)
    result = run(World(**{f.name: getattr(world, f.name) for f in fields(World)} | {"tables": law}))
    found, group = result.pools[0], law.group
    own = at(law, law.mixed_s[0], found.mixed) + found.decode[: len(law.decode_s[0])] @ law.decode_s[0]
    own += found.sampled[: len(law.head_s)] @ law.head_s + found.prefill_attention_s + found.decode_attention_s
    fullest, everyone, rest = found.together[:2], found.together[2:4], found.together[4:]
    seqs = len(group.exchange_decode_s)
    shared = at(law, group.exchange_mixed_s, fullest[0]) + fullest[1, :seqs] @ group.exchange_decode_s
    shared += at(law, group.experts_mixed_s, everyone[0]) + everyone[1, :seqs] @ group.experts_decode_s
    step = np.diff(group.experts_decode_s, append=0.0)
    shared += rest[1, :seqs] @ step / group.ranks
    shared += at(law, group.experts_mixed_s, np.roll(rest[0], 1)) / group.ranks
    shared -= at(law, group.experts_mixed_s, rest[0]) / group.ranks
    assert found.waited_s >= -1e-9
    np.testing.assert_allclose(own / group.ranks + shared + found.waited_s, found.busy_s, rtol=1e-9, atol=1e-12)
    assert found.iterations == group.ranks * everyone.sum() == group.ranks * fullest.sum()


def at(law: StepTables, table: np.ndarray, counts: np.ndarray) -> float:
    """Σ counts[T] · table(T), linear between token knots and beyond the last."""
    i = np.arange(len(table))
    knots = np.where(i <= law.token_dense, i, law.token_dense + (i - law.token_dense) * law.token_stride)
    tokens = np.arange(len(counts))
    beyond = np.maximum(0, tokens - knots[-1]) * (table[-1] - table[-2]) / (knots[-1] - knots[-2])
    return float(counts @ (np.interp(tokens, knots, table) + beyond))


@given(lockstep_worlds(routers=("join-shortest-queue",), closed=False))
@drawn
def test_a_plug_in_chooses_among_ranks_as_the_compiled_loop_does(world: World) -> None:
    assert run(world).same_bytes(run(world, router=ShortestQueueInPython()))


@given(lockstep_worlds(closed=False), SHARES)
@drawn
def test_marks_of_ranks_change_no_request_and_add_up(world: World, shares: list[float]) -> None:
    plain = run(world, seed=7)
    marked = run(world, seed=7, marks=instants(world, plain, shares))
    for name in ("first_token_s", "finish_s", "itl_max_s"):
        np.testing.assert_allclose(
            getattr(marked.requests, name), getattr(plain.requests, name), rtol=1e-9, atol=1e-12
        )
    early, late = (snapshot.counters for snapshot in marked.snapshots)
    parts = (early, between(early, late), between(late, plain.pools[0]))
    for field in fields(Counters):
        if not field.name.startswith("kv_") and field.name not in ("tiers", "adapters"):
            total = sum(np.asarray(getattr(part, field.name)) for part in parts)
            np.testing.assert_allclose(
                total, getattr(plain.pools[0], field.name), rtol=1e-9, atol=1e-9, err_msg=field.name
            )


@given(worlds(alone=True))
@drawn
def test_a_group_of_one_rank_with_nothing_to_share_is_a_replica(world: World) -> None:
    """The lockstep kernels at dp = 1 give the times of the others."""
    knots, seqs = world.tables.mixed_s.shape[1], world.tables.decode_s.shape[1]
    group = GroupTables(1, 0, 0, np.zeros(knots), np.zeros(seqs), np.zeros(knots), np.zeros(seqs))
    law = world.tables._replace(cp=1)
    of_world = {f.name: getattr(world, f.name) for f in fields(World)}
    plain = run(World(**of_world | {"tables": law}))
    assume((plain.requests.status == COMPLETED).any())

    def with_rows(*args: object, **kwargs: object) -> State:
        return new_state(*args, **(kwargs | {"lockstep": True}))  # type: ignore[arg-type]

    alone = World(**of_world | {"tables": law._replace(group=group)})
    with (
        mock.patch.object(fleet, "REPLICAS", fleet.IN_LOCKSTEP),
        mock.patch.object(simulate_module, "new_state", with_rows),
    ):
        found = run(alone)
    for name in ("start_s", "first_token_s", "finish_s", "itl_max_s", "replica", "preemptions", "cached_tokens"):
        np.testing.assert_allclose(
            getattr(found.requests, name), getattr(plain.requests, name), rtol=1e-9, atol=1e-9, err_msg=name
        )
    assert found.pools[0].iterations == plain.pools[0].iterations


def test_without_ranks_nothing_is_counted_for_them() -> None:
    counters = serve([0.0], [5], [3]).pools[0]
    assert (counters.waited_s, counters.together.shape[0]) == (0.0, 0)


def together(ranks: int = 2, exchange_s: float = 100.0, padded: int = 0) -> StepTables:
    """The law of ``test_engine_tiny``, with an exchange of ``exchange_s`` and 1000 s a mean token of the ranks."""
    knots, seqs = np.arange(65.0), np.arange(SEQS + 1.0)
    group = GroupTables(
        ranks, padded, padded, np.full(65, exchange_s), np.full(SEQS + 1, exchange_s), 1000 * knots, 1000 * seqs
    )
    return tables()._replace(group=group)


def pair(arrivals: list[float], prompts: list[int], outputs: list[int], **options: object) -> SimulationResult:
    return serve(arrivals, prompts, outputs, law=together(), router="round-robin", timeline=True, **options)


def test_a_rank_without_work_runs_a_dummy_batch_of_one_token() -> None:
    """Prefill of 5 tokens beside a dummy: 15 s own, 100 s exchange, 3 mean tokens; decode: 11 + 100 + 1000 s."""
    result = pair([0.0], [5], [2])
    assert result.requests.first_token_s[0] == 15.0 + 100.0 + 3000.0
    assert result.requests.finish_s[0] == 3115.0 + 1111.0
    line, counters = result.timeline, result.pools[0]
    assert line is not None
    assert line.requests.tolist() == [1, 0, 1, 0]
    assert counters.waited_s == (15.0 - 11.0) / 2  # the dummy's one token takes 11 s, in decode as long as the other
    assert counters.busy_s == 3115.0 + 1111.0


def test_one_prompt_holds_up_the_decodes_of_all_ranks() -> None:
    """A second request goes to the other rank: its prefill of 8 tokens (18 s, 4.5 mean tokens) is the first's gap."""
    result = pair([0.0, 3200.0], [5, 8], [4, 2])
    begin = 3115.0 + 1111.0
    assert result.requests.start_s[1] == begin
    assert result.requests.first_token_s[1] == begin + 18.0 + 100.0 + 4500.0
    assert result.requests.itl_max_s[0] == 4618.0


def test_padded_ranks_compute_as_many_tokens_as_the_fullest() -> None:
    """With CUDA graphs the dummy computes 5 tokens, and the experts get 10."""
    result = serve([0.0], [5], [1], law=together(padded=8), router="round-robin")
    assert result.requests.finish_s[0] == 15.0 + 100.0 + 5000.0
    assert result.pools[0].waited_s == 0.0


@pytest.mark.parametrize(("arrival_s", "start_s"), [(0.0, 0.0), (5000.0, 5000.0), (1.0, 3115.0)])
def test_an_idle_group_starts_at_once_and_a_running_one_at_its_boundary(arrival_s: float, start_s: float) -> None:
    result = pair([0.0, arrival_s], [5, 5], [1, 1])
    assert result.requests.start_s[1] == start_s
