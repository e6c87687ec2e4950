"""Policies that look at the load from time to time: how many replicas a pool has, and which role a replica has."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from apexsim.engine.berths import ABSENT, COMING, DRAINING, GONE, LOADING, SERVING, Berth
from apexsim.engine.course import CALLS, FIRST_CALL, TO_DECODE, TO_ENTER
from apexsim.engine.state import RUNNING
from apexsim.spec.fleet import Autoscale, Switch, SwitchPool

if TYPE_CHECKING:
    import simpy

    from apexsim.engine.life import FleetRun  # it makes these

ROUNDING = 1e-9
"""Of a load: what is above a whole number of replicas by less is that number."""


class Gauge:
    """Means over the time between two readings, of all replicas of one pool."""

    def __init__(self, fleet: FleetRun, pool: int) -> None:
        self.fleet, self.pool = fleet, pool
        self.at_s = self.fleet.env.now
        self.past = self._integrals()

    def read(self) -> tuple[float, float]:
        """(requests that wait or run, replicas that run an iteration) since the last reading."""
        now, integrals = self.fleet.env.now, self._integrals()
        means = (integrals - self.past) / (now - self.at_s)
        self.at_s, self.past = now, integrals
        return float(means[0]), float(means[1])

    def _integrals(self) -> np.ndarray:
        """Request-seconds and busy seconds up to now."""
        now, state = self.fleet.env.now, self.fleet.run.states[self.pool]
        replicas, groups = state.replicas, state.groups
        requests_s = replicas.present_s + (replicas.waiting + replicas.running) * (now - replicas.changed_s)
        busy_s = replicas.busy_s.sum()
        for g in np.flatnonzero(groups.phase == RUNNING):
            # An iteration is booked when it begins, a series when it ends.
            begun = groups.begin_s[g] if np.isnan(groups.duration_s[g]) else groups.end_s[g]
            busy_s += (now - begun) / state.stages
        return np.array([requests_s.sum(), busy_s])


class Autoscaler:
    """As many replicas as bring the load of each to its target (the rule of Kubernetes' Horizontal Pod Autoscaler:
    ceil(replicas · load / target), and fewer only where all looks within a time want fewer).
    """

    def __init__(self, fleet: FleetRun, rule: Autoscale, load_s: float) -> None:
        self.fleet, self.rule, self.load_s = fleet, rule, load_s
        self.gauge = Gauge(fleet, rule.pool)
        self.wanted: list[tuple[float, int]] = []
        self.leaving: list[Berth] = []  # that drain because they are not wanted; others are in maintenance

    def process(self) -> Generator[simpy.Event, None, None]:
        """A look each period."""
        while True:
            yield self.fleet.env.timeout(self.rule.period)
            self.look()

    def desired(self) -> int:
        """Replicas for the load since the last look."""
        requests, busy = self.gauge.read()
        rule, at_the_door = self.rule, self.at_the_door()
        if rule.target_requests is not None:
            replicas = (requests + at_the_door) / rule.target_requests
        else:
            replicas = busy / (rule.target_utilization or 1.0) + (at_the_door > 0)
        return min(max(math.ceil(replicas - ROUNDING), rule.min_replicas), rule.max_replicas)

    def at_the_door(self) -> int:
        """Requests that wait because no replica of the pool's kind is open: to enter, or, prefilled, to decode."""
        cursor, (_, decodes) = self.fleet.run.cursor, self.fleet.roles[self.rule.pool]
        waiting = self.fleet.run.course.lobby.kind[cursor[FIRST_CALL] : cursor[CALLS]]
        return int(np.count_nonzero(waiting == (TO_DECODE if decodes else TO_ENTER)))

    def look(self) -> None:
        """More at once; fewer than there are only where that was wanted all the time."""
        now, desired = self.fleet.env.now, self.desired()
        self.wanted = [(at, n) for at, n in self.wanted if at >= now - self.rule.cooldown] + [(now, desired)]
        most = max(n for _, n in self.wanted)
        mine = [berth for berth in self.fleet.berths if berth.pool == self.rule.pool]
        there = [berth for berth in mine if berth.state not in (ABSENT, GONE) and berth not in self.leaving]
        if desired > len(there):
            self._more(mine, desired - len(there))
        elif most < len(there):
            self._fewer(there, len(there) - most)

    def _more(self, mine: list[Berth], count: int) -> None:
        """Those that drain are kept first; they have their weights."""
        for berth in [berth for berth in self.leaving if berth.state == DRAINING][:count]:
            self.leaving.remove(berth)
            self.fleet.keep(berth)
            count -= 1
        for berth in [berth for berth in mine if berth.state == ABSENT][:count]:
            berth.state = COMING
            self.fleet.env.process(self._come(berth))

    def _fewer(self, there: list[Berth], count: int) -> None:
        """Those that do not serve yet go first, the last that were asked for; then the ones with fewest requests."""
        coming = [berth for berth in there if berth.state in (COMING, LOADING)]
        serving = [berth for berth in there if berth.state == SERVING]
        serving.sort(key=lambda berth: (self.fleet.requests_at(berth), -berth.number))
        for berth in [*reversed(coming), *serving][:count]:
            self.fleet.env.process(self._go(berth))

    def _come(self, berth: Berth) -> Generator[simpy.Event, None, None]:
        fleet, epoch = self.fleet, berth.epoch
        fleet.note("coming", berth)
        if self.rule.provision > 0:
            yield fleet.env.timeout(self.rule.provision)
        if berth.epoch == epoch:
            fleet.take(berth)
            berth.state = LOADING
            fleet.note("loading", berth)
            yield fleet.env.timeout(self.load_s)
            if berth.epoch == epoch:
                fleet.open(berth)

    def _go(self, berth: Berth) -> Generator[simpy.Event, None, None]:
        fleet = self.fleet
        if berth.state == SERVING:
            epoch = berth.epoch
            self.leaving.append(berth)
            yield fleet.drain(berth)
            if berth.epoch == epoch:
                self.leaving.remove(berth)
                fleet.release(berth)
            return
        berth.epoch += 1
        if berth.state == LOADING:
            fleet.release(berth)
        berth.state = ABSENT


