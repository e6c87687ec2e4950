"""KV tiers and swapping: the compiled engine against the naive oracle, and what must hold whatever is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, given

from apexsim.cost.swap import SwapLaw
from apexsim.cost.tiers import TierLaw
from apexsim.engine.result import COMPLETED
from apexsim.engine.state import NONE
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests, run_both
from tests.test_engine_invariants import run
from tests.tier_worlds import swapping_worlds, tiered_ranks, tiered_worlds
from tests.worlds import World, drawn, states_of, worlds


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_with_tiers(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_every_load_and_store_agrees(world: World) -> None:
    result, expected = run_both(world)
    assume(not expected.tied)
    for t, tier in enumerate(result.pools[0].tiers):
        below = [replica.below for replica in expected.replicas]
        owners = {id(one.tiers[t]): one.tiers[t] for one in below}.values()
        assert tier.loaded_blocks == sum(one.loaded[t] for one in below)
        assert tier.hit_tokens == sum(one.hits[t] for one in below) * world.limits.block_size
        assert tier.stored_blocks == sum(one.stored for one in owners)
        assert tier.evicted_blocks == sum(one.evicted for one in owners)
        assert tier.peak_blocks == max(one.peak for one in owners)


@given(swapping_worlds(routers=BUILT_IN))
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_that_swap(world: World) -> None:
    check_requests(world)
    check_iterations(world)
    result, expected = run_both(world)
    assume(not expected.tied)
    assert result.pools[0].swaps == sum(replica.swap.swaps for replica in expected.replicas)
    assert result.pools[0].copied_blocks == sum(replica.swap.copied for replica in expected.replicas)


@given(tiered_worlds(routers=BUILT_IN, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_on_tiers_and_drafts(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(tiered_ranks(routers=BUILT_IN))
@drawn
def test_ranks_with_tiers_and_swaps_agree_with_the_oracle(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_a_load_that_costs_nothing_is_never_weighed_away(world: World) -> None:
    """Tiers that load at once give the same bytes whether loads are weighed or not; so does a pool without tiers."""
    instant = tuple(replace(tier, block_s=0.0, latency_s=0.0) for tier in world.limits.tiers)
    for tiers in (instant, ()):
        always, cheapest = (
            run(replace(world, limits=replace(world.limits, tiers=tiers, weigh_loads=weigh))) for weigh in (False, True)
        )
        assert always.same_bytes(cheapest)


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_a_load_that_costs_more_than_any_prefill_never_happens(world: World) -> None:
    """Tiers that take a year: nothing is loaded, and no request waits for them."""
    slow = tuple(replace(tier, latency_s=3e7) for tier in world.limits.tiers)
    result = run(replace(world, limits=replace(world.limits, tiers=slow, weigh_loads=True)))
    assert all(tier.loaded_blocks == 0 for tier in result.pools[0].tiers)
    assert result.pools[0].copy_s == 0.0


@given(swapping_worlds(routers=BUILT_IN))
@drawn
def test_nothing_is_held_in_the_end_and_no_tier_overflows(world: World) -> None:
    """Counts of holders return to zero, the swap space is empty, and what a tier holds is what its list says."""
    (state,) = states_of(lambda: run(world))
    assert (state.cache.units.holders == 0).all()
    assert (state.replicas.swapped_blocks == 0).all()
    assert (state.replicas.used_blocks == 0).all()
    stores, kept = state.tiers.stores, state.tiers.kept
    assert (stores.pending == 0).all()
    assert (stores.peak <= stores.capacity).all()
    for r, t in np.ndindex(stores.shape):
        there = np.flatnonzero(kept[r, t].resident)
        assert stores[r, t].used == state.cache.sizes[there].sum()
        assert listed(kept[r, t], stores[r, t]) == set(there.tolist())


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_hits_are_at_most_the_prompt_less_its_last_token(world: World) -> None:
    result = run(world)
    columns, tiers = result.requests, result.pools[0].tiers
    assert (columns.cached_tokens <= columns.input_tokens - 1).all()
    assert sum(tier.hit_tokens for tier in tiers) <= columns.cached_tokens.sum()
    assert all(tier.hit_tokens <= tier.loaded_blocks * world.limits.block_size for tier in tiers)


@given(tiered_worlds(closed=False))
@drawn
def test_one_at_a_time_an_endless_tier_finds_what_an_endless_device_would(world: World) -> None:
    endless = replace(world.limits.tiers[0], blocks=1 << 40, shared=False)
    one = replace(world, policy=replace(world.policy, max_num_seqs=1, seqs_of="replica"), replicas=1)
    tier = replace(one, limits=replace(one.limits, tiers=(endless,), weigh_loads=False))
    device = replace(one, limits=replace(one.limits, tiers=(), kv_blocks=10**6))
    served = run(tier).requests
    assume((served.status == COMPLETED).all())
    np.testing.assert_array_equal(served.cached_tokens, run(device).requests.cached_tokens)


@given(worlds(routers=BUILT_IN))
@drawn
def test_a_swap_space_that_nobody_needs_and_tiers_that_hold_nothing_change_no_byte(world: World) -> None:
    """Blocks for all, so that nobody is preempted; or a trace that says nothing of prefixes."""
    roomy = replace(world, limits=replace(world.limits, kv_blocks=10**4))
    swap = SwapLaw(1000, 1, 1e-3, asynchronous=False, block_bytes=1.0)
    assert run(replace(roomy, limits=replace(roomy.limits, swap=swap))).same_bytes(run(roomy))
    plain = replace(world, trace=world.trace.with_columns(hash_ids=None, hash_offsets=None, shared_prefix_tokens=None))
    host = TierLaw("host", 1000, 1e-3, 1e-3, block_bytes=1.0, layers=1)
    assert run(replace(plain, limits=replace(plain.limits, tiers=(host,)))).same_bytes(run(plain))


def listed(kept: np.recarray, store: np.record) -> set[int]:
    """The units of a tier's list, followed both ways."""
    there, back = [], []
    u = store.oldest
    while u != NONE:
        there.append(int(u))
        u = kept[u].younger
    u = store.newest
    while u != NONE:
        back.append(int(u))
        u = kept[u].older
    assert there == back[::-1]
    return set(there)
