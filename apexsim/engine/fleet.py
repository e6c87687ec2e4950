"""SimPy outside, compiled replicas inside, where replicas stay: ``life.py`` has those that come and go.

SimPy sees what is rare and concurrent. A pool under a built-in router has nothing of that, so it is one SimPy
process that runs the compiled loop to the next outside event; under a plug-in router every arrival is a SimPy
event that asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import simpy

from apexsim.cost.tables import StepTables
from apexsim.engine.book import book_of
from apexsim.engine.jit import exact
from apexsim.engine.law import exact_tables
from apexsim.engine.lockstep_pool import (
    advance_all_in_lockstep,
    cached_prefix_in_lockstep,
    cut_all_in_lockstep,
    offer_one_in_lockstep,
    run_closed_in_lockstep,
    run_open_in_lockstep,
)
from apexsim.engine.pool import advance_all, cached_prefix, cut_all, offer_one, run_closed, run_open
from apexsim.engine.recorder import counters
from apexsim.engine.replica import NEEDS_RECORDS, THROUGH
from apexsim.engine.result import Snapshot
from apexsim.engine.routers import Choice, Offered, PlugInRouter, ReplicaView, RequestView
from apexsim.engine.state import Limits, State, with_deeper_stack, with_longer_records


class Kernels(NamedTuple):
    """The compiled loops of a pool."""

    run_open: Callable[..., int]
    run_closed: Callable[..., int]
    advance_all: Callable[..., int]
    offer_one: Callable[..., None]
    cut_all: Callable[..., float]
    cached_prefix: Callable[..., None]


REPLICAS = Kernels(run_open, run_closed, advance_all, offer_one, cut_all, cached_prefix)
IN_LOCKSTEP = Kernels(
    run_open_in_lockstep, run_closed_in_lockstep, advance_all_in_lockstep, offer_one_in_lockstep,
    cut_all_in_lockstep, cached_prefix_in_lockstep,
)  # fmt: skip


@dataclass
class Marks:
    """Instants of the engine's clock, ascending, at which the counters are wanted, and what they were."""

    at_s: tuple[float, ...] = ()
    reached: list[Snapshot] = field(default_factory=list)


class PoolProcess:
    """One pool of alike replicas and its compiled state, driven by a SimPy environment."""

    def __init__(self, env: simpy.Environment, state: State, tables: StepTables, limits: Limits) -> None:
        self.env = env
        self.state = state
        self.tables = exact_tables(tables)
        self.limits = limits
        self.book = book_of([(self.state, self.tables, self.limits)])
        self.kernels = REPLICAS if tables.group.ranks == 1 else IN_LOCKSTEP

    def to_the_end(self, kernel: Callable[..., int], *arguments: Any) -> None:
        """Call a resumable kernel until it is through, with longer record arrays each time it asks for them."""
        while (full := kernel(self.book, *arguments)) != THROUGH:
            self.state = with_longer_records(self.state) if full == NEEDS_RECORDS else with_deeper_stack(self.state)
            self.book = book_of([(self.state, self.tables, self.limits)])

    def open_loop(self, choice: Choice, marks: Marks) -> Generator[simpy.Event, None, None]:
        """All arrivals and replicas in one compiled run, or in one to each mark."""
        if self.limits.own_tiers < self.limits.tiers:
            yield from self.in_order(choice)
            return
        candidates, cursor = exact(choice.candidates, np.int64), np.zeros(1, np.int64)
        for at_s in marks.at_s:
            self.to_the_end(self.kernels.run_open, candidates, choice.load, cursor, at_s)
            ends_s = self.kernels.cut_all(self.book, at_s)
            self.to_the_end(self.kernels.run_open, candidates, choice.load, cursor, ends_s)
            marks.reached.append(Snapshot(ends_s, counters(self.state, self.limits, self.tables.group.ranks)))
        self.to_the_end(self.kernels.run_open, candidates, choice.load, cursor, np.inf)
        yield self.env.timeout(0)

    def in_order(self, choice: Choice) -> Generator[simpy.Event, None, None]:
        """An open loop for replicas that share a KV tier: all of them from event to event, as a closed loop goes."""
        requests = len(self.state.requests)
        cursor = np.array([0, requests], np.int64)
        candidates = exact(choice.candidates, np.int64)
        self.to_the_end(self.kernels.run_closed, candidates, choice.load, cursor, requests, 0.0, np.inf)
        yield self.env.timeout(0)

    def closed_loop(
        self, choice: Choice, concurrency: int, delay_s: float
    ) -> Generator[simpy.Event, None, None]:
        """``concurrency`` requests in flight, in one compiled run."""
        cursor = np.zeros(2, np.int64)
        candidates = exact(choice.candidates, np.int64)
        self.to_the_end(self.kernels.run_closed, candidates, choice.load, cursor, concurrency, float(delay_s), np.inf)
        yield self.env.timeout(0)

    def routed_by(self, router: PlugInRouter, offered: Offered) -> Generator[simpy.Event, None, None]:
        """Each arrival is an event at which a router in Python chooses the replica."""
        origin = float(self.state.requests[0].arrival_s)
        for i in range(offered.requests):
            request = self.state.requests[i]
            now = float(request.arrival_s)
            # SimPy's clock starts at 0 and only paces the events: the instants are those of the trace.
            yield self.env.timeout(max(0.0, now - origin - self.env.now))
            self.to_the_end(self.kernels.advance_all, now)
            view = RequestView(i, now, int(request.prompt), int(offered.session[i]))
            r = self._checked(router.choose(view, self._view(i, now)))
            self.offer(r, i, now)
        self.to_the_end(self.kernels.advance_all, np.inf)

    def offer(self, r: int, i: int, now: float) -> None:
        """Request i arrives at replica r."""
        self.kernels.offer_one(self.book, r, i, now)

    def _view(self, i: int, now: float) -> ReplicaView:
        replicas = self.state.replicas
        prefix_tokens = np.zeros(len(replicas), np.int64)
        if self.limits.prefix_caching:
            self.kernels.cached_prefix(self.book, i, now, prefix_tokens)
        return ReplicaView(
            waiting=replicas.waiting.copy(), running=replicas.running.copy(),
            prompt_tokens=replicas.prompt_tokens.copy(), used_blocks=replicas.used_blocks.copy(),
            kv_blocks=self.limits.kv_blocks, prefix_tokens=prefix_tokens,
        )  # fmt: skip

    def _checked(self, r: int) -> int:
        if not 0 <= r < len(self.state.replicas):
            raise IndexError(f"the router chose replica {r} of {len(self.state.replicas)}")
        return r


def run_pool(
    state: State, tables: StepTables, limits: Limits, *, router: Any, offered: Offered, replicas: int, seed: int,
    concurrency: int | None, delay_s: float, marks: Marks | None = None,
) -> State:  # fmt: skip
    """Run one pool until its last request has ended; returns the final state (arrays may have been replaced).

    ``marks`` are reached in an open loop under a built-in router only.
    """
    env = simpy.Environment()
    pool = PoolProcess(env, state, tables, limits)
    if isinstance(router, PlugInRouter):
        router.start(offered, replicas, seed)
        env.process(pool.routed_by(router, offered))
    elif concurrency is None:
        env.process(pool.open_loop(router.candidates(offered, replicas, seed), marks or Marks()))
    else:
        env.process(pool.closed_loop(router.candidates(offered, replicas, seed), concurrency, delay_s))
    env.run()
    return pool.state
