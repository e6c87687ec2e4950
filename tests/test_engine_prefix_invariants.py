"""The invariants of the prefix cache (27 to 33 of docs/invariants.md), on worlds that Hypothesis draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import assume, given

from apexsim.engine import fleet
from apexsim.engine.result import COMPLETED
from apexsim.engine.state import DECODING, NONE, PREFILLING, RUNNING, Limits, State
from apexsim.workload.trace import Trace
from tests.oracle_memory import blocks_of
from tests.test_engine_differential import BUILT_IN, EXACT, gaps_of, run_both
from tests.test_engine_invariants import run
from tests.test_engine_routers import ShortestQueueInPython
from tests.worlds import World, drawn, states_of, worlds


@given(worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_27_engine_agrees_with_the_oracle_on_worlds_that_share(world: World) -> None:
    result, expected = run_both(world)
    assume(not expected.tied)
    columns = result.requests
    for i, request in enumerate(expected.requests):
        assert columns.cached_tokens[i] == (request.hit or 0)
        assert columns.preemptions[i] == request.preemptions
        assert columns.replica[i] == request.replica
        if not request.rejected:
            np.testing.assert_allclose(columns.start_s[i], request.start, **EXACT)
            np.testing.assert_allclose(columns.finish_s[i] - world.limits.exit_s, request.tokens[-1], **EXACT)
    assert result.pools[0].evicted_blocks == sum(blocks_of(replica.evicted) for replica in expected.replicas)


@given(worlds(routers=("round-robin",), closed=False, sharing=True))
@drawn
def test_28_blocks_are_used_cached_or_free_at_every_arrival(world: World) -> None:
    """Under a router in Python the state can be looked at between two arrivals."""
    real = fleet.PoolProcess.offer

    def checked(pool: fleet.PoolProcess, *rest: Any) -> None:
        state, limits = pool.state, pool.limits
        for r in range(len(state.replicas) if limits.prefix_caching else 0):
            assert_sound(state, limits, r)
        real(pool, *rest)

    with mock.patch.object(fleet.PoolProcess, "offer", checked):
        run(world, router=ShortestQueueInPython())


@given(worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_28_nobody_holds_anything_at_the_end(world: World) -> None:
    (state,) = states_of(lambda: run(world))
    units, replicas = state.cache.units, state.replicas
    assert (units.holders == 0).all()
    assert (replicas.used_blocks == 0).all()
    if units.shape[1]:
        found = units.resident * (state.cache.sizes + units.lost_before)
        np.testing.assert_array_equal(replicas.cached_blocks, found.sum(axis=1) + replicas.lost_last)
    assert (replicas.cached_blocks <= world.limits.kv_blocks).all()


@given(worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_29_hits_are_whole_blocks_and_leave_the_last_token(world: World) -> None:
    columns = run(world).requests
    hits, prompts = columns.cached_tokens, columns.input_tokens
    assert (hits >= 0).all()
    assert (hits <= prompts - 1).all()
    assert (hits % world.limits.block_size == 0).all()
    assert (hits[columns.status != COMPLETED] == 0).all()


@given(worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_30_only_what_was_computed_or_declared_is_found(world: World) -> None:
    """Whatever a request finds by hash, a request that began earlier at the same replica has as its own beginning.

    In a pipeline that may be at the same instant, in the batch before.
    """
    trace, columns = world.trace, run(world).requests
    before = np.less_equal if world.policy.follow and world.tables.stages > 1 else np.less
    for i in np.flatnonzero(columns.cached_tokens):
        names = names_of(trace, i)
        if not names:
            assert trace.shared_prefix_tokens is not None
            assert columns.cached_tokens[i] <= trace.shared_prefix_tokens[i]
            continue
        blocks = -(-int(columns.cached_tokens[i]) // trace.hash_block_tokens)
        earlier = np.flatnonzero(before(columns.start_s, columns.start_s[i]) & (columns.replica == columns.replica[i]))
        assert any(names_of(trace, j)[:blocks] == names[:blocks] for j in earlier if j != i)


@given(worlds(closed=False, sharing=True))
@drawn
def test_31_no_cache_finds_more_than_an_endless_one(world: World) -> None:
    """One request at a time, so that the order is fixed. With several at once a slower run may find more.

    In the whole replica, that is: where each batch of a pipeline has one, two run at once, and the second begins before
    the first has computed what it could find.
    """
    one = replace(world, policy=replace(world.policy, max_num_seqs=1, seqs_of="replica"), replicas=1)
    endless = replace(one, limits=replace(one.limits, kv_blocks=10**6))
    served = run(one).requests
    fits = served.status == COMPLETED
    assume(fits.all())
    assert (served.cached_tokens <= run(endless).requests.cached_tokens).all()


@given(worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_32_a_prefix_cache_that_is_off_changes_no_byte(world: World) -> None:
    """Off by the plan, or because the trace says nothing of prefixes; the session stays, routers look at it."""
    plain = world.trace.with_columns(hash_ids=None, hash_offsets=None, shared_prefix_tokens=None)
    off = replace(world.policy, prefix_caching=False)
    bare = run(replace(world, trace=plain, policy=off))
    assert run(replace(world, policy=off)).same_bytes(bare)
    assert run(replace(world, trace=plain)).same_bytes(bare)


@given(worlds(routers=("round-robin", "least-loaded"), sharing=True))
@drawn
def test_33_a_cache_in_which_nothing_is_found_changes_no_time(world: World) -> None:
    """All prompts differ from their first token on: cached blocks are given up for the asking."""
    n = len(world.trace)
    counts = -(-world.trace.input_tokens // 3)
    trace = world.trace.with_columns(
        hash_ids=np.arange(counts.sum()), hash_offsets=np.concatenate([[0], np.cumsum(counts)]), hash_block_tokens=3,
    )  # fmt: skip
    cached, plain = (
        run(replace(world, trace=trace, policy=replace(world.policy, prefix_caching=on))) for on in (True, False)
    )
    assume((plain.requests.preemptions == 0).all())  # a preempted request finds itself
    assert cached.requests.cached_tokens.tolist() == [0] * n
    for name in ("start_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(cached.requests, name), getattr(plain.requests, name), rtol=1e-9)
    np.testing.assert_allclose(gaps_of(cached), gaps_of(plain), rtol=1e-9)


def names_of(trace: Trace, i: int) -> list[int]:
    if trace.hash_ids is None or trace.hash_offsets is None:
        return []
    return [int(name) for name in trace.hash_ids[trace.hash_offsets[i] : trace.hash_offsets[i + 1]]]


def assert_sound(state: State, limits: Limits, r: int) -> None:
    """Every count of replica r is what a look at its requests and units says."""
    replica, stages = state.replicas[r], state.stages
    cache, group = state.cache, state.groups[state.requests.group]
    running = np.isin(state.requests.phase, (PREFILLING, DECODING)) & (state.requests.group // stages == r)
    blocks, holders = 0, np.zeros(len(cache.sizes), np.int64)
    for i in np.flatnonzero(running):
        request, prefix, g = state.requests[i], cache.prefixes[i], group[i]
        if limits.reserve or request.phase == PREFILLING:
            blocks += request.blocks
        else:
            ahead = g.decoded if g.phase == RUNNING else 0
            blocks += -(-int(request.computed + g.step - request.entry_step + ahead) // limits.block_size)
        held = np.flatnonzero(cache.held[prefix.mark : prefix.mark + prefix.settled])
        mine = cache.ids[prefix.first + held]
        blocks -= cache.sizes[mine].sum()
        holders[mine] += 1
    units = cache.units[r]
    np.testing.assert_array_equal(units.holders, holders)
    assert (units.resident[holders > 0] == 1).all()
    assert replica.used_blocks == blocks + cache.sizes[holders > 0].sum()
    idle = np.flatnonzero((units.resident == 1) & (holders == 0))
    assert evictable(units, replica) == set(idle.tolist())
    assert replica.cached_blocks == cache.sizes[idle].sum() + units.lost_before[idle].sum() + replica.lost_last
    assert replica.used_blocks + replica.cached_blocks <= limits.kv_blocks


def evictable(units: np.recarray, replica: np.record) -> set[int]:
    """The units of the list, followed both ways."""
    there, back = [], []
    u = replica.oldest
    while u != NONE:
        there.append(int(u))
        u = units[u].younger
    u = replica.newest
    while u != NONE:
        back.append(int(u))
        u = units[u].older
    assert there == back[::-1]
    return set(there)
