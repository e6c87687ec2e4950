"""Pools that hand requests to each other: the compiled loop against the naive one, and what holds whatever is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import assume, given

from apexsim.engine.disaggregated import simulate_pools
from apexsim.engine.result import COMPLETED, IN_FLIGHT, REJECTED, SimulationResult
from apexsim.engine.routers import Offered, router
from tests.oracle_pools import Pools, PoolsRun
from tests.pool_worlds import PoolWorld, pool_worlds
from tests.test_engine_differential import EXACT, LOADS, gaps_of
from tests.worlds import drawn


def run(world: PoolWorld) -> SimulationResult:
    return simulate_pools(
        world.trace, world.pools, world.links, world.handover, routers=world.routers, seed=7,
        concurrency=world.concurrency, timeline=True,
    )  # fmt: skip


def entry_and_exit(world: PoolWorld) -> tuple[tuple[np.ndarray, str], tuple[np.ndarray, str]]:
    """Candidates to enter at and to decode at, and what decides among them."""
    units = [(p, r) for p, pool in enumerate(world.pools) for r in range(pool.units)]

    def choice(roles: set[str], name: str) -> tuple[np.ndarray, str]:
        able = np.array([u for u, (p, _) in enumerate(units) if world.pools[p].policy.role in roles])
        if not len(able):
            return np.zeros((1, 0), np.int64), "place"
        made = router(name).candidates(Offered(len(world.trace), world.trace.session), len(able), 7)
        return able[made.candidates], LOADS[made.load]

    return choice({"serve", "prefill"}, world.routers["prefill"]), choice({"decode"}, world.routers["decode"])


def run_naively(world: PoolWorld) -> PoolsRun:
    pools = Pools(world.trace, list(world.pools), world.links, world.handover, *entry_and_exit(world), 7)
    return pools.run(*instants_of(world))


def instants_of(world: PoolWorld) -> tuple[list[float], int | None, float]:
    """Arrivals at the door, requests in flight, and seconds from the end of one to the arrival of the next."""
    entry_s = max(pool.limits.entry_s for pool in world.pools if pool.policy.role != "decode")
    exit_s = max(pool.limits.exit_s for pool in world.pools)
    arrival_s = world.trace.arrival_s - world.trace.arrival_s[0]
    arrivals = [entry_s if world.concurrency else float(at) + entry_s for at in arrival_s]
    return arrivals, world.concurrency, entry_s + exit_s


@given(pool_worlds())
@drawn
def test_pools_agree_with_the_oracle(world: PoolWorld) -> None:
    result, expected = run(world), run_naively(world)
    assume(not expected.tied)
    columns, transfers = result.requests, result.transfers
    assert transfers is not None
    origin_s = 0.0 if world.concurrency else world.trace.arrival_s[0]
    exit_s = max(pool.limits.exit_s for pool in world.pools)
    units = [(p, r) for p, pool in enumerate(world.pools) for r in range(pool.units)]
    for i, way in enumerate(expected.ways):
        source = None if way.source is None else expected.requests[units[way.source][0]][i]
        sink = None if way.sink is None else expected.requests[units[way.sink][0]][i]
        assert columns.replica[i] == (-1 if way.source is None else way.source)
        assert (transfers.pool[i], transfers.replica[i]) == ((-1, -1) if way.sink is None else units[way.sink])
        rejected = any(q is not None and q.rejected for q in (source, sink))
        assert columns.status[i] == (REJECTED if rejected else COMPLETED)
        for found, at in ((transfers.left_s[i], way.left), (transfers.reserved_s[i], way.reserved), (
            transfers.landed_s[i], way.landed
        )):  # fmt: skip
            np.testing.assert_allclose(found - origin_s, np.nan if at is None else at, **EXACT, err_msg=f"{i} {found}")
        if rejected:
            assert np.isnan(columns.finish_s[i])
            continue
        assert source is not None
        assert source.start is not None
        last = source if sink is None else sink
        clock_s = origin_s + exit_s
        np.testing.assert_allclose(columns.start_s[i] - origin_s, source.start, **EXACT)
        np.testing.assert_allclose(columns.first_token_s[i] - clock_s, last.tokens[0], **EXACT)
        np.testing.assert_allclose(columns.finish_s[i] - clock_s, last.tokens[-1], **EXACT)
        assert columns.preemptions[i] == sum(q.preemptions for q in (source, sink) if q is not None)
        if len(last.tokens) > 1:
            np.testing.assert_allclose(columns.itl_max_s[i], np.diff(last.tokens).max(), rtol=1e-9, atol=1e-11)
    same_gaps_and_work(result, world, expected)


def same_gaps_and_work(result: SimulationResult, world: PoolWorld, naive: PoolsRun, lost: Sequence[float] = ()) -> None:
    """Gaps between tokens (``lost``: those of tries that failed), iterations and tokens of every pool."""
    gaps = [*lost] + [
        gap for p, pool in enumerate(world.pools) if pool.policy.role != "prefill"
        for q in naive.requests[p] for gap in np.diff(q.tokens)
    ]  # fmt: skip
    np.testing.assert_allclose(gaps_of(result), np.sort(gaps), rtol=1e-9, atol=1e-11)
    for counters, pool in zip(result.pools, naive.pools, strict=True):
        assert counters.iterations == len(pool.iterations)
        assert counters.prefill_tokens == sum(row[4] for row in pool.iterations)
        assert counters.decode_tokens == sum(row[3] for row in pool.iterations)


@given(pool_worlds())
@drawn
def test_transfers_end_and_bytes_are_conserved(world: PoolWorld) -> None:
    """Each transfer that starts ends, all bytes arrive, and nobody decodes before that."""
    result = run(world)
    transfers, columns = result.transfers, result.requests
    assert transfers is not None
    assert (columns.status != IN_FLIGHT).all()
    assert transfers.started == transfers.finished == np.isfinite(transfers.landed_s).sum()
    np.testing.assert_allclose(transfers.carried, transfers.released, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(transfers.released, transfers.size_bytes.sum(), rtol=1e-9, atol=1e-9)
    went = np.isfinite(transfers.landed_s)
    assert (transfers.landed_s[went] >= transfers.left_s[went] - 1e-9).all()
    decoded = went & (columns.status == COMPLETED)
    exit_s = max(pool.limits.exit_s for pool in world.pools)
    assert (columns.finish_s[decoded] - exit_s > transfers.landed_s[decoded]).all()
