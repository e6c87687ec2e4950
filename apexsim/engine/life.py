"""The life of a fleet: SimPy runs what is rare, and between two of its events the compiled loop of ``coupled.py``.

Replicas of all pools, those for later included, are compiled once. Here they are opened and closed: a closed one gets
no request. Failures, maintenance and slow replicas are processes of this file, policies that add replicas or change
their role those of ``autoscaler.py``. SimPy's clock is the engine's; its events come last in their instant.

Kinds of events that are kept: ``failed``, ``repaired``, ``draining``, ``away``, ``serving``, ``kept`` (drained no
more: it is wanted again), ``coming`` (devices were asked for), ``loading``, ``released``, ``moving``, ``slow``,
``fast``, ``skipped`` (maintenance of a replica that did not serve).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import simpy

from apexsim.engine.autoscaler import Autoscaler, Switcher
from apexsim.engine.berths import (
    ABSENT,
    AWAY,
    DOWN,
    DRAINING,
    GONE,
    MOVING,
    SERVING,
    WITHOUT_DEVICES,
    Berth,
    berths_of,
    most_replicas,
    stand_of,
)
from apexsim.engine.course import CALL, CALLS, DRAINED, FIRST_CALL, TO_CUT, lobby_with
from apexsim.engine.course import DRAINING as UNITS_DRAINING
from apexsim.engine.disaggregated import CoupledRun, Handover, Links, PoolSetup, simulate_pools
from apexsim.engine.encoders import ImageSetup
from apexsim.engine.eviction import clear_replica
from apexsim.engine.rest import Rest, nobody_serves
from apexsim.engine.result import FAILED, FAILED_NOBODY, FleetEvent, FleetLife, SimulationResult
from apexsim.engine.retry import Call, Retries
from apexsim.engine.state import NONE, rows
from apexsim.errors import UsageError
from apexsim.spec.fleet import Drain, Failure, Failures, Fleet, Straggler
from apexsim.spec.plan import Role
from apexsim.workload.trace import Trace

Process = Generator[simpy.Event, None, None]


@dataclass(frozen=True, slots=True)
class Lives:
    """What happens to the replicas of pools.

    Attributes:
        fleet: as the plan declares it.
        load_s: by pool, how long a new replica loads its weights.
    """

    fleet: Fleet
    load_s: tuple[float, ...]


def lives_of(fleet: Fleet | None, weights_bytes: Sequence[float]) -> Lives | None:
    """What a plan's fleet says, for pools whose replicas have so many bytes of weights; None where nothing happens."""
    if fleet is None or not fleet.is_on:
        return None
    rules = [fleet.scaling(p) for p in range(len(weights_bytes))]
    load_s = [0.0 if r is None else r.load_seconds(w) for r, w in zip(rules, weights_bytes, strict=True)]
    return Lives(fleet, tuple(load_s))


def simulate_fleet(
    trace: Trace, pools: Sequence[PoolSetup], links: Links, handover: Handover, lives: Lives | None, *,
    routers: dict[Role, str] | None = None, seed: int = 0, concurrency: int | None = None, timeline: bool = False,
    images: ImageSetup | None = None,
) -> SimulationResult:  # fmt: skip
    """``simulate_pools`` with replicas that come and go, where there are ``lives``.

    Args:
        pools: with the replicas that each begins with.
        links: between all the replicas that pools may ever have, in the order of the pools (``berths_of``).

    Raises:
        UsageError: as there, and for ranks in lockstep.
    """
    if lives is None:
        return simulate_pools(
            trace, pools, links, handover, routers=routers, seed=seed, concurrency=concurrency, timeline=timeline,
            images=images,
        )  # fmt: skip
    if images is not None:
        raise UsageError("fleet: not with images")
    if any(pool.tables.group.ranks > 1 for pool in pools):
        raise UsageError("fleet: ranks in lockstep do not come and go one by one")
    berths = berths_of(lives.fleet, [pool.replicas for pool in pools])
    most = [replace(pool, replicas=n) for pool, n in zip(pools, most_replicas(berths, len(pools)), strict=True)]
    stands = stand_of(berths, len(pools))
    links = replace(links, ways=links.ways[np.ix_(stands, stands)])
    run = CoupledRun(trace, most, links, handover, routers or {}, seed, concurrency, timeline, life=True)
    result = FleetRun(run, lives, berths, seed).run_all()
    return replace(result, replicas=tuple(pool.replicas for pool in pools))


