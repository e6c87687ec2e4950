"""The compiled engine against the naive oracle: every token time, on worlds that Hypothesis draws."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given

from apexsim import registry
from apexsim.engine.pool import BY_LORA, BY_PLACE, BY_PREFIX, BY_PROMPT_TOKENS, BY_REQUESTS
from apexsim.engine.result import COMPLETED, REJECTED, SimulationResult
from apexsim.engine.routers import Offered, router
from apexsim.engine.simulate import simulate_pool
from tests.oracle import Oracle, Run
from tests.oracle import simulate as naive
from tests.oracle_lockstep import LockstepOracle
from tests.oracle_memory import blocks_of
from tests.worlds import World, drawn, worlds

LOADS = {BY_PLACE: "place", BY_REQUESTS: "requests", BY_PROMPT_TOKENS: "tokens", BY_PREFIX: "prefix", BY_LORA: "lora"}
BUILT_IN = tuple(registry.SEAMS["routers"])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def run_both(world: World) -> tuple[SimulationResult, Run]:
    trace, limits = world.trace, world.limits
    result = simulate_pool(
        trace, world.tables, limits, world.policy, replicas=world.replicas, router=world.router, seed=7,
        concurrency=world.concurrency, timeline=True,
    )  # fmt: skip
    units = world.replicas * world.tables.group.ranks
    choice = router(world.router).candidates(Offered(len(trace), trace.session), units, 7)
    expected = naive(
        trace, world.tables, limits, world.policy, replicas=units, candidates=choice.candidates,
        load=LOADS[choice.load], concurrency=world.concurrency, seed=7,
        of=Oracle if units == world.replicas else LockstepOracle,
    )  # fmt: skip
    return result, expected


def gaps_of(result: SimulationResult) -> np.ndarray:
    """Every gap between two tokens, expanded from the runs."""
    runs = result.itl
    return np.sort([
        start + j * slope
        for start, slope, count, sequences in zip(runs.start_s, runs.slope_s, runs.count, runs.sequences, strict=True)
        for j in range(count)
        for _ in range(sequences)
    ])  # fmt: skip


def iterations_of(result: SimulationResult) -> list[tuple[int, int, int]]:
    """(replica, decoding sequences, prefill tokens) of every iteration, series expanded, replica by replica."""
    line = result.timeline
    assert line is not None
    order = np.lexsort((line.slot, line.begin_s, line.replica))
    return [
        (int(line.replica[k]), int(line.decoding[k]), int(line.prefill_tokens[k]))
        for k in order
        for _ in range(line.steps[k])
    ]


def check_requests(world: World) -> None:
    """Every instant of every request."""
    result, expected = run_both(world)
    assume(not expected.tied)
    columns = result.requests
    entry_s, exit_s = world.limits.entry_s, world.limits.exit_s
    for i, request in enumerate(expected.requests):
        assert columns.replica[i] == request.replica
        assert columns.preemptions[i] == request.preemptions
        assert columns.cached_tokens[i] == (request.hit or 0)
        assert columns.status[i] == (REJECTED if request.rejected else COMPLETED)
        assert columns.reason[i] == request.reason
        if request.rejected:
            assert np.isnan(columns.finish_s[i])
            continue
        np.testing.assert_allclose(columns.arrival_s[i] + entry_s, request.arrival, **EXACT)
        np.testing.assert_allclose(columns.start_s[i], request.start, **EXACT)
        np.testing.assert_allclose(columns.first_token_s[i] - exit_s, request.tokens[0], **EXACT)
        np.testing.assert_allclose(columns.finish_s[i] - exit_s, request.tokens[-1], **EXACT)
        if request.output > 1:
            np.testing.assert_allclose(columns.itl_max_s[i], np.diff(request.tokens).max(), rtol=1e-9, atol=1e-11)
        else:
            assert np.isnan(columns.itl_max_s[i])


def check_iterations(world: World) -> None:
    """Every gap, iteration and counter."""
    result, expected = run_both(world)
    assume(not expected.tied)
    gaps = np.sort(np.concatenate([np.diff(r.tokens) for r in expected.requests] or [np.zeros(0)]))
    np.testing.assert_allclose(gaps_of(result), gaps, rtol=1e-9, atol=1e-11)
    ordered = sorted(expected.iterations, key=lambda row: (row[2], row[0]))
    assert iterations_of(result) == [(r, decoding, prefill) for _, _, r, decoding, prefill in ordered]
    counters = result.pools[0]
    assert counters.iterations == len(expected.iterations)
    assert counters.decode_tokens == sum(row[3] for row in expected.iterations)
    assert counters.prefill_tokens == sum(row[4] for row in expected.iterations)
    assert counters.preemptions == sum(r.preemptions for r in expected.requests)
    assert counters.evicted_blocks == sum(blocks_of(replica.evicted) for replica in expected.replicas)
    np.testing.assert_allclose(counters.copy_s, expected.copy_s, rtol=1e-9, atol=1e-11)


@given(worlds(routers=BUILT_IN))
@drawn
def test_engine_agrees_with_the_oracle(world: World) -> None:
    check_requests(world)


@given(worlds(routers=BUILT_IN))
@drawn
def test_every_gap_and_every_iteration_agrees(world: World) -> None:
    check_iterations(world)
