"""Pages of several kinds of layers: the engine against the oracle, and what must hold of them (docs/invariants.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apexsim.cost.kvpages import KvPages, uniform
from apexsim.engine import fleet
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.engine.state import DECODING, PREFILLING, RUNNING, Limits, State
from apexsim.errors import UsageError
from tests.oracle_pages import most, pages
from tests.paged_worlds import paged_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.test_engine_invariants import run
from tests.test_engine_prefix import hashed
from tests.test_engine_routers import ShortestQueueInPython
from tests.test_engine_tiny import SEQS, tables
from tests.worlds import World, drawn, states_of, worlds


@given(paged_worlds(routers=BUILT_IN) | paged_worlds(routers=BUILT_IN, sharing=True))
@drawn
def test_engine_agrees_with_the_oracle_on_pages(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(st.booleans().flatmap(lambda drafting: paged_worlds(sharing=True, ordered=True, phased=True, drafting=drafting)))
@drawn
def test_engine_agrees_with_the_oracle_on_pages_in_every_order(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(paged_worlds(closed=False))
@drawn
def test_used_pages_are_those_of_running_requests_at_every_arrival(world: World) -> None:
    """Counted one by one; never more than the pool has, and none are held at the end."""
    real = fleet.PoolProcess.offer

    def checked(pool: fleet.PoolProcess, *rest: Any) -> None:
        state, limits = pool.state, pool.limits
        for r in range(len(state.replicas)):
            assert state.replicas[r].used_blocks == pages_in_use(world, state, limits, r)
            assert 0 <= state.replicas[r].used_blocks <= limits.kv_blocks
        real(pool, *rest)

    with mock.patch.object(fleet.PoolProcess, "offer", checked):
        (state,) = states_of(lambda: run(world, router=ShortestQueueInPython()))
    assert (state.replicas.used_blocks == 0).all()
    assert (state.replicas.peak_blocks <= world.limits.kv_blocks).all()
    assert (state.blocks == 0).all()


def pages_in_use(world: World, state: State, limits: Limits, r: int) -> int:
    requests, law, used = state.requests, world.limits.pages, 0
    assert law is not None
    running = np.isin(requests.phase, (PREFILLING, DECODING)) & (requests.group // state.stages == r)
    for i in np.flatnonzero(running):
        request, group = requests[i], state.groups[requests[i].group]
        if limits.reserve or request.phase == PREFILLING:
            used += int(request.blocks)
        else:
            ahead = int(group.decoded) if group.phase == RUNNING else 0
            tokens = int(request.computed + group.step - request.entry_step) + ahead
            used += len(pages(law, tokens - 1, tokens))
    return used


@given(worlds(routers=BUILT_IN), st.integers(2, 3))
@drawn
def test_alike_groups_are_larger_blocks(world: World, groups: int) -> None:
    """So many groups of full attention, and so many times the pages, change no byte but the number of pages."""
    limits, size = world.limits, world.limits.block_size
    policy = replace(world.policy, prefix_caching=False)
    one = replace(world, policy=policy, limits=replace(limits, pages=uniform(size)))
    assert run(one).same_bytes(run(replace(one, limits=limits)))
    law = KvPages(groups, 0, 0, size, size, 0)
    many = run(replace(one, limits=replace(limits, kv_blocks=groups * limits.kv_blocks, pages=law)))
    assert many.requests.finish_s.tobytes() == run(one).requests.finish_s.tobytes()
    assert many.pools[0].kv_peak_blocks == groups * run(one).pools[0].kv_peak_blocks


@given(paged_worlds(routers=BUILT_IN))
@drawn
def test_a_window_that_nobody_fills_changes_no_time(world: World) -> None:
    law = world.limits.pages
    assert law is not None
    wide = law._replace(window=10_000) if law.windowed_groups else law
    tables = world.tables._replace(window=10_000 if world.tables.window else 0)
    assume(law.window_block == law.block_size)
    full = wide._replace(full_groups=law.full_groups + law.windowed_groups, windowed_groups=0, window=0)
    results = [run(replace(world, tables=tables, limits=replace(world.limits, pages=p))) for p in (wide, full)]
    np.testing.assert_allclose(results[0].requests.finish_s, results[1].requests.finish_s, rtol=1e-12)
    np.testing.assert_array_equal(results[0].requests.preemptions, results[1].requests.preemptions)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(1, 6), st.integers(1, 20))
def test_the_law_of_pages_counts_them_one_by_one(full: int, windowed: int, state: int, size: int, window: int) -> None:
    for ratio in (1, 2):
        law = KvPages(full, windowed, state, size * ratio, size, window)
        for tokens in range(1, 45):
            assert law.held(tokens) == len(pages(law, tokens - 1, tokens))
            assert law.held(tokens) <= law.most(tokens, 7) == most(law, tokens, 7)
            for past in range(max(0, tokens - 7), tokens):
                assert len(pages(law, past, tokens)) <= law.most(tokens, 7)


@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 60), st.integers(1, 300))
def test_windows_only_save_pages(size: int, window: int, wider: int, tokens: int) -> None:
    narrow = KvPages(1, 2, 0, size, size, window)
    assert narrow.held(tokens) <= narrow._replace(window=window + wider).held(tokens)
    assert narrow.held(tokens) <= KvPages(3, 0, 0, size, size, 0).held(tokens)
    if window >= tokens:
        assert narrow.held(tokens) == KvPages(3, 0, 0, size, size, 0).held(tokens)


def test_pages_by_hand() -> None:
    """vLLM's own example: blocks of 16, a window of 32, 112 tokens: 7 pages of full attention, 2 of each window."""
    assert KvPages(1, 2, 0, 16, 16, 32).held(112) == 7 + 2 + 2
    assert KvPages(1, 2, 0, 16, 16, 32).held(113) == 8 + 3 + 3
    assert KvPages(0, 1, 0, 16, 16, 32).held(10_000) == 2
    assert KvPages(1, 0, 6, 528, 528, 0).held(1000) == 2 + 6


def test_before_anybody_is_preempted_all_that_is_cached_is_taken() -> None:
    """Eighteen pages: 2 cached, 6 of each of two prompts that fill their window of 3 tokens, 4 of a shorter one.

    The two give a page back, and all three want two. The first takes what is free, the second drives out what is
    cached, the third is preempted. What it leaves would have been enough for the second.
    """
    trace = hashed([0.0, 20.0, 20.0, 20.0, 200.0], [3, 3, 3, 2, 3], [1, 2, 2, 2, 1], [[1], [], [], [], [1]], block=2)
    limits = ReplicaLimits(kv_blocks=18, block_size=1, max_model_len=60, pages=KvPages(1, 1, 0, 1, 1, 3))
    result = simulate_pool(trace, tables()._replace(window=3), limits, Policy("t", 12, SEQS, prefix_caching=True))
    assert result.requests.preemptions.tolist() == [0, 0, 0, 1, 0]
    assert result.requests.cached_tokens[4] == 0


@given(paged_worlds())
@drawn
def test_a_prefix_cache_takes_one_group_that_keeps_the_whole_context(world: World) -> None:
    law = world.limits.pages
    assert law is not None
    assume(law.full_groups != 1 or law.state_pages > 0)
    policy = replace(world.policy, prefix_caching=True)
    trace = world.trace.with_columns(shared_prefix_tokens=np.ones(len(world.trace), np.int64))
    with pytest.raises(UsageError, match="one group of layers"):
        run(replace(world, policy=policy, trace=trace))
