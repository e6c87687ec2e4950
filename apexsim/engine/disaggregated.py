"""Run several pools that hand requests to each other under a load: the front door of ``coupled.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import StepTables
from apexsim.engine import recorder
from apexsim.engine.between import book_between
from apexsim.engine.book import Book, book_of
from apexsim.engine.coupled import run_coupled
from apexsim.engine.course import CALL, ERRAND, FULL, JOURNEY, UNIT, Course, Rules
from apexsim.engine.encoders import ImageSetup, encoded_of, most_tasks, new_encoding
from apexsim.engine.jit import exact
from apexsim.engine.law import exact_tables
from apexsim.engine.links import new_traffic
from apexsim.engine.replica import NEEDS_RECORDS, THROUGH
from apexsim.engine.result import IN_FLIGHT, ItlRuns, RequestColumns, SimulationResult, Timeline, Transfers
from apexsim.engine.routers import Choice, PlugInRouter
from apexsim.engine.routers import router as named_router
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, empty_pool, offered_by, phase_of
from apexsim.engine.state import NONE, Limits, State, rows, with_deeper_stack, with_longer_records
from apexsim.errors import UsageError
from apexsim.spec.plan import Role
from apexsim.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class PoolSetup:
    """One pool: the law of its replicas, what each holds, its scheduler, and how many there are."""

    tables: StepTables
    limits: ReplicaLimits
    policy: Policy
    replicas: int

    @property
    def units(self) -> int:
        """Replicas, or all ranks of them where they run in lockstep."""
        return self.replicas * self.tables.group.ranks


@dataclass(frozen=True, slots=True)
class Links:
    """What KV travels over, between U units: the replicas, or ranks, of all pools in their order.

    Attributes:
        capacity: [L] B/s of every link.
        paths: links of each way, by number.
        latency_s: [paths] of the last byte.
        ways: [U, U, k] numbers of the k ways between two units.
        shares: of each way's bytes on each of its links; all of them where empty.
    """

    capacity: NDArray[np.float64]
    paths: tuple[tuple[int, ...], ...]
    latency_s: NDArray[np.float64]
    ways: NDArray[np.int64]
    shares: tuple[tuple[float, ...], ...] = ()


ALONE = Links(np.zeros(1), (), np.zeros(0), np.zeros((1, 1, 1), np.int64))
"""Between units of which none sends anything to another."""


@dataclass(frozen=True, slots=True)
class Handover:
    """How requests go from the pools that prefill to those that decode.

    Attributes:
        size_bytes: [n] KV of each request's prompt.
        push: blocks where it decodes are reserved before it is prefilled; else when its prefill has ended.
        early: share of the KV that may leave while it is computed; 0 = all leaves when the prefill ends.
        shown: the client sees the first token when the prefill ends; else when the KV has landed.
    """

    size_bytes: NDArray[np.float64]
    push: bool = False
    early: float = 0.0
    shown: bool = True


def simulate_pools(
    trace: Trace, pools: Sequence[PoolSetup], links: Links, handover: Handover, *,
    routers: dict[Role, str] | None = None, seed: int = 0, concurrency: int | None = None, timeline: bool = False,
    images: ImageSetup | None = None,
) -> SimulationResult:  # fmt: skip
    """Serve ``trace`` with pools of several roles until the last request has ended.

    Requests enter at pools that serve or prefill, the latter's go on to those that decode. Loads are as in
    ``simulate_pool``.

    Args:
        routers: names by role: of those that a request enters at, ``prefill`` or ``serve``, and ``decode``;
            least-loaded where left out.
        images: how those of the trace are encoded; its units are the last ones of ``links``.

    Raises:
        UsageError: an unknown router, or one that these pools do not serve, or no way from pool to pool.
    """
    run = CoupledRun(trace, pools, links, handover, routers or {}, seed, concurrency, timeline, images)
    run.to(np.inf)
    return run.result()


class CoupledRun:
    """The states of all pools and what joins them."""

    def __init__(
        self, trace: Trace, pools: Sequence[PoolSetup], links: Links, handover: Handover, routers: dict[Role, str],
        seed: int, concurrency: int | None, timeline: bool, images: ImageSetup | None = None, *, life: bool = False,
    ) -> None:  # fmt: skip
        self.trace, self.pools, self.seed, self.timeline = trace, pools, seed, timeline
        self.handover, self.concurrency = handover, concurrency
        if concurrency is not None and concurrency < 1:
            raise UsageError(f"concurrency {concurrency} (at least 1 request must be in flight)")
        self.entry_s = max(pool.limits.entry_s for pool in pools if pool.policy.role != "decode")
        self.exit_s = max(pool.limits.exit_s for pool in pools)
        self.origin_s = float(trace.arrival_s[0]) if concurrency is None else 0.0
        arrival_s = trace.arrival_s - self.origin_s if concurrency is None else np.zeros(len(trace))
        made = [self._empty(pool, arrival_s) for pool in pools]
        self.limits = [limits for limits, _ in made]
        self.states = [state for _, state in made]
        self.units = rows(UNIT, sum(pool.units for pool in pools))
        self.units.pool = np.repeat(np.arange(len(pools)), [pool.units for pool in pools])
        self.units.replica = np.concatenate([np.arange(pool.units) for pool in pools])
        self.units.hands_over = [pools[p].policy.role == "prefill" for p in self.units.pool]
        self.units.exit = [pools[p].policy.role == "decode" for p in self.units.pool]
        self.units.entry = 1 - self.units.exit
        entry = self._choice({"serve", "prefill"}, routers.get("prefill", routers.get("serve")))
        out = self._choice({"decode"}, routers.get("decode"))
        self.rules = Rules(
            len(pools), int(entry.load), int(out.load), bool(handover.push), float(handover.early),
            bool(handover.shown), life,
        )  # fmt: skip
        self.course = self._course(entry, out, links, arrival_s + self.entry_s)
        self.tables = tuple(exact_tables(pool.tables) for pool in pools)
        known = len(trace) if concurrency is None else min(len(trace), concurrency)
        self.book = self._written()
        self.cursor = np.array([0, known, 0, 0, 0, 0, 0], np.int64)
        self.encoding = new_encoding(trace, images, offered_by(trace), len(self.units), seed)
        most = len(trace) + most_tasks(trace, images)
        self.traffic = new_traffic(links.capacity, links.paths, links.latency_s, most, links.shares)

    def _empty(self, pool: PoolSetup, arrival_s: NDArray[np.float64]) -> tuple[Limits, State]:
        role = pool.policy.role
        ends = {
            "hands_over": role == "prefill", "receives": role == "decode",
            "streams": role == "prefill" and self.handover.early > 0,
        }  # fmt: skip
        return empty_pool(
            phase_of(self.trace, pool.policy), arrival_s, pool.tables, pool.limits, pool.policy, pool.units,
            seed=self.seed, timeline=self.timeline, ends=ends,
        )  # fmt: skip

    def _choice(self, roles: set[str], name: str | None) -> Choice:
        """Candidates among the units of pools with these roles, by the numbers of all units."""
        units = np.flatnonzero([self.pools[p].policy.role in roles for p in self.units.pool])
        if len(units) == 0:
            return Choice(np.zeros((1, 0), np.int64), 0)
        router = named_router(name or "least-loaded")
        if isinstance(router, PlugInRouter):
            raise UsageError(f"router {name!r}: plug-in routers serve one pool only (allowed: a built-in one)")
        choice = router.candidates(offered_by(self.trace), len(units), self.seed)
        return Choice(units[choice.candidates], choice.load)

    def _course(self, entry: Choice, out: Choice, links: Links, arrivals: NDArray[np.float64]) -> Course:
        n = len(self.trace)
        journeys = rows(JOURNEY, n)
        journeys.source = journeys.sink = NONE
        for name in ("reserved_s", "left_s", "landed_s"):
            journeys[name] = np.nan
        journeys.kv_bytes = self.handover.size_bytes
        journeys.more = self.trace.output_tokens > 1
        return Course(
            self.units, journeys, rows(ERRAND, 4 * n + 64), exact(entry.candidates, np.int64),
            exact(out.candidates, np.int64), exact(links.ways, np.int64), exact(arrivals, np.float64),
            rows(CALL, 4 * n + 64 if self.rules.life else 0), np.zeros(1),
        )  # fmt: skip

    def _written(self) -> Book:
        """The pools as kernels read them; anew where arrays have been replaced."""
        return book_of(list(zip(self.states, self.tables, self.limits, strict=True)))

    def to(self, until: float) -> None:
        """Call the compiled loop until it is through, with longer record arrays each time it asks for them."""
        concurrency = len(self.trace) if self.concurrency is None else self.concurrency
        delay_s = float(self.entry_s + self.exit_s)
        between = book_between((self.traffic, self.course, self.rules, self.encoding))
        while True:
            full = run_coupled(self.book, between, self.cursor, concurrency, delay_s, float(until))
            if full == THROUGH:
                return
            self.lengthen(int(self.cursor[FULL]), full)

    def lengthen(self, p: int, full: int) -> None:
        """Longer arrays for pool p, of the kind that is ``full``."""
        longer = with_longer_records if full == NEEDS_RECORDS else with_deeper_stack
        self.states[p] = longer(self.states[p])
        self.book = self._written()

    # --- what came out --------------------------------------------------------------------------------------------

    def result(self) -> SimulationResult:
        """Columns of all requests, the counters of every pool, and what went between them."""
        counters = tuple(
            recorder.counters(state, limits, pool.tables.group.ranks)
            for state, limits, pool in zip(self.states, self.limits, self.pools, strict=True)
        )
        return SimulationResult(
            requests=self._columns(), itl=self._itl(), pools=counters,
            replicas=tuple(pool.replicas for pool in self.pools), seed=self.seed,
            timeline=self._timeline() if self.timeline else None, transfers=self._transfers(),
            units=tuple(pool.units for pool in self.pools),
            encoded=encoded_of(self.encoding, self.origin_s),
        )  # fmt: skip

    def _of(self, unit: NDArray[np.int64], column: str, nothing: float) -> NDArray[np.float64]:
        """``column`` of every request in the pool of its ``unit``; ``nothing`` where it has none."""
        found = np.full(len(self.trace), nothing)
        pools = np.where(unit == NONE, NONE, self.units.pool[unit])
        for p, state in enumerate(self.states):
            found[pools == p] = state.requests[column][pools == p]
        return found

    def _columns(self) -> RequestColumns:
        journeys, trace = self.course.journeys, self.trace
        source, sink = journeys.source.copy(), journeys.sink.copy()
        closed = self.concurrency is not None
        arrival_s = self.course.arrivals - self.entry_s if closed else trace.arrival_s
        clock_s = self.origin_s + self.exit_s
        decoded = self._of(sink, "status", IN_FLIGHT)
        first, out = self._of(source, "first_token_s", np.nan), self._of(sink, "first_token_s", np.nan)
        status = np.where(decoded != IN_FLIGHT, decoded, self._of(source, "status", IN_FLIGHT))
        ended = self._of(source, "finish_s", np.nan)
        whole = (self.units.hands_over[source] == 0) | (journeys.more == 0)
        return RequestColumns(
            arrival_s=arrival_s,
            start_s=np.maximum(self._of(source, "start_s", np.nan) + self.origin_s, arrival_s),
            first_token_s=np.where(whole | self.rules.shown, first, out) + clock_s,
            finish_s=np.where(whole, ended, self._of(sink, "finish_s", np.nan)) + clock_s,
            input_tokens=trace.input_tokens,
            output_tokens=trace.output_tokens,
            status=status.astype(np.int8),
            reason=np.maximum(self._of(source, "reason", 0), self._of(sink, "reason", 0)).astype(np.int8),
            replica=np.where(source == NONE, NONE, source).astype(np.int32),
            preemptions=(self._of(source, "preemptions", 0) + self._of(sink, "preemptions", 0)).astype(np.int32),
            cached_tokens=self._cached(source),
            itl_max_s=np.where(whole, self._of(source, "itl_max_s", np.nan), self._of(sink, "itl_max_s", np.nan)),
        )

    def _cached(self, source: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.zeros(len(self.trace), np.int64)
        pools = np.where(source == NONE, NONE, self.units.pool[source])
        for p, state in enumerate(self.states):
            if len(state.cache.prefixes):
                found[pools == p] = np.asarray(state.cache.prefixes.hit, np.int64).clip(min=0)[pools == p]
        return found

    def _itl(self) -> ItlRuns:
        runs = [recorder.itl_runs(state) for state in self.states]
        return ItlRuns(*(np.concatenate([getattr(run, name) for run in runs]) for name in ItlRuns.__slots__))

    def _timeline(self) -> Timeline:
        lines = [recorder.timeline(state, self.origin_s, p) for p, state in enumerate(self.states)]
        return Timeline(*(np.concatenate([getattr(line, name) for line in lines]) for name in Timeline.__slots__))

    def _transfers(self) -> Transfers:
        journeys, moved = self.course.journeys, self.traffic.moved[0]
        sink = journeys.sink.copy()
        return Transfers(
            left_s=journeys.left_s + self.origin_s, reserved_s=journeys.reserved_s + self.origin_s,
            landed_s=journeys.landed_s + self.origin_s,
            size_bytes=np.where(np.isnan(journeys.landed_s), 0.0, journeys.kv_bytes),
            pool=np.where(sink == NONE, NONE, self.units.pool[sink]),
            replica=np.where(sink == NONE, NONE, self.units.replica[sink]),
            started=int(moved.started), finished=int(moved.finished), released=float(moved.released),
            carried=float(moved.carried), busy_s=float(moved.busy_s),
        )  # fmt: skip


