"""LoRA adapters that come and go: the compiled engine against the naive oracle, and what must hold in every world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, given

from apexsim.engine.adapter_state import IN_HOST, ON_DEVICE
from apexsim.engine.result import COMPLETED, IN_FLIGHT
from apexsim.engine.state import NONE, State
from tests.adapter_worlds import adapter_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests, run_both
from tests.test_engine_invariants import run
from tests.worlds import World, drawn, states_of


@given(adapter_worlds(routers=BUILT_IN))
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_with_adapters(world: World) -> None:
    check_requests(world)


@given(adapter_worlds(routers=BUILT_IN))
@drawn
def test_every_load_and_every_iteration_agrees(world: World) -> None:
    check_iterations(world)
    result, expected = run_both(world)
    assume(not expected.tied)
    adapters, shelves = result.pools[0].adapters, [replica.shelf for replica in expected.replicas]
    assert adapters is not None
    assert adapters.uses == sum(shelf.uses for shelf in shelves)
    assert adapters.loads == sum(shelf.loads for shelf in shelves)
    assert adapters.fetches == sum(shelf.fetches for shelf in shelves)
    assert adapters.most_in_use == max(shelf.most for shelf in shelves)
    waited = sum(shelf.waited for shelf in shelves)
    np.testing.assert_allclose(result.pools[0].adapter_wait_s, waited, rtol=1e-9, atol=1e-11)


@given(adapter_worlds(routers=BUILT_IN))
@drawn
def test_a_batch_has_no_more_adapters_than_slots_and_a_device_neither(world: World) -> None:
    """At the end nobody has one, all that is left stands in the lists, and the device's is in host memory, too."""
    (state,) = states_of(lambda: run(world))
    law, adapters = world.limits.adapters, state.adapters
    assert law is not None
    assert (adapters.hubs.most_in_use <= law.slots).all()
    assert (adapters.hubs.in_use == 0).all()
    assert (adapters.slots.users == 0).all()
    assert (adapters.slots.waiting == 0).all()
    assert (adapters.slots.head[:, :] == NONE).all()
    assert (state.replicas.used_blocks == 0).all()
    device, host = adapters.kept[:, ON_DEVICE], adapters.kept[:, IN_HOST]
    assert (device.there <= host.there).all()
    assert (device.there.sum(axis=1) <= (0 if any(law.blocks) else law.slots)).all()
    assert (host.there.sum(axis=1) <= law.host_slots).all()
    for r, t in np.ndindex(adapters.ends.shape):
        assert adapters.ends[r, t].count == adapters.kept[r, t].there.sum() == listed(state, r, t)


def listed(state: State, r: int, t: int) -> int:
    """Adapters in the list of place t, followed both ways."""
    kept, there, back = state.adapters.kept[r, t], [], []
    a = state.adapters.ends[r, t].oldest
    while a != NONE:
        there.append(int(a))
        a = kept[a].younger
    a = state.adapters.ends[r, t].newest
    while a != NONE:
        back.append(int(a))
        a = kept[a].older
    assert there == back[::-1]
    return len(set(there))


@given(adapter_worlds(routers=BUILT_IN))
@drawn
def test_every_request_ends_once_and_causality_holds(world: World) -> None:
    columns = run(world).requests
    assert not (columns.status == IN_FLIGHT).any()
    done = columns.status == COMPLETED
    assert (columns.arrival_s[done] <= columns.start_s[done]).all()
    assert (columns.start_s[done] < columns.first_token_s[done]).all()
    assert (columns.first_token_s[done] <= columns.finish_s[done]).all()


@given(adapter_worlds(routers=BUILT_IN))
@drawn
def test_slots_for_all_and_loads_of_no_time_change_no_time(world: World) -> None:
    """Then nobody is passed over and nothing is waited for; prompts of different adapters must not share, though."""
    law = world.limits.adapters
    assert law is not None
    free = replace(law, slots=law.adapters, host_slots=law.adapters, load_s=(0.0,), fetch_s=(0.0,), blocks=(0,))
    plain = world.trace.with_columns(hash_ids=None, hash_offsets=None, adapters=(), adapter_code=None)
    router = "round-robin" if world.router == "lora-aware" else world.router
    off = replace(world, trace=plain, router=router, limits=replace(world.limits, adapters=None))
    on, off_run = run(replace(off, limits=replace(world.limits, adapters=free))), run(off)
    for name in ("arrival_s", "start_s", "first_token_s", "finish_s", "itl_max_s", "replica", "preemptions"):
        assert getattr(on.requests, name).tobytes() == getattr(off_run.requests, name).tobytes()


@given(adapter_worlds(closed=False))
@drawn
def test_hits_are_what_one_at_a_time_would_find_by_hand(world: World) -> None:
    """One request at a time on one replica: an LRU list of the slots says which are loaded."""
    law = world.limits.adapters
    assert law is not None
    one = replace(world, policy=replace(world.policy, max_num_seqs=1, order="fcfs"), replicas=1)
    slots = replace(law, blocks=(0,))
    result = run(replace(one, limits=replace(one.limits, adapters=slots)))
    columns, counters = result.requests, result.pools[0]
    assume(not columns.preemptions.any())
    assert columns.adapter is not None
    assert counters.adapters is not None
    recent: list[int] = []
    loads = 0
    begun = np.flatnonzero(np.isfinite(columns.start_s) & (columns.adapter >= 0))
    for a in columns.adapter[begun[np.argsort(columns.start_s[begun], kind="stable")]].tolist():
        loads += a not in recent
        recent = [other for other in recent if other != a][-(law.slots - 1) :] * (law.slots > 1) + [a]
    assert counters.adapters.uses == len(begun)
    assert counters.adapters.loads == loads
