"""Textbook cases of a fleet: a step of load, a slow replica, one that never comes back, roles that follow the load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.tables import StepTables
from apexsim.engine.disaggregated import Handover, Links, PoolSetup
from apexsim.engine.life import Lives, simulate_fleet
from apexsim.engine.result import COMPLETED, FAILED, FAILED_NOBODY, FAILED_REPLICA, SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.scenario import Prepared, prepare
from apexsim.spec import catalog
from apexsim.spec.fleet import Autoscale, Drain, Failure, Failures, Fleet, Straggler, Switch, SwitchPool
from apexsim.spec.plan import Role
from apexsim.workload.trace import Trace
from tests.test_engine_tiny import SEQS, tables

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def steady(seqs: int = 64) -> StepTables:
    """A second an iteration, whatever is in it: a request of n tokens takes n seconds from the boundary it joins at."""
    return StepTables(
        token_dense=64, token_stride=1, mixed_s=np.ones((1, 65)), decode_s=np.ones((1, seqs + 1)),
        context_knots=np.array([0.0, 8.0, 64.0]), decode_attention_s=np.zeros((1, 2, seqs + 1, 3)),
        prefill_s=np.zeros((1, 2, 65)), prefill_past_s=np.zeros((1, 2, 65)), head_s=np.zeros(seqs + 1),
        host_floor_s=np.zeros(seqs + 1), host_serial_s=np.zeros(seqs + 1), transfer_s=np.zeros(65), window=0,
    )  # fmt: skip


def serve(
    trace: Trace, fleet: Fleet, *, law: StepTables | None = None, replicas: int = 1, seqs: int = SEQS,
    load_s: float = 0.0, **options: object,
) -> SimulationResult:  # fmt: skip
    most = max([replicas, *(rule.max_replicas for rule in fleet.autoscale)])
    pool = PoolSetup(law or tables(), ReplicaLimits(1000, 1, 60), Policy("t", 64, seqs), replicas)
    links = Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((most, most, 1), np.int64))
    nothing = Handover(np.zeros(len(trace)))
    return simulate_fleet(trace, [pool], links, nothing, Lives(fleet, (load_s,)), **options)  # type: ignore[arg-type]


def serving(result: SimulationResult, begin: int) -> list[tuple[float, int]]:
    """(instant, replicas that serve from then on)."""
    steps, there = [(0.0, begin)], begin
    for event in result.fleet_events:
        there += {"serving": 1, "kept": 1, "repaired": 1, "draining": -1, "failed": -1}.get(event.kind, 0)
        steps.append((event.at_s, there))
    return steps


def at(steps: list[tuple[float, int]], instant: float) -> int:
    return [count for at_s, count in steps if at_s <= instant][-1]


# --- autoscaling ------------------------------------------------------------------------------------------------


def steps_of_load() -> Trace:
    """1 request/s for 100 s, 4 for 200 s, 1 for 200 s; each is there for 10 s and half an iteration in the mean."""
    gaps = np.concatenate([np.full(100, 1.0), np.full(800, 0.25), np.full(200, 1.0)])
    return Trace("steps", np.cumsum(gaps) + 0.01, np.ones(1100, int), np.full(1100, 10))


SCALED = Autoscale(max_replicas=8, target_requests=16, period=5.0, provision=7.0, load=13.0, cooldown=30.0)


def test_replicas_follow_a_step_of_load_after_the_sum_of_the_delays() -> None:
    """4 requests/s · 10.5 s = 42 requests, 16 a replica: three. Seen by the first look at a mean of the full load."""
    steps = serving(serve(steps_of_load(), Fleet(autoscale=(SCALED,)), law=steady(), seqs=64, load_s=13.0), 1)
    rise_s = 10.5 + 2 * SCALED.period + SCALED.provision + 13.0
    assert at(steps, 100.0) == 1
    assert at(steps, 100.0 + SCALED.provision + 13.0) == 1
    assert at(steps, 100.0 + rise_s) == 3
    assert {at(steps, 100.0 + rise_s + more) for more in np.arange(0.0, 300.0 - 100.0 - rise_s, 0.5)} == {3}
    assert at(steps, 300.0 + SCALED.cooldown - 1.0) == 3
    assert at(steps, 300.0 + 10.5 + SCALED.cooldown + 2 * SCALED.period) == 1
    assert max(count for _, count in steps) == 3


def test_nothing_is_added_between_the_bounds() -> None:
    rule = SCALED.model_copy(update={"max_replicas": 2})
    result = serve(steps_of_load(), Fleet(autoscale=(rule,)), law=steady(), seqs=64)
    assert max(count for _, count in serving(result, 1)) == 2


def test_a_look_at_utilisation_wants_the_busy_share_over_the_target() -> None:
    """An iteration of a second every two: half a busy replica, whoever runs it. Two at a target of a quarter."""
    trace = Trace("t", np.arange(100) * 2.0, np.ones(100, int), np.ones(100, int))
    for target, wanted in ((0.5, 1), (0.25, 2), (0.125, 4)):
        rule = Autoscale(max_replicas=4, target_utilization=target, period=10.0, load=0.0, cooldown=30.0)
        steps = serving(serve(trace, Fleet(autoscale=(rule,)), law=steady(), seqs=64), 1)
        assert {at(steps, instant) for instant in (21.0, 100.0, 190.0)} == {wanted}


def test_a_replica_that_never_comes_back_is_replaced() -> None:
    trace = Trace("t", np.arange(100) * 0.5, np.ones(100, int), np.full(100, 10))
    rule = Autoscale(max_replicas=2, target_requests=60, period=5.0, load=1.0, cooldown=10.0)
    lost = Failures(scheduled=(Failure(replica=0, at=20.2),), retries=3)
    result = serve(trace, Fleet(autoscale=(rule,), failures=lost), law=steady(), seqs=64, load_s=1.0)
    assert (result.requests.status == COMPLETED).all()
    assert [(e.at_s, e.replica) for e in result.fleet_events if e.kind == "serving"] == [(26.0, 1)]


def test_the_autoscaler_leaves_maintenance_alone() -> None:
    """A replica in maintenance counts as there: it is not kept from it, and nobody comes in its place."""
    trace = Trace("t", np.arange(100) * 0.5, np.ones(100, int), np.full(100, 10))
    rule = Autoscale(max_replicas=3, min_replicas=2, target_requests=14, period=2.0, load=1.0, cooldown=100.0)
    fleet = Fleet(autoscale=(rule,), drain=(Drain(replica=0, at=20.2, away=5.0),))
    result = serve(trace, fleet, law=steady(), seqs=64, replicas=2)
    assert [event.kind for event in result.fleet_events] == ["draining", "away", "serving"]


# --- one replica --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("factor", [1.0, 1.25, 3.0])
def test_a_lone_straggler_takes_its_factor_longer(stages: int, factor: float) -> None:
    random = np.random.default_rng(5)
    trace = Trace("t", np.zeros(12), random.integers(1, 20, 12), random.integers(1, 30, 12))
    law = tables(stages, context_s=0.01)
    plain = simulate_pool(trace, law, ReplicaLimits(1000, 1, 60), Policy("t", 64, SEQS)).requests
    slow = serve(trace, Fleet(stragglers=(Straggler(replica=0, factor=factor),)), law=law)
    for name in ("first_token_s", "finish_s", "itl_max_s"):
        np.testing.assert_allclose(
            getattr(slow.requests, name), factor * getattr(plain, name), rtol=1e-12, err_msg=name
        )
    busy_s = slow.pools[0].busy_s
    assert slow.fleet is not None
    assert slow.fleet.slowed_s[0] == pytest.approx(busy_s * (1 - 1 / factor), rel=1e-12)


def test_slow_from_an_instant_on() -> None:
    """Prefill of 5 tokens: 15 s. Decode iterations of 11 s: that in flight at 30 s ends as it was, the next is 22."""
    fleet = Fleet(stragglers=(Straggler(replica=0, factor=2.0, at=30.0, until=50.0),))
    result = serve(Trace("t", np.zeros(1), np.array([5]), np.array([5])), fleet, timeline=True)
    assert result.timeline is not None
    assert result.requests.finish_s.tolist() == [15.0 + 11.0 + 11.0 + 22.0 + 11.0]


def test_stragglers_that_hold_at_once_multiply() -> None:
    """Decode of 11 s: that in flight at 30 s ends as it was; then 22 s; then, where both hold, 66 s; then 33 s."""
    slow = (Straggler(replica=0, factor=2.0, at=30.0, until=100.0), Straggler(replica=0, factor=3.0, at=40.0))
    for stragglers in (slow, slow[::-1]):
        result = serve(Trace("t", np.zeros(1), np.array([5]), np.array([6])), Fleet(stragglers=stragglers))
        assert result.requests.finish_s.tolist() == [15.0 + 11.0 + 11.0 + 22.0 + 66.0 + 33.0]
        assert [event.kind for event in result.fleet_events] == ["slow", "slow", "slow"]


def test_who_waits_for_a_place_to_decode_is_no_load_of_the_pool_that_prefills() -> None:
    """The replica that decodes is down from 5 s to 60 s: prefilled requests wait at its door, and prompts flow on."""
    roles: tuple[Role, ...] = ("prefill", "decode")
    pools = [PoolSetup(steady(), ReplicaLimits(1000, 1, 60), Policy("t", 64, 64, role=role), 1) for role in roles]
    links = Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((4, 4, 1), np.int64))
    trace = Trace("t", np.arange(20) * 2.0, np.full(20, 5), np.full(20, 5))
    down = Failures(scheduled=(Failure(pool=1, replica=0, at=5.0, repair=55.0),), retries=5)
    came = {}
    for scaled in (0, 1):
        rule = Autoscale(pool=scaled, max_replicas=2, target_requests=3.0, period=5.0, load=100.0)
        lives = Lives(Fleet(failures=down, autoscale=(rule,)), (100.0, 100.0))
        result = simulate_fleet(trace, pools, links, Handover(np.full(20, 0.4)), lives)
        assert (result.requests.status == COMPLETED).all()
        came[scaled] = [event.at_s for event in result.fleet_events if event.kind == "coming"]
    assert came[0] == []
    assert came[1] == [10.0], "five of them wait: more than the three of one replica"


def test_a_failure_by_hand() -> None:
    """Token 1 at 15 s, token 2 at 26 s; lost at 30 s. Back at 40 s: 15 s of prefill, four decode iterations."""
    fleet = Fleet(failures=Failures(scheduled=(Failure(replica=0, at=30.0, repair=10.0),)))
    result = serve(Trace("t", np.zeros(1), np.array([5]), np.array([5])), fleet)
    columns = result.requests
    assert columns.attempts is not None
    assert (columns.start_s[0], columns.first_token_s[0], columns.finish_s[0]) == (40.0, 55.0, 99.0)
    assert columns.attempts.tolist() == [2]
    assert result.lost_gaps == 1
    assert result.pools[0].iterations == 1 + 2 + 5  # the one in flight was begun


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_ends_may_fail_at_one_instant(order: tuple[int, int], push: bool) -> None:
    """Who goes first makes no difference: each request there is offered once more, and all are served."""
    limits = (ReplicaLimits(1000, 1, 60), ReplicaLimits(24, 1, 60))
    roles: tuple[Role, ...] = ("prefill", "decode")
    pools = [
        PoolSetup(steady(), limit, Policy("t", 64, 64, role=role), 1)
        for limit, role in zip(limits, roles, strict=True)
    ]
    links = Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((2, 2, 1), np.int64))
    trace = Trace("t", np.arange(20) * 0.5, np.full(20, 5), np.full(20, 5))
    for at_s in (3.37, 6.37, 9.37, 20.37):
        both = tuple(Failure(pool=p, replica=0, at=at_s, repair=2.0) for p in order)
        lives = Lives(Fleet(failures=Failures(scheduled=both)), (0.0, 0.0))
        result = simulate_fleet(trace, pools, links, Handover(np.full(20, 0.4), push=push), lives)
        columns, transfers, fleet = result.requests, result.transfers, result.fleet
        assert columns.attempts is not None
        assert transfers is not None
        assert fleet is not None
        assert (columns.status == COMPLETED).all()
        assert columns.attempts.max() == 2
        assert transfers.started == transfers.finished + fleet.lost_transfers


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("pool", [0, 1])
def test_an_end_may_fail_as_its_transfer_lands(pool: int, push: bool) -> None:
    """The failure comes first, by less than counts as a difference: what would have landed is lost, and sent again."""
    pools = [
        PoolSetup(steady(), ReplicaLimits(1000, 1, 60), Policy("t", 64, 64, role=role), 1)
        for role in ("prefill", "decode")
    ]
    links = Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((2, 2, 1), np.int64))
    trace = Trace("t", np.arange(20) * 0.5, np.full(20, 5), np.full(20, 5))

    def served(failures: tuple[Failure, ...]) -> SimulationResult:
        lives = Lives(Fleet(failures=Failures(mtbf=1e12, mttr=1.0, scheduled=failures, retries=9)), (0.0, 0.0))
        return simulate_fleet(trace, pools, links, Handover(np.full(20, 0.4), push=push), lives)

    landed = served(()).transfers
    assert landed is not None
    for at_s in landed.landed_s[[0, 5, 11]]:
        result = served((Failure(pool=pool, replica=0, at=float(np.nextafter(at_s, 0.0)), repair=2.0),))
        transfers, fleet = result.transfers, result.fleet
        assert transfers is not None
        assert fleet is not None
        assert (result.requests.status == COMPLETED).all()
        assert transfers.started == transfers.finished + fleet.lost_transfers


def prefill_and_decode() -> tuple[list[PoolSetup], Links]:
    """A replica of 12 blocks in each role."""
    limits = ReplicaLimits(12, 1, 60)
    pools = [PoolSetup(steady(), limits, Policy("t", 64, 64, role=role), 1) for role in ("prefill", "decode")]
    return pools, Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((2, 2, 1), np.int64))


def test_where_nobody_can_decode_any_more_a_run_ends() -> None:
    """The only replica that decodes is gone for good and prefilled KV fills the other: looks at the loads go on."""
    pools, links = prefill_and_decode()
    trace = Trace("t", np.arange(9) * 0.5, np.full(9, 5), np.full(9, 5))
    switch = Switch(pools=tuple(SwitchPool(pool=p, target_requests=1.0) for p in (0, 1)), period=5.0)
    gone = Failures(scheduled=(Failure(pool=1, replica=0, at=0.1, repair=None),))
    lives = Lives(Fleet(failures=gone, switch=switch, drain=(Drain(pool=0, replica=0, at=3.0, away=1.0),)), (0.0, 0.0))
    result = simulate_fleet(trace, pools, links, Handover(np.full(9, 0.4), push=False), lives)
    assert (result.requests.status == FAILED).all()
    assert (result.requests.reason == FAILED_NOBODY).all()


@pytest.mark.parametrize("looks", [False, True])
def test_a_failure_to_come_makes_room_for_others_in_a_closed_loop(looks: bool) -> None:
    """The first is prefilled in a second and nobody will decode it; as it fails at 20 s the next comes, needs no decode
    and is served when the replica is back at 25 s.
    """
    pools, links = prefill_and_decode()
    stated = (Failure(pool=1, replica=0, at=0.5, repair=None), Failure(pool=0, replica=0, at=20.0, repair=5.0))
    switch = Switch(pools=tuple(SwitchPool(pool=p, target_requests=1.0) for p in (0, 1)), period=1.0)
    fleet = Fleet(failures=Failures(scheduled=stated, retries=0), switch=switch if looks else None)
    trace = Trace("t", np.zeros(2), np.full(2, 5), np.array([5, 1]))
    handover, lives = Handover(np.full(2, 0.4), push=False), Lives(fleet, (0.0, 0.0))
    columns = simulate_fleet(trace, pools, links, handover, lives, concurrency=1).requests
    assert columns.reason.tolist() == [FAILED_REPLICA, 0]
    assert (columns.arrival_s[1], columns.finish_s[1]) == (20.0, 26.0)


def test_a_drain_by_hand() -> None:
    """The first request ends; the second waits for the replica to come back, for the other is down, too."""
    fleet = Fleet(
        drain=(Drain(replica=0, at=1.0, away=100.0),),
        failures=Failures(scheduled=(Failure(replica=1, at=0.5, repair=None),)),
    )
    result = serve(Trace("t", np.array([0.0, 2.0]), np.array([5, 5]), np.array([1, 1])), fleet, replicas=2)
    assert result.requests.finish_s.tolist() == [15.0, 15.0 + 100.0 + 15.0]
    assert [event.kind for event in result.fleet_events] == ["failed", "released", "draining", "away", "serving"]


def test_where_nobody_is_left_everybody_fails() -> None:
    fleet = Fleet(failures=Failures(mtbf=1e9, mttr=1.0, scheduled=(Failure(replica=0, at=20.0),), retries=9))
    result = serve(Trace("t", np.array([0.0, 1.0, 50.0]), np.full(3, 5), np.array([1, 9, 9])), fleet)
    assert result.requests.status.tolist() == [COMPLETED, FAILED, FAILED]
    assert result.requests.reason.tolist()[1:] == [FAILED_NOBODY] * 2


# --- roles --------------------------------------------------------------------------------------------------------


def epd_requests() -> Trace:
    """The workload of EPD's role switch: 3 requests/s, the first ten of 50 output tokens, the other ninety of 500.

    The prompt is 22 tokens and an image of 4032 × 3024, which InternVL2-26B sees as 13 tiles of 256 tokens.
    """
    random = np.random.default_rng(1)
    arrival_s = np.cumsum(random.exponential(1 / 3.0, 100))
    outputs = np.where(np.arange(100) < 10, 50, 500)
    return Trace("switch", arrival_s - arrival_s[0], np.full(100, 22 + 13 * 256), outputs)


def test_roles_that_follow_the_load_serve_as_much_faster_as_published() -> None:
    """EPD, role switch: 61.10 s and 0.12 s a token without, 28.01 s with it; latency ratio in [1.7, 2.8].

    Seats where it decodes are such that the plan that stays is as slow as theirs; what switching gains is predicted.
    """
    plan = catalog.load_plan(EXAMPLES / "role-switch.yaml")
    stays, switches = (prepare(p) for p in (plan.model_copy(update={"fleet": None}), plan))
    assert isinstance(stays, Prepared)
    assert isinstance(switches, Prepared)
    before, after = (scenario.run(prepared, epd_requests()) for prepared in (stays, switches))
    assert before.summary.e2e_s.mean == pytest.approx(61.10, rel=0.1)
    assert before.summary.tpot_s.mean == pytest.approx(0.12, rel=0.1)
    assert 1.7 <= before.summary.e2e_s.mean / after.summary.e2e_s.mean <= 2.8
    assert 1.6 <= before.summary.tpot_s.mean / after.summary.tpot_s.mean <= 3.2
    assert 0.7 <= before.summary.ttft_s.mean / after.summary.ttft_s.mean <= 1.1
    assert after.summary.fleet is not None
    assert after.summary.fleet.role_switches == 4
    assert sum(use.replicas for use in after.summary.by_pool) == pytest.approx(8.0)