class FleetRun:
    """Pools whose replicas come and go."""

    def __init__(self, run: CoupledRun, lives: Lives, berths: list[Berth], seed: int) -> None:
        fleet = lives.fleet
        self.run, self.lives, self.seed, self.env = run, lives, seed, simpy.Environment()
        self.berths, self.rest = berths, Rest(fleet)
        failures = fleet.failures or Failures()
        self.retries = Retries(run, failures.retries)
        self.calls: list[Call] = []
        self.events: list[FleetEvent] = []
        self.roles = [(pool.policy.role != "decode", pool.policy.role == "decode") for pool in run.pools]
        run.units.entry = run.units.exit = 0
        for berth in self.berths:
            if berth.state == SERVING:
                self._let_in(berth)
        for straggler in fleet.stragglers:
            self._begin_slow(straggler)
        if failures.mtbf is not None and failures.mttr is not None:
            for berth in self.berths:
                self.env.process(self.failing(berth, failures.mtbf, failures.mttr))
        for failure in failures.scheduled:
            self.env.process(self.failing_once(failure))
        for drain in fleet.drain:
            self.env.process(self.maintenance(drain))
        for rule in fleet.autoscale:
            self.env.process(Autoscaler(self, rule, lives.load_s[rule.pool]).process())
        if fleet.switch is not None:
            self.env.process(Switcher(self, fleet.switch).process())

    # --- the loop -------------------------------------------------------------------------------------------------

    def run_all(self) -> SimulationResult:
        """Until the last request has ended, or nobody is left to serve it."""
        run, cursor = self.run, self.run.cursor
        while True:
            until = self.env.peek()
            self._hand_in()
            run.to(until)
            if cursor[DRAINED]:
                self._see_drained(float(run.course.stopped_s[0]))
            elif self._all_ended() or until == np.inf or self._nothing_comes():
                return self._result()
            else:
                while self.env.peek() == until:
                    self.env.step()

    def _all_ended(self) -> bool:
        return sum(int(state.replicas.ended.sum()) for state in self.run.states) == len(self.run.trace)

    def _nothing_comes(self) -> bool:
        """Nothing changes any more for those who are left. Failures by chance go on for ever and are not waited for."""
        now, stated = self.env.now, (self.lives.fleet.failures or Failures()).scheduled
        # Who fails with a replica that is there may be offered again, and in a closed loop makes room for others.
        if self.calls or any(f.at >= now and self.berth_of(f.pool, f.replica).state != GONE for f in stated):
            return False
        hopeless = nobody_serves(self.run, self.berths, self.roles, self.lives.fleet)
        return hopeless or self.rest.is_final(self.run, self.berths, len(self.events), now)

    def _see_drained(self, now: float) -> None:
        """The compiled loop has stopped because a unit has ended what it had."""
        self.run.cursor[DRAINED] = 0
        if now > self.env.now:
            self.env.run(until=now)
        for berth in self.berths:
            if berth.state == DRAINING and self.is_empty(berth):
                self._has_drained(berth)

    def _hand_in(self) -> None:
        """Calls are put before those who wait for a unit."""
        cursor, course = self.run.cursor, self.run.course
        waiting = course.lobby[cursor[FIRST_CALL] : cursor[CALLS]]
        kept = np.concatenate([lobby_with(self.calls, self.env.now), waiting])
        room = len(kept) + 4 * len(course.arrivals) + 64
        if room > len(course.lobby):
            self.run.course = course._replace(lobby=rows(CALL, 2 * room))
        self.run.course.lobby[: len(kept)] = kept
        cursor[FIRST_CALL], cursor[CALLS] = 0, len(kept)
        self.calls = []

    # --- what a berth does ----------------------------------------------------------------------------------------

    def unit(self, berth: Berth, pool: int | None = None) -> int:
        """The number of a berth's unit, in the pool where it serves or in another."""
        p = berth.pool if pool is None else pool
        units = self.run.units
        return int(np.flatnonzero((units.pool == p) & (units.replica == berth.replicas[p]))[0])

    def note(self, kind: str, berth: Berth) -> None:
        """Keep an event."""
        self.events.append(FleetEvent(self.env.now + self.run.origin_s, kind, berth.pool, berth.replica))

    def is_empty(self, berth: Berth) -> bool:
        """Whether a berth's replica has no request, and no KV of any."""
        replicas, r = self.run.states[berth.pool].replicas, berth.replica
        there = replicas.waiting[r] + replicas.running[r] + replicas.used_blocks[r]
        return bool(there + self.run.units.due[self.unit(berth)] == 0)

    def requests_at(self, berth: Berth) -> int:
        """Requests that wait or run there."""
        replicas = self.run.states[berth.pool].replicas
        return int(replicas.waiting[berth.replica] + replicas.running[berth.replica])

    def _let_in(self, berth: Berth) -> None:
        u, now = self.unit(berth), self.env.now
        self.run.units.entry[u], self.run.units.exit[u] = self.roles[berth.pool]
        berth.state, berth.open_since = SERVING, now

    def open(self, berth: Berth, kind: str = "serving") -> None:
        """A berth's replica takes requests from now on, first of all those that wait for one."""
        self._let_in(berth)
        self.note(kind, berth)
        cursor, lobby = self.run.cursor, self.run.course.lobby
        lobby.at_s[cursor[FIRST_CALL] : cursor[CALLS]] = self.env.now

    def _shut(self, berth: Berth) -> None:
        u, now = self.unit(berth), self.env.now
        if self.run.units.entry[u] or self.run.units.exit[u]:
            berth.serving.append((berth.open_since, now, berth.pool))
        self.run.units.entry[u] = self.run.units.exit[u] = 0

    def drain(self, berth: Berth) -> simpy.Event:
        """A berth's replica takes nothing new; the event succeeds when it has ended what it had."""
        self._shut(berth)
        berth.state, berth.drained = DRAINING, self.env.event()
        self.note("draining", berth)
        self.run.units.draining[self.unit(berth)] = 1
        self.run.cursor[UNITS_DRAINING] += 1
        if self.is_empty(berth):
            self._has_drained(berth)
            return self.env.timeout(0)
        return berth.drained

    def keep(self, berth: Berth) -> None:
        """A berth's replica that drains is wanted after all; nobody who waits for its end hears of it again."""
        self._drains_no_more(berth)
        berth.epoch += 1
        self.open(berth, "kept")

    def _drains_no_more(self, berth: Berth) -> None:
        self.run.units.draining[self.unit(berth)] = 0
        self.run.cursor[UNITS_DRAINING] -= 1

    def _has_drained(self, berth: Berth) -> None:
        self._drains_no_more(berth)
        berth.state = AWAY
        clear_replica(self.run.states[berth.pool], berth.replica, self.env.now)
        if berth.drained is not None:
            berth.drained.succeed()

    def take(self, berth: Berth) -> None:
        """The devices of a berth are there from now on."""
        berth.held_since = self.env.now

    def release(self, berth: Berth, booked_s: float = 0.0) -> None:
        """The devices of a berth are given back, once what is ``booked_s`` is over."""
        berth.held.append((berth.held_since, max(self.env.now, booked_s), berth.pool))
        berth.state = ABSENT
        self.note("released", berth)

    def move(self, berth: Berth, pool: int) -> None:
        """A berth's devices belong to another pool from now on."""
        self.note("moving", berth)
        berth.held.append((berth.held_since, self.env.now, berth.pool))
        berth.state, berth.pool, berth.held_since = MOVING, pool, self.env.now

    # --- processes ------------------------------------------------------------------------------------------------

    def failing(self, berth: Berth, mtbf: float, mttr: float) -> Process:
        """Failures by chance. They are drawn whether the replica serves or not: plans meet the same ones."""
        draws = np.random.default_rng([self.lives.fleet.seed, self.seed, berth.number])
        while True:
            yield self.env.timeout(float(draws.exponential(mtbf)))
            repair_s = float(draws.exponential(mttr))
            self.fail(berth, repair_s)
            yield self.env.timeout(repair_s)

    def failing_once(self, failure: Failure) -> Process:
        """A failure at a stated instant."""
        yield self.env.timeout(failure.at)
        self.fail(self.berth_of(failure.pool, failure.replica), failure.repair)

    def fail(self, berth: Berth, repair_s: float | None) -> None:
        """A berth's replica fails where it serves or drains; in the latter case it has drained."""
        if berth.state not in (SERVING, DRAINING):
            return
        self._shut(berth)
        self.note("failed", berth)
        self.calls = self.retries.lose(self.unit(berth), self.env.now, self.calls)
        self.calls.append(Call(TO_CUT, NONE, self.unit(berth)))  # in a closed loop, who failed makes room at once
        if berth.state == DRAINING:
            self._has_drained(berth)
            return
        berth.state = DOWN
        if repair_s is None:
            self.release(berth, self.retries.booked_s)
            berth.state = GONE
        else:
            self.env.process(self._repaired(berth, repair_s))

    def _repaired(self, berth: Berth, repair_s: float) -> Process:
        yield self.env.timeout(repair_s)
        self.open(berth, "repaired")

    def maintenance(self, drain: Drain) -> Process:
        """A replica goes away for a while."""
        yield self.env.timeout(drain.at)
        berth = self.berth_of(drain.pool, drain.replica)
        if berth.state != SERVING:
            self.note("skipped", berth)
            return
        epoch = berth.epoch
        yield self.drain(berth)
        if berth.epoch == epoch:
            self.note("away", berth)
            yield self.env.timeout(drain.away)
            self.open(berth)

    def berth_of(self, pool: int, replica: int) -> Berth:
        """Where a pool's replica stood in the beginning."""
        return next(b for b in self.berths if b.replicas.get(pool) == replica)

    def _begin_slow(self, straggler: Straggler) -> None:
        """Slow for all time is slow before the first event."""
        berth = self.berth_of(straggler.pool, straggler.replica)
        if straggler.at == 0.0:
            self._slow_by(berth, [*berth.slowed_by, straggler.factor])
        self.env.process(self.slow(berth, straggler))

    def slow(self, berth: Berth, straggler: Straggler) -> Process:
        """The next iteration after ``at`` is the first slow one."""
        if straggler.at > 0.0:
            yield self.env.timeout(straggler.at)
            self._slow_by(berth, [*berth.slowed_by, straggler.factor])
        if straggler.until is not None:
            yield self.env.timeout(straggler.until - straggler.at)
            left = list(berth.slowed_by)
            left.remove(straggler.factor)
            self._slow_by(berth, left)

    def _slow_by(self, berth: Berth, factors: list[float]) -> None:
        """The devices of a berth, in whatever pool they serve: by all factors that hold at once."""
        berth.slowed_by = factors
        factor = math.prod(sorted(factors))
        for p, r in berth.replicas.items():
            self.run.states[p].replicas.slow[r] = factor
            self.calls.append(Call(TO_CUT, NONE, self.unit(berth, p)))  # a series in flight ends with its iteration
        self.note("slow" if factor > 1.0 else "fast", berth)

    # --- what came out --------------------------------------------------------------------------------------------

    def _result(self) -> SimulationResult:
        result, retries = self.run.result(), self.retries
        over = retries.left_over()
        columns = replace(
            result.requests, attempts=retries.attempts,
            preemptions=(result.requests.preemptions + retries.past_preemptions).astype(np.int32),
            status=np.where(over, FAILED, result.requests.status).astype(np.int8),
            reason=np.where(over, FAILED_NOBODY, result.requests.reason).astype(np.int8),
            finish_s=np.where(over, np.nan, result.requests.finish_s),
        )  # fmt: skip
        pools = tuple(
            replace(counters, preemptions=counters.preemptions + lost)
            for counters, lost in zip(result.pools, retries.lost_preemptions, strict=True)
        )
        return replace(result, requests=columns, pools=pools, fleet=self._life())

    def _life(self) -> FleetLife:
        """Spans that have not ended go on."""
        held, serving = [], []
        for berth in self.berths:
            held += berth.held
            serving += berth.serving
            if berth.state not in WITHOUT_DEVICES:
                held.append((berth.held_since, np.inf, berth.pool))
            if berth.state == SERVING:
                serving.append((berth.open_since, np.inf, berth.pool))
        moved = self.run.traffic.moved[0]
        return FleetLife(
            events=tuple(self.events),
            held=np.array([span[:2] for span in held]).reshape(-1, 2),
            held_pool=np.array([span[2] for span in held], np.int64),
            serving=np.array([span[:2] for span in serving]).reshape(-1, 2),
            serving_pool=np.array([span[2] for span in serving], np.int64),
            slowed_s=tuple(float(state.replicas.slowed_s.sum()) for state in self.run.states),
            last_loss_s=self.retries.last_loss_s, lost_transfers=int(moved.dropped),
            lost_bytes=float(moved.lost),
        )  # fmt: skip
