"""A pool of lockstep groups in one compiled loop: ``pool.py`` for replicas whose attention is data parallel.

Entry kernels of their own, with the arguments and rules of their namesakes there: plans without such replicas compile
and pass nothing of this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import StepTables
from apexsim.engine.book import Book, pool_at
from apexsim.engine.jit import entry_kernel, kernel
from apexsim.engine.kvcache import resident_tokens
from apexsim.engine.lockstep import (
    advance_ranks,
    cut_ranks,
    evict_ranks_by,
    first_rank,
    room_for_ranks,
    set_off,
    wake_ranks,
)
from apexsim.engine.order import comes_back, may_lead
from apexsim.engine.pool import BY_PREFIX, Candidates, choose, could_join, release, take_in
from apexsim.engine.replica import THROUGH
from apexsim.engine.shedding import sheds
from apexsim.engine.state import IDLE, NONE, READY, RUNNING, Limits, State, instant


@kernel
def offer_rank(state: State, tables: StepTables, limits: Limits, r: int, i: int, now: float) -> None:
    """Request i arrives at rank r: rejected where it could never run, else it waits."""
    groups, first = state.groups, first_rank(tables, r)
    if not take_in(state, limits, r, i):
        return
    wake_ranks(state, tables, first, now)
    series = groups[first].phase == RUNNING and groups[first].steps > 1
    leads = series and may_lead(state, limits, r, i)
    if (leads and (could_join(state, limits, r, i) or sheds(limits))) or (series and comes_back(state, limits, r, i)):
        cut_ranks(state, tables, first, now)


@kernel
def choose_rank(
    state: State, tables: StepTables, limits: Limits, candidates: Candidates, load: int, i: int, now: float
) -> int:
    """``pool.choose`` among ranks."""
    if load == BY_PREFIX:
        evict_all_by(state, tables, limits, now)
    return choose(state, tables, limits, candidates, load, i, now)


@kernel
def evict_all_by(state: State, tables: StepTables, limits: Limits, now: float) -> None:
    """What running series have evicted by ``now`` is not in a cache that is asked then."""
    for first in range(0, state.replicas.size, tables.group.ranks):
        evict_ranks_by(state, tables, limits, first, now)


@entry_kernel
def cached_prefix_in_lockstep(
    book: Book, i: int, now: float, tokens: NDArray[np.int64]
) -> None:
    """``pool.cached_prefix``."""
    state, tables, limits = pool_at(book, 0)
    evict_all_by(state, tables, limits, now)
    for r in range(tokens.size):
        tokens[r] = resident_tokens(state, limits, r, i)


@entry_kernel
def offer_one_in_lockstep(book: Book, r: int, i: int, now: float) -> None:
    """``pool.offer_one``."""
    state, tables, limits = pool_at(book, 0)
    offer_rank(state, tables, limits, r, i, now)


@entry_kernel
def advance_all_in_lockstep(book: Book, until: float) -> int:
    """``pool.advance_all``."""
    state, tables, limits = pool_at(book, 0)
    return advance_groups(state, tables, limits, until)


@kernel
def advance_groups(state: State, tables: StepTables, limits: Limits, until: float) -> int:
    """Run every group up to ``until``; returns as ``advance``."""
    for first in range(0, state.replicas.size, tables.group.ranks):
        full = advance_ranks(state, tables, limits, first, until)
        if full != THROUGH:
            return full
    return THROUGH


@entry_kernel
def run_open_in_lockstep(
    book: Book, candidates: Candidates, load: int,
    cursor: NDArray[np.int64], until: float,
) -> int:  # fmt: skip
    """``pool.run_open``."""
    state, tables, limits = pool_at(book, 0)
    requests, everyone = state.requests, np.arange(state.replicas.size)
    while True:
        i = cursor[0]
        over = i >= requests.size or requests[i].arrival_s > until
        now = until if over else requests[i].arrival_s
        row = everyone if over else candidates[i if candidates.shape[0] > 1 else 0]
        before = NONE
        for c in range(row.size):
            first = first_rank(tables, row[c])
            if first != before:
                before = first
                full = advance_ranks(state, tables, limits, first, now)
                if full != THROUGH:
                    return full
        if over:
            return THROUGH
        offer_rank(state, tables, limits, choose_rank(state, tables, limits, candidates, load, i, now), i, now)
        cursor[0] = i + 1


@entry_kernel
def cut_all_in_lockstep(book: Book, at_s: float) -> float:
    """``pool.cut_all``."""
    state, tables, _ = pool_at(book, 0)
    groups = state.groups
    ends_s = at_s
    for first in range(0, state.replicas.size, tables.group.ranks):
        if groups[first].phase == IDLE:
            continue
        if groups[first].phase == RUNNING and groups[first].steps > 1:
            cut_ranks(state, tables, first, at_s)
        ends_s = max(ends_s, groups[first].end_s)
    return ends_s


@kernel
def begin_groups(state: State, tables: StepTables, limits: Limits, now: float) -> int:
    """Set off every group that is at a boundary at ``now``; returns as ``advance``."""
    groups = state.groups
    slack = instant(now)
    for first in range(0, state.replicas.size, tables.group.ranks):
        while groups[first].phase == READY and groups[first].end_s <= now + slack:
            full = room_for_ranks(state, tables, first)
            if full != THROUGH:
                return full
            set_off(state, tables, limits, first, now)
    return THROUGH


@entry_kernel
def run_closed_in_lockstep(
    book: Book, candidates: Candidates, load: int,
    cursor: NDArray[np.int64], concurrency: int, delay_s: float, until: float,
) -> int:  # fmt: skip
    """``pool.run_closed``."""
    state, tables, limits = pool_at(book, 0)
    requests, groups = state.requests, state.groups
    if cursor[1] == 0:
        release(state, cursor, concurrency, requests[0].arrival_s)
    while True:
        now = np.inf
        for first in range(0, groups.size, tables.group.ranks):
            now = min(now, groups[first].end_s)
        if cursor[0] < cursor[1]:
            now = min(now, requests[cursor[0]].arrival_s)
        if now == np.inf or now > until:
            return THROUGH
        full = advance_groups(state, tables, limits, now)
        if full != THROUGH:
            return full
        release(state, cursor, concurrency, now + delay_s)
        while cursor[0] < cursor[1] and requests[cursor[0]].arrival_s <= now + instant(now):
            i = cursor[0]
            offer_rank(state, tables, limits, choose_rank(state, tables, limits, candidates, load, i, now), i, now)
            cursor[0] = i + 1
            release(state, cursor, concurrency, now + delay_s)
        full = begin_groups(state, tables, limits, now)
        if full != THROUGH:
            return full
        release(state, cursor, concurrency, now + delay_s)  # in place of those that were dropped
