"""Replicas that come and go: the driver and its compiled loop against the naive one, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume, given

from apexsim.engine.disaggregated import simulate_pools
from apexsim.engine.life import Lives, simulate_fleet
from apexsim.engine.result import COMPLETED, FAILED, FAILED_REPLICA, REJECTED, SimulationResult
from apexsim.spec.fleet import Fleet
from tests.fleet_worlds import FleetWorld, fleet_worlds, scaled_worlds
from tests.oracle_fleet import FleetPools
from tests.oracle_pools import PoolsRun
from tests.test_engine_differential import EXACT
from tests.test_engine_pools import entry_and_exit, instants_of, same_gaps_and_work
from tests.worlds import drawn


def run(world: FleetWorld, fleet: Fleet | None = None, *, timeline: bool = True) -> SimulationResult:
    pools = world.pools
    lives = Lives(fleet or world.fleet, (0.0,) * len(pools.pools))
    return simulate_fleet(
        pools.trace, pools.pools, pools.links, pools.handover, lives, routers=pools.routers, seed=7,
        concurrency=pools.concurrency, timeline=timeline,
    )  # fmt: skip


def run_naively(world: FleetWorld) -> tuple[FleetPools, PoolsRun]:
    pools = world.pools
    naive = FleetPools(pools.trace, list(pools.pools), pools.links, pools.handover, *entry_and_exit(pools), 7)
    naive.live(world.fleet)
    return naive, naive.run(*instants_of(pools))


@given(fleet_worlds())
@drawn
def test_fleets_agree_with_the_oracle(world: FleetWorld) -> None:
    result, (naive, expected) = run(world), run_naively(world)
    assume(not expected.tied)
    columns = result.requests
    origin_s = 0.0 if world.pools.concurrency else world.pools.trace.arrival_s[0]
    exit_s = max(pool.limits.exit_s for pool in world.pools.pools)
    for i, way in enumerate(expected.ways):
        source, sink = (
            None if u is None else expected.requests[naive.units[u][0]][i] for u in (way.source, way.sink)
        )  # fmt: skip
        assert columns.attempts is not None
        assert columns.attempts[i] == naive.tries.number[i]
        rejected = any(q is not None and q.rejected for q in (source, sink))
        ended = naive.is_over(i) and i not in naive.tries.failed
        assert columns.status[i] == (REJECTED if rejected else COMPLETED if ended else FAILED)
        if columns.status[i] != COMPLETED:
            assert np.isnan(columns.finish_s[i])
            continue
        assert source is not None
        last = source if sink is None else sink
        clock_s = origin_s + exit_s
        assert columns.replica[i] == way.source
        np.testing.assert_allclose(columns.start_s[i] - origin_s, source.start, **EXACT)
        np.testing.assert_allclose(columns.first_token_s[i] - clock_s, last.tokens[0], **EXACT)
        np.testing.assert_allclose(columns.finish_s[i] - clock_s, last.tokens[-1], **EXACT)
        before = naive.tries.preemptions.get(i, 0)
        assert columns.preemptions[i] == before + sum(q.preemptions for q in (source, sink) if q is not None)
    same_gaps_and_work(result, world.pools, expected, naive.tries.gaps)


@given(fleet_worlds())
@drawn
def test_a_straggler_that_is_no_slower_changes_no_request(world: FleetWorld) -> None:
    """What happens to a replica's speed is no reason for those who wait there to try again."""
    assume(world.fleet.stragglers)
    alike = tuple(straggler.model_copy(update={"factor": 1.0}) for straggler in world.fleet.stragglers)
    without, with_them = (
        run(world, world.fleet.model_copy(update={"stragglers": some}), timeline=False) for some in ((), alike)
    )
    for column in ("start_s", "first_token_s", "finish_s", "preemptions"):
        np.testing.assert_allclose(getattr(with_them.requests, column), getattr(without.requests, column), **EXACT)
    assert [pool.iterations for pool in with_them.pools] == [pool.iterations for pool in without.pools]


@given(fleet_worlds())
@drawn
def test_a_fleet_in_which_nothing_happens_changes_no_byte(world: FleetWorld) -> None:
    pools = world.pools
    plain = simulate_pools(
        pools.trace, pools.pools, pools.links, pools.handover, routers=pools.routers, seed=7,
        concurrency=pools.concurrency, timeline=True,
    )  # fmt: skip
    still = run(world, Fleet())
    columns = replace(still.requests, attempts=None)
    assert replace(still, requests=columns, fleet=None).same_bytes(plain)


@given(fleet_worlds() | scaled_worlds())
@drawn
def test_81_a_request_ends_once_whatever_fails(world: FleetWorld) -> None:
    result = run(world)
    columns, transfers, fleet = result.requests, result.transfers, result.fleet
    assert columns.attempts is not None
    assert transfers is not None
    assert fleet is not None
    retries = world.fleet.failures.retries if world.fleet.failures else 0
    assert np.isin(columns.status, (COMPLETED, REJECTED, FAILED)).all()
    assert (np.isfinite(columns.finish_s) == (columns.status == COMPLETED)).all()
    assert (columns.attempts >= 1).all()
    assert (columns.attempts <= retries + 1).all()
    assert (columns.attempts[columns.reason == FAILED_REPLICA] == retries + 1).all()
    assert result.lost_gaps >= 0
    spans = fleet.held[:, 1] - fleet.held[:, 0]
    assert (spans >= 0).all()
    assert (fleet.serving[:, 1] >= fleet.serving[:, 0]).all()
    assert transfers.started == transfers.finished + fleet.lost_transfers
    np.testing.assert_allclose(transfers.carried + fleet.lost_bytes, transfers.released, rtol=1e-9, atol=1e-9)


def absences(result: SimulationResult) -> list[tuple[int, int, float, float]]:
    """(pool, replica, from, to) of every stretch in which a replica is not there."""
    places = [(p, r) for p, units in enumerate(result.units) for r in range(units)]
    gone = {(p, r): -np.inf for p, r in places if r >= result.replicas[p]}
    found = []
    for event in result.fleet_events:
        place = (event.pool, event.replica)
        if event.kind in ("failed", "away", "released", "moving"):
            gone.setdefault(place, event.at_s)
        elif event.kind in ("repaired", "serving"):
            found.append((*place, gone.pop(place), event.at_s))
    return found + [(*place, at_s, np.inf) for place, at_s in gone.items()]


@given(fleet_worlds() | scaled_worlds())
@drawn
def test_82_nothing_runs_on_a_replica_that_is_not_there(world: FleetWorld) -> None:
    result = run(world)
    timeline = result.timeline
    assert timeline is not None
    for pool, replica, begin_s, end_s in absences(result):
        here = (timeline.pool == pool) & (timeline.replica == replica)
        apart = (timeline.end_s <= begin_s + 1e-9) | (timeline.begin_s >= end_s - 1e-9)
        assert apart[here].all()


@given(fleet_worlds())
@drawn
def test_a_drain_ends_what_it_has(world: FleetWorld) -> None:
    """Without failures nobody is offered twice, and nobody fails."""
    result = run(world, world.fleet.model_copy(update={"failures": None}))
    assert result.requests.attempts is not None
    assert (result.requests.attempts == 1).all()
    assert np.isin(result.requests.status, (COMPLETED, REJECTED)).all()