class Switcher:
    """One replica at a time goes from the pool with the least load to the one with the most, where that is above its
    target, exceeds the other by the hysteresis, and does not fall below it by the change.
    """

    def __init__(self, fleet: FleetRun, rule: Switch) -> None:
        self.fleet, self.rule = fleet, rule
        self.gauges = [Gauge(fleet, pool.pool) for pool in rule.pools]
        self.under_way = False

    def process(self) -> Generator[simpy.Event, None, None]:
        """A look each period."""
        while True:
            yield self.fleet.env.timeout(self.rule.period)
            requests = [gauge.read()[0] for gauge in self.gauges]
            if not self.under_way:
                change = self.choose(requests)
                if change is not None:
                    self.fleet.env.process(self._switch(*change))

    def choose(self, requests: list[float]) -> tuple[Berth, int] | None:
        """(who goes, to which pool), or None. ``requests``: the mean of each pool's since the last look."""
        pools = self.rule.pools
        serving = [self._serving(pool) for pool in pools]

        def load(k: int, more: int = 0) -> float:
            return requests[k] / max(len(serving[k]) + more, 1) / pools[k].target_requests

        order = sorted(range(len(pools)), key=lambda k: (load(k), k))
        least, most = order[0], order[-1]
        if load(most) <= 1.0 or load(most) <= self.rule.hysteresis * load(least):
            return None
        if len(serving[least]) <= pools[least].min_replicas or load(least, -1) > load(most, 1):
            return None
        return min(serving[least], key=lambda b: (self.fleet.requests_at(b), -b.number)), pools[most].pool

    def _serving(self, pool: SwitchPool) -> list[Berth]:
        return [b for b in self.fleet.berths if b.pool == pool.pool and b.state == SERVING]

    def _switch(self, berth: Berth, pool: int) -> Generator[simpy.Event, None, None]:
        self.under_way = True
        yield self.fleet.drain(berth)
        self.fleet.move(berth, pool)
        if self.rule.migration > 0:
            yield self.fleet.env.timeout(self.rule.migration)
        self.fleet.open(berth)
        self.under_way = False
