"""The numbered invariants of docs/invariants.md, on worlds that Hypothesis draws."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
from hypothesis import given

from apexsim.engine import simulate as simulate_module
from apexsim.engine.result import COMPLETED, IN_FLIGHT, REJECTED, SimulationResult
from apexsim.engine.simulate import simulate_pool
from apexsim.engine.state import IDLE, NONE, State, new_state
from tests.test_engine_differential import BUILT_IN, gaps_of
from tests.worlds import World, drawn, with_states, worlds


def run(world: World, **changes: object) -> SimulationResult:
    arguments: dict[str, object] = {
        "replicas": world.replicas, "router": world.router, "seed": 3, "concurrency": world.concurrency
    }  # fmt: skip
    return simulate_pool(world.trace, world.tables, world.limits, world.policy, **(arguments | changes))  # type: ignore[arg-type]


@given(worlds(routers=BUILT_IN))
@drawn
def test_1_every_request_ends_exactly_once(world: World) -> None:
    columns = run(world).requests
    assert len(columns.status) == len(world.trace)
    assert not (columns.status == IN_FLIGHT).any()
    completed = columns.status == COMPLETED
    assert np.isfinite(columns.finish_s[completed]).all()
    assert np.isnan(columns.finish_s[~completed]).all()


@given(worlds(routers=BUILT_IN))
@drawn
def test_2_causality(world: World) -> None:
    columns = run(world).requests
    done = columns.status == COMPLETED
    assert (columns.arrival_s[done] <= columns.start_s[done]).all()
    assert (columns.start_s[done] < columns.first_token_s[done]).all()
    assert (columns.first_token_s[done] <= columns.finish_s[done]).all()


@given(worlds(routers=BUILT_IN))
@drawn
def test_3_blocks_are_conserved_and_all_free_at_the_end(world: World) -> None:
    result, (state,) = with_states(lambda: run(world))
    replicas, groups = state.replicas, state.groups
    assert (replicas.used_blocks == 0).all()
    assert (replicas.running == 0).all()
    assert (replicas.waiting == 0).all()
    assert (replicas.prompt_tokens == 0).all()
    assert (replicas.waiting_head == NONE).all()
    assert (groups.phase == IDLE).all()
    for sums in (groups.kv, groups.kv_windowed, groups.growing, groups.decoding, state.blocks):
        assert (sums == 0).all()
    assert 0 <= result.pools[0].kv_peak_blocks <= world.limits.kv_blocks


@given(worlds(routers=BUILT_IN))
@drawn
def test_4_output_tokens_as_asked(world: World) -> None:
    """Every completed request has one gap fewer than tokens, and every token but the first came from a counted step."""
    result = run(world)
    done = result.requests.status == COMPLETED
    asked = result.requests.output_tokens[done]
    assert len(gaps_of(result)) == (asked - 1).sum()
    assert int((result.itl.count * result.itl.sequences).sum()) == (asked - 1).sum()


@given(worlds(routers=BUILT_IN))
@drawn
def test_5_same_seed_same_bytes(world: World) -> None:
    assert run(world).same_bytes(run(world))


@given(worlds(routers=BUILT_IN))
@drawn
def test_6_time_scales(world: World) -> None:
    """All times by 4 (exact in binary): all latencies by 4, to the last bit."""
    tables = world.tables
    scaled = world.tables._replace(
        **{name: getattr(tables, name) * 4 for name in tables._fields if name.endswith("_s")}
    )
    trace = world.trace.with_columns(arrival_s=world.trace.arrival_s * 4)
    limits = replace(world.limits, entry_s=0.0, exit_s=0.0)
    slow = run(replace(world, trace=trace, tables=scaled, limits=limits))
    fast = run(replace(world, limits=limits))
    np.testing.assert_array_equal(slow.requests.finish_s, fast.requests.finish_s * 4)
    np.testing.assert_array_equal(slow.requests.first_token_s, fast.requests.first_token_s * 4)
    np.testing.assert_array_equal(slow.itl.start_s, fast.itl.start_s * 4)


@given(worlds(routers=BUILT_IN))
@drawn
def test_7_no_idling_while_admissible_work_waits(world: World) -> None:
    """A replica that runs nothing has nothing waiting: a request that comes to an idle replica starts at once."""
    result = run(world, timeline=True, concurrency=None)
    line, columns = result.timeline, result.requests
    assert line is not None
    for i in np.flatnonzero(columns.status == COMPLETED):
        mine = line.replica == columns.replica[i]
        arrival = columns.arrival_s[i] + world.limits.entry_s
        if not ((line.begin_s[mine] < arrival) & (line.end_s[mine] > arrival)).any():
            others = (columns.replica == columns.replica[i]) & (columns.arrival_s < columns.arrival_s[i])
            if not (others & (columns.finish_s - world.limits.exit_s > arrival)).any():
                np.testing.assert_allclose(columns.start_s[i], arrival, rtol=1e-12)


@given(worlds(routers=BUILT_IN))
@drawn
def test_8_the_timeline_never_overlaps_on_a_slot(world: World) -> None:
    line = run(world, timeline=True).timeline
    assert line is not None
    for track in {(int(r), int(s)) for r, s in zip(line.replica, line.slot, strict=True)}:
        mine = (line.replica == track[0]) & (line.slot == track[1])
        begin, end = line.begin_s[mine], line.end_s[mine]
        order = np.argsort(begin, kind="stable")
        assert (begin[order][1:] >= end[order][:-1] - 1e-12).all()
        assert (end > begin).all()


@given(worlds(routers=BUILT_IN))
@drawn
def test_9_records_that_start_too_short_grow_without_a_trace(world: World) -> None:
    """The kernel stops where its arrays are full and goes on in longer ones: not one byte changes."""

    def cramped(*args: object, **kwargs: object) -> State:
        state = new_state(*args, **kwargs)  # type: ignore[arg-type]
        short = {"itl": state.itl[:1].copy(), "timeline": state.timeline[:1].copy()}
        return state._replace(stack=state.stack[:, :2].copy(), **short)

    roomy = run(world, timeline=True)
    with mock.patch.object(simulate_module, "new_state", cramped):
        assert run(world, timeline=True).same_bytes(roomy)


@given(worlds(routers=BUILT_IN))
@drawn
def test_10_a_timeline_changes_no_other_byte(world: World) -> None:
    with_line = run(world, timeline=True)
    assert replace(with_line, timeline=None).same_bytes(run(world))


@given(worlds(routers=BUILT_IN))
@drawn
def test_11_rejections_are_those_that_could_never_run(world: World) -> None:
    columns = run(world).requests
    total = columns.input_tokens + columns.output_tokens
    blocks = -(-(total - 1) // world.limits.block_size)
    hopeless = (total > world.limits.max_model_len) | (blocks > world.limits.kv_blocks)
    np.testing.assert_array_equal(columns.status == REJECTED, hopeless)
    np.testing.assert_array_equal(columns.reason > 0, hopeless)


@given(worlds(routers=BUILT_IN, closed=False))
@drawn
def test_24_shifting_all_arrivals_changes_no_latency(world: World) -> None:
    """A trace may carry the seconds of 1970: at 1.7e9 a double resolves 0.24 µs, and nothing else may be lost."""
    shift = 1.7e9
    # Arrivals that both clocks can hold exactly, so that the two runs are offered the same.
    arrival_s = (world.trace.arrival_s + shift) - shift
    here = run(replace(world, trace=world.trace.with_columns(arrival_s=arrival_s)))
    there = run(replace(world, trace=world.trace.with_columns(arrival_s=arrival_s + shift)))
    np.testing.assert_array_equal(here.requests.replica, there.requests.replica)
    np.testing.assert_array_equal(here.requests.preemptions, there.requests.preemptions)
    for name in ("start_s", "first_token_s", "finish_s"):
        moved = getattr(there.requests, name) - there.requests.arrival_s
        np.testing.assert_allclose(moved, getattr(here.requests, name) - here.requests.arrival_s, atol=1e-6)
    np.testing.assert_allclose(gaps_of(here), gaps_of(there), rtol=1e-12)
