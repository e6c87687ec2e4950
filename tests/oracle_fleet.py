"""Pools whose replicas fail, drain and slow down, as naively as possible: a list of what happens, looked through."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from apexsim.spec.fleet import Fleet
from tests.oracle_memory import Request
from tests.oracle_order import Line
from tests.oracle_pools import Pools, Way, mixed
from tests.oracle_roles import Decoding


@dataclass
class Happening:
    at: float
    kind: str
    unit: int
    value: float | None = None


@dataclass
class Unit:
    open: bool = True
    down: bool = False
    drains: float | None = None  # seconds that it is away once it has drained
    slow: list[float] = field(default_factory=list)  # factors that hold at once


@dataclass
class Attempts:
    number: list[int]
    failed: set[int] = field(default_factory=set)
    preemptions: dict[int, int] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)  # of attempts that were lost


class FleetPools(Pools):
    def live(self, fleet: Fleet) -> None:
        self.coming: list[Happening] = []
        self.state = [Unit() for _ in self.units]
        self.tries = Attempts([1] * len(self.trace))
        self.retries = fleet.failures.retries if fleet.failures else 1
        for failure in fleet.failures.scheduled if fleet.failures else ():
            self.coming.append(Happening(failure.at, "fail", self.unit(failure), failure.repair))
        for drain in fleet.drain:
            self.coming.append(Happening(drain.at, "drain", self.unit(drain), drain.away))
        for straggler in fleet.stragglers:
            self.coming.append(Happening(straggler.at, "slow", self.unit(straggler), straggler.factor))
            if straggler.until is not None:
                self.coming.append(Happening(straggler.until, "fast", self.unit(straggler), straggler.factor))

    def unit(self, place: object) -> int:
        return self.units.index((place.pool, place.replica))  # type: ignore[attr-defined]

    # --- who is open ----------------------------------------------------------------------------------------------

    def choose(self, kind: str, i: int) -> int | None:
        candidates, load = self.entry if kind == "enter" else self.out
        decodes = [self.setups[p].policy.role == "decode" for p, _ in self.units]
        there = [u for u, state in enumerate(self.state) if state.open and decodes[u] == (kind == "decode")]
        row = [int(unit) for unit in candidates[i % len(candidates)] if int(unit) in there]
        if not there:
            return None
        return self.pick(row, load, i) if row else there[mixed(i) % len(there)]

    def open(self, unit: int) -> None:
        self.state[unit] = Unit(slow=self.state[unit].slow)
        self.opened = True

    # --- what happens ---------------------------------------------------------------------------------------------

    def outside(self) -> list[float]:
        return [happening.at for happening in self.coming]

    def happen(self, now: float) -> None:
        """All that happens at one instant, then the offers that come of it."""
        self.offers: list[tuple[str, int]] = []
        self.opened = False
        for happening in [h for h in self.coming if h.at <= now]:
            self.coming.remove(happening)
            p, r = self.units[happening.unit]
            state = self.state[happening.unit]
            if happening.kind in ("slow", "fast"):
                if happening.kind == "slow":
                    state.slow.append(happening.value)
                else:
                    state.slow.remove(happening.value)
                self.pools[p].replicas[r].slow = float(np.prod(sorted(state.slow)))
            elif happening.kind == "open":
                self.open(happening.unit)
            elif happening.kind == "drain" and state.open:
                state.open, state.drains = False, happening.value
            elif happening.kind == "fail" and (state.open or state.drains is not None):
                self.fail(happening.unit, happening.value, now)
        if self.opened:
            self.offers += self.parked
            self.parked = []
        for kind, i in self.offers:
            self.offer(kind, i, now)

    def see_drained(self, now: float) -> None:
        for u, state in enumerate(self.state):
            if state.drains is not None and not any(self.is_at(i, u) for i in range(len(self.trace))):
                p, r = self.units[u]
                self.pools[p].replicas[r].cached = []
                self.coming.append(Happening(now + state.drains, "open", u))
                state.drains = None

    def is_over(self, i: int) -> bool:
        ends = [
            self.requests[self.units[u][0]][i] for u in (self.ways[i].source, self.ways[i].sink) if u is not None
        ]  # fmt: skip
        handed = self.more(i) and self.ways[i].source is not None and self.prefills(self.ways[i].source)
        done = ends[1:] if handed else ends
        return i in self.tries.failed or any(q.rejected for q in ends) or any(q.done for q in done)

    def prefills(self, unit: int) -> bool:
        return self.setups[self.units[unit][0]].policy.role == "prefill"

    def is_at(self, i: int, unit: int) -> bool:
        way = self.ways[i]
        return not self.is_over(i) and ((way.source == unit and way.landed is None) or way.sink == unit)

    # --- a failure ------------------------------------------------------------------------------------------------

    def fail(self, unit: int, repair: float | None, now: float) -> None:
        state = self.state[unit]
        state.open = False
        there = [i for i in range(len(self.trace)) if self.is_at(i, unit)]
        displaced = [i for i in there if self.ways[i].source != unit and self.ways[i].landed is None]
        lost = [i for i in there if i not in displaced]
        for i in there:
            self.flows = [flow for flow in self.flows if flow.index != i]
            sink = self.ways[i].sink
            if i in lost and sink is not None and sink != unit:
                self.leave(sink, i)
        self.clear(unit)
        self.parked = [(kind, i) for kind, i in self.parked if i not in lost]
        offers = [(kind, i) for kind, i in self.offers if i not in lost]
        for i in there:
            if i in displaced:
                self.ways[i].sink = self.ways[i].reserved = None
                self.ways[i].sent = 0.0
                self.anew(i, [self.units[unit][0]])
                offers.append(("decode", i))
            elif self.again(i):
                offers.append(("enter", i))
        self.offers = sorted(offers, key=lambda offer: offer[1])
        if state.drains is not None:
            self.coming.append(Happening(now + state.drains, "open", unit))
            state.drains = None
        elif repair is not None:
            self.coming.append(Happening(now + repair, "open", unit))

    def leave(self, sink: int, i: int) -> None:
        """Request i leaves the pool where it was to decode."""
        q, r = self.units[sink]
        oracle, held = self.pools[q], self.requests[q][i]
        replica = oracle.replicas[r]
        for line in (replica.away, replica.line.waiting, replica.line.incoming):
            if held in line:
                line.remove(held)
        replica.give_back(held)
        replica.full = False
        oracle.wake(replica)

    def clear(self, unit: int) -> None:
        p, r = self.units[unit]
        oracle = self.pools[p]
        replica = oracle.replicas[r]
        for slot in replica.slots:
            slot.running, slot.decodes, slot.chunks, slot.end, slot.ready = [], [], [], None, False
        replica.line = Line(oracle.policy)
        replica.open, replica.away, replica.cached, replica.full = [], [], [], False
        replica.stage_free = [-np.inf] * len(replica.slots)
        if isinstance(oracle, Decoding):
            oracle.received[r] = []

    def again(self, i: int) -> bool:
        """Request i begins anew; False where it has failed."""
        for p, pool in enumerate(self.setups):
            if pool.policy.role != "prefill":
                self.tries.gaps += np.diff(self.requests[p][i].tokens).tolist()
            self.tries.preemptions[i] = self.tries.preemptions.get(i, 0) + self.requests[p][i].preemptions
        source = self.ways[i].source
        self.ways[i] = Way()
        self.anew(i, range(len(self.pools)))
        if self.tries.number[i] > self.retries:
            self.tries.failed.add(i)
            self.ways[i].source = source
            return False
        self.tries.number[i] += 1
        return True

    def anew(self, i: int, pools: object) -> None:
        for p in pools:  # type: ignore[attr-defined]
            old = self.requests[p][i]
            self.requests[p][i] = Request(
                i, 0.0, old.prompt, old.output, units=old.units, declared=old.declared, priority=old.priority,
                client=old.client, deadline=old.deadline,
            )  # fmt: skip

    def ended(self) -> int:
        return super().ended() + len(self.tries.failed)
