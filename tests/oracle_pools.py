"""Pools that hand requests to each other once more, as naively as possible: lists of transfers, rates found by filling.

Each pool is an oracle of its own, with requests of its own that share an index; what they tell each other is a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from apexsim.engine.disaggregated import Handover, Links, PoolSetup
from apexsim.workload.trace import Trace
from tests.oracle import TIED, Oracle
from tests.oracle_law import one_instant
from tests.oracle_links import Flow, fair_rates
from tests.oracle_lockstep import LockstepOracle
from tests.oracle_memory import Request, prefix_of
from tests.oracle_order import demand
from tests.oracle_roles import Decoding, LockstepDecoding, LockstepPrefilling, Prefilling


@dataclass
class Way:
    """What happened to a request between the pools."""

    source: int | None = None
    sink: int | None = None
    left: float | None = None
    reserved: float | None = None
    landed: float | None = None
    sent: float = 0.0
    entered: bool = False


@dataclass
class PoolsRun:
    pools: list[Oracle]
    requests: list[list[Request]]
    ways: list[Way]
    tied: bool
    arrivals: list[float] = field(default_factory=list)


def mixed(i: int) -> int:
    word = (i * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    word = ((word ^ (word >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return word ^ (word >> 16)


class Pools:
    def __init__(
        self, trace: Trace, pools: list[PoolSetup], links: Links, handover: Handover,
        entry: tuple[np.ndarray, str], out: tuple[np.ndarray, str], seed: int,
    ) -> None:  # fmt: skip
        self.trace, self.setups, self.links, self.handover = trace, pools, links, handover
        self.entry, self.out = entry, out
        self.units = [(p, r) for p, pool in enumerate(pools) for r in range(pool.units)]
        self.pools = [self._pool(pool, seed) for pool in pools]
        self.requests = [self._requests(pool) for pool in pools]
        self.ways = [Way() for _ in range(len(trace))]
        self.flows: list[Flow] = []
        self.clock, self.tied = 0.0, False
        self.later: list[int] = []
        self.parked: list[tuple[str, int]] = []

    def _pool(self, pool: PoolSetup, seed: int) -> Oracle:
        kinds = {
            ("serve", False): Oracle, ("serve", True): LockstepOracle, ("prefill", False): Prefilling,
            ("prefill", True): LockstepPrefilling, ("decode", False): Decoding, ("decode", True): LockstepDecoding,
        }  # fmt: skip
        kind = kinds[pool.policy.role, pool.tables.group.ranks > 1]
        return kind(pool.tables, pool.limits, pool.policy, pool.units, caching=self._caching(pool), seed=seed)

    def _caching(self, pool: PoolSetup) -> bool:
        trace = self.trace
        hashes = trace.hash_ids is not None and len(trace.hash_ids) > 0
        return pool.policy.prefix_caching and (hashes or trace.shared_prefix_tokens is not None)

    def _requests(self, pool: PoolSetup) -> list[Request]:
        found = []
        for i in range(len(self.trace)):
            request = Request(i, 0.0, int(self.trace.input_tokens[i]), int(self.trace.output_tokens[i]))
            demand(request, self.trace, pool.policy, pool.limits.entry_s + pool.limits.exit_s)
            if self._caching(pool):
                request.units, request.declared = prefix_of(self.trace, i, pool.limits.block_size)
            found.append(request)
        return found

    def more(self, i: int) -> bool:
        return int(self.trace.output_tokens[i]) > 1

    # --- routing ------------------------------------------------------------------------------------------------

    def choose(self, kind: str, i: int) -> int | None:
        candidates, load = self.entry if kind == "enter" else self.out
        return self.pick([int(unit) for unit in candidates[i % len(candidates)]], load, i)

    def pick(self, row: list[int], load: str, i: int) -> int:
        if load == "place":
            return row[0]

        def runs(unit: int) -> bool:
            oracle, request = self.pools[self.units[unit][0]], self.requests[self.units[unit][0]][i]
            length = request.prompt + request.output
            return length <= oracle.limits.max_model_len and oracle.most_blocks(length - 1) <= oracle.limits.kv_blocks

        def there(unit: int) -> list[Request]:
            p, r = self.units[unit]
            replica = self.pools[p].replicas[r]
            waiting = replica.away if isinstance(self.pools[p], Decoding) else []
            return replica.unfinished + waiting

        able = [unit for unit in row if runs(unit)]
        if load == "prefix" and able:
            fewest = min(len(there(unit)) for unit in row)
            able = [unit for unit in able if len(there(unit)) <= (16 + 3 * fewest) // 2]
        if not able:
            return row[0]

        def weight(unit: int) -> tuple[int, ...]:
            p, r = self.units[unit]
            if load == "prefix":
                return -self.pools[p].replicas[r].cached_prefix(self.requests[p][i]), len(there(unit))
            if load == "tokens":
                return (sum(request.prompt for request in there(unit)),)
            return (len(there(unit)),)

        return min(able, key=lambda unit: (weight(unit), self.units[unit][0], row.index(unit)))

    def offer(self, kind: str, i: int, now: float) -> None:
        way = self.ways[i]
        unit = way.source if kind == "enter" and way.source is not None else self.choose(kind, i)
        if unit is None:
            self.parked.append((kind, i))
            return
        p, r = self.units[unit]
        ahead = kind == "enter" and way.source is None and self.handover.push and self.more(i)
        if ahead and self.setups[p].policy.role == "prefill":
            way.source = unit
            self.later.append(i)
            return
        request = self.requests[p][i]
        request.arrival = now
        if kind == "enter":
            way.source, way.entered = unit, True
        else:
            way.sink = unit
        self.pools[p].offer(r, request)
        if request.rejected:
            other = way.sink if kind == "enter" else way.source
            if other is not None and not (self.handover.push and kind == "decode" and not way.entered):
                q, _ = self.units[other]
                oracle, held = self.pools[q], self.requests[q][i]
                replica = oracle.replicas[held.replica]
                replica.away.remove(held)
                replica.give_back(held)
                replica.full = False
                oracle.wake(replica)

    # --- transfers ------------------------------------------------------------------------------------------------

    def release(self, i: int, amount: float, closed: bool) -> None:
        way = self.ways[i]
        assert way.source is not None
        assert way.sink is not None
        flow = next((f for f in self.flows if f.index == i), None)
        if flow is None:
            ways = self.links.ways[way.source, way.sink]
            path = int(ways[mixed(i) % len(ways)])
            shares = self.links.shares[path] if self.links.shares else ()
            flow = Flow(i, self.links.paths[path], float(self.links.latency_s[path]), shares=shares)
            self.flows.append(flow)
        flow.left += amount
        flow.closed = closed
        way.sent += amount
        if closed and flow.left == 0:
            flow.lands = self.clock + flow.latency

    def carry(self, now: float) -> None:
        for flow in self.flows:
            if flow.rate > 0:
                end = self.clock + flow.left / flow.rate
                flow.left = 0.0 if end <= now + one_instant(now) else flow.left - flow.rate * (now - self.clock)
                if flow.left == 0.0 and flow.closed:
                    flow.lands = now + flow.latency
                if flow.left == 0.0:
                    flow.rate = 0.0
        self.clock = now

    def flow_ends(self) -> list[float]:
        ends = [flow.lands for flow in self.flows if flow.lands is not None]
        return ends + [self.clock + flow.left / flow.rate for flow in self.flows if flow.rate > 0]

    # --- what else may happen: ``oracle_fleet.py`` ---------------------------------------------------------------

    def outside(self) -> list[float]:
        return []

    def happen(self, now: float) -> None:
        """Whatever comes from outside at this instant."""

    def see_drained(self, now: float) -> None:
        """Units that have ended what they had."""

    # --- images: ``oracle_encoding.py`` has them --------------------------------------------------------------------

    def encode_events(self) -> list[float]:
        return []

    def arrive(self, i: int, now: float) -> None:
        self.offer("enter", i, now)

    def end_encoding(self, now: float) -> None:
        pass

    def land_embeddings(self, flow: Flow, now: float) -> None:
        pass

    def prepare(self, now: float) -> None:
        pass

    def begin_encoding(self, now: float) -> None:
        pass

    # --- the loop ---------------------------------------------------------------------------------------------------

    def told(self, now: float) -> list[tuple[str, int]]:
        """What the pools have to tell each other, pool by pool, in the order in which it happened."""
        errands: list[tuple[str, int]] = []
        for oracle in self.pools:
            if isinstance(oracle, Prefilling):
                for request in oracle.left:
                    i = request.index
                    self.ways[i].left = now
                    if not self.more(i):
                        oracle.let_go_of(request)
                    elif not self.handover.push:
                        errands.append(("decode", i))
                    elif self.ways[i].reserved is not None:
                        self.release(i, self.size(i) - self.ways[i].sent, True)
                oracle.left = []
                for request, chunk in oracle.begun:
                    reserved = self.ways[request.index].reserved is not None
                    if self.more(request.index) and self.handover.early > 0 and reserved:
                        most = self.size(request.index) * self.handover.early
                        amount = min(most * (chunk / request.prompt), most - self.ways[request.index].sent)
                        if amount > 0:
                            self.release(request.index, amount, False)
                oracle.begun = []
            if isinstance(oracle, Decoding):
                for request in oracle.taken:
                    way = self.ways[request.index]
                    way.reserved = now
                    if way.left is not None:
                        self.release(request.index, self.size(request.index), True)
                    elif not way.entered:
                        errands.append(("enter", request.index))
                oracle.taken = []
        return errands

    def size(self, i: int) -> float:
        return float(self.handover.size_bytes[i])

    def land(self, now: float) -> None:
        landed = [f for f in self.flows if f.lands is not None and f.lands <= now + one_instant(now)]
        for flow in sorted(landed, key=lambda f: f.index):
            self.flows.remove(flow)
            if flow.index >= len(self.trace):
                self.land_embeddings(flow, now)
                continue
            way = self.ways[flow.index]
            way.landed = now
            assert way.source is not None
            assert way.sink is not None
            assert way.left is not None
            p, q = self.units[way.source][0], self.units[way.sink][0]
            source, sink = self.pools[p], self.pools[q]
            assert isinstance(source, Prefilling)
            assert isinstance(sink, Decoding)
            source.let_go_of(self.requests[p][flow.index])
            sink.receive(self.requests[q][flow.index], way.left if self.handover.shown else now, now)

    def ended(self) -> int:
        count = 0
        for i in range(len(self.trace)):
            for p, pool in enumerate(self.setups):
                request = self.requests[p][i]
                handed = pool.policy.role == "prefill" and self.more(i)
                count += request.done and (request.rejected or not handed)
        return count

    def run(self, arrivals: list[float], concurrency: int | None, delay: float) -> PoolsRun:
        n = len(self.trace)
        known = n if concurrency is None else min(n, concurrency)
        nxt = 0
        slots = [(o, r, s) for o in self.pools for r, replica in enumerate(o.replicas) for s in replica.slots]
        while True:
            ends = [slot.end for _, _, slot in slots if slot.end is not None]
            instants = ends + self.flow_ends() + self.encode_events() + self.outside()
            instants += [arrivals[nxt]] if nxt < known else []
            if not instants:
                break
            now = min(instants)
            near = [at for at in instants if at - now <= TIED * max(1.0, now)]
            apart = [at for at in near if at - now > one_instant(now)]
            self.tied |= bool(apart) or (nxt < known and len(near) > 1 and arrivals[nxt] in near and delay == 0.0)
            for oracle, r, slot in slots:
                if slot.end is not None and slot.end <= now + one_instant(now):
                    oracle.complete(oracle.replicas[r], slot)
            self.carry(now)
            errands = self.told(now)
            while known < n and known < (concurrency or 0) + self.ended():
                arrivals[known] = now + delay
                known += 1
            for kind, i in errands:
                self.offer(kind, i, now)
            self.end_encoding(now)
            self.land(now)
            while nxt < known and arrivals[nxt] <= now + one_instant(now):
                self.arrive(nxt, now)
                nxt += 1
            self.happen(now)
            while known < n and known < (concurrency or 0) + self.ended():
                arrivals[known] = now + delay
                known += 1
            self.prepare(now)
            for i in self.later:  # who is prefilled has its blocks reserved first
                self.offer("decode", i, now)
            self.later = []
            while any(slot.ready for _, _, slot in slots):
                for oracle in self.pools:
                    for r, replica in enumerate(oracle.replicas):
                        while any(slot.ready for slot in replica.slots):
                            oracle.schedule(r, [slot.ready for slot in replica.slots].index(True), now)
                for kind, i in self.told(now):
                    self.offer(kind, i, now)
            while known < n and known < (concurrency or 0) + self.ended():
                arrivals[known] = now + delay
                known += 1
            self.begin_encoding(now)
            fair_rates(self.flows, [float(c) for c in self.links.capacity])
            self.see_drained(now)
        tied = self.tied or any(oracle.tied for oracle in self.pools)
        return PoolsRun(self.pools, self.requests, self.ways, tied, arrivals)
