"""A pool in one compiled loop: arrivals, the built-in routers, and the replicas that serve them.

Open loop: each arrival advances the replicas among which the router chooses, no others. Closed loop: the end of a
request releases the next one, so all replicas go from event to event together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import StepTables
from apexsim.engine.adapters import expect_adapter, has_adapter, missing_blocks, own_blocks
from apexsim.engine.admission import admission_blocks, first_chunk
from apexsim.engine.batch import known
from apexsim.engine.book import Book, pool_at
from apexsim.engine.handover import blocks_to_receive, comes_from_elsewhere
from apexsim.engine.jit import entry_kernel, kernel
from apexsim.engine.kvcache import resident_tokens
from apexsim.engine.order import arrive, comes_back, may_lead
from apexsim.engine.pages import most_pages
from apexsim.engine.presence import count_present
from apexsim.engine.replica import THROUGH, advance, room, schedule, wake_groups
from apexsim.engine.result import NOT_REJECTED, REJECTED_CONTEXT, REJECTED_KV, REJECTED_QUEUE
from apexsim.engine.series import cut_series, evict_by, is_series, runs_series
from apexsim.engine.shedding import reject, sheds
from apexsim.engine.state import IDLE, NONE, READY, RUNNING, Limits, State, instant

BY_PLACE, BY_REQUESTS, BY_PROMPT_TOKENS, BY_PREFIX, BY_LORA = 0, 1, 2, 3, 4
"""What a built-in router compares among its candidates: nothing (there is one), unfinished requests, their prompt
tokens, the prompt's tokens that are cached (``by_prefix``), whether they have its adapter."""

Candidates = NDArray[np.int64]


@kernel
def offer(state: State, tables: StepTables, limits: Limits, r: int, i: int, now: float) -> None:
    """Request i arrives at replica r: rejected where it could never run, else it waits."""
    g = r * state.stage_free_s.shape[1]
    if not take_in(state, limits, r, i):
        return
    wake_groups(state, r, now)
    if not runs_series(state, g):
        return
    leads = may_lead(state, limits, r, i)
    # Where requests are shed, who leads is looked at again when its time is up.
    if (leads and (could_join(state, limits, r, i) or sheds(limits))) or comes_back(state, limits, r, i):
        cut_series(state, tables, g, now)


@kernel
def take_in(state: State, limits: Limits, r: int, i: int) -> bool:
    """Request i joins the waiting list of replica r; False where it could never run or too many wait: rejected."""
    requests, replicas = state.requests, state.replicas
    requests[i].group = r * state.stage_free_s.shape[1]
    length = requests[i].prompt + requests[i].output
    # The last token is never put into the cache.
    reason = NOT_REJECTED
    if length > limits.max_model_len:
        reason = REJECTED_CONTEXT
    elif most_pages(limits, length - 1) + own_blocks(state, limits, i) > limits.kv_blocks:
        reason = REJECTED_KV
    elif limits.max_waiting > 0 and replicas[r].waiting >= limits.max_waiting:
        reason = REJECTED_QUEUE
    if reason != NOT_REJECTED:
        reject(state, r, i, reason)
        return False
    replicas[r].prompt_tokens += requests[i].prompt
    count_present(replicas, r, requests[i].arrival_s)
    expect_adapter(state, r, i, 1)
    arrive(state, limits, r, i)
    return True


@kernel
def could_join(state: State, limits: Limits, r: int, i: int) -> bool:
    """False only where request i cannot be admitted before a sequence of the running series ends."""
    replicas, groups = state.replicas, state.groups
    if replicas[r].running >= limits.max_num_seqs:
        return False
    budget = limits.max_num_batched_tokens
    if limits.mix and not limits.free_decodes:
        budget -= groups[r].decoding
    if limits.own_tiers < limits.tiers:
        return True  # what it finds may change with every store of another replica
    if comes_from_elsewhere(state, limits, i):
        return blocks_to_receive(state, limits, i) <= limits.kv_blocks - replicas[r].used_blocks
    _, found, shared = known(state, limits, r, i)
    chunk = first_chunk(state, limits, i, found, budget, True)
    if chunk == 0:
        return False
    # A unit evicted within the series may change what it finds, and so what it needs; windows may give pages back.
    if limits.windowed_groups > 0:
        return True
    need = admission_blocks(state, limits, i, found, found + chunk) - shared + missing_blocks(state, limits, r, i)
    return need <= limits.kv_blocks - replicas[r].used_blocks or replicas[r].oldest != NONE


@kernel
def unfinished(state: State, r: int) -> int:
    """Requests that wait or run at replica r."""
    return state.replicas[r].waiting + state.replicas[r].running


@kernel
def choose(
    state: State, tables: StepTables, limits: Limits, candidates: Candidates, load: int, i: int, now: float
) -> int:
    """The candidate with the least load; the first of them on a tie."""
    row = candidates[i if candidates.shape[0] > 1 else 0]
    best = row[0]
    if load == BY_PLACE:
        return best
    if load in (BY_PREFIX, BY_LORA):
        return by_contents(state, tables, limits, row, load, i, now)
    for c in range(1, row.size):
        r = row[c]
        if load == BY_REQUESTS:
            better = unfinished(state, r) < unfinished(state, best)
        else:
            better = state.replicas[r].prompt_tokens < state.replicas[best].prompt_tokens
        if better:
            best = r
    return best


@kernel
def by_contents(
    state: State, tables: StepTables, limits: Limits, row: NDArray[np.int64], load: int, i: int, now: float
) -> int:
    """The candidate with the most cached tokens of the prompt, or with its adapter, that is not overloaded; then the
    one with fewest requests, then the first.

    Overloaded is a replica with more than 8 + 1.5 times the unfinished requests of the candidate that has fewest.
    """
    fewest = unfinished(state, row[0])
    for c in range(1, row.size):
        fewest = min(fewest, unfinished(state, row[c]))
    best, most = NONE, NONE
    for c in range(row.size):
        r = row[c]
        if 2 * unfinished(state, r) <= 16 + 3 * fewest:
            if load == BY_PREFIX:
                evict_by(state, tables, limits, r, now)
                tokens = resident_tokens(state, limits, r, i)
            else:
                tokens = 1 if has_adapter(state, r, i) else 0
            if tokens > most or (tokens == most and unfinished(state, r) < unfinished(state, best)):
                best, most = r, tokens
    return best


@entry_kernel
def cached_prefix(
    book: Book, i: int, now: float, tokens: NDArray[np.int64]
) -> None:
    """``tokens[r]`` = leading tokens of request i's prompt that replica r has in its cache at ``now``."""
    state, tables, limits = pool_at(book, 0)
    for r in range(tokens.size):
        evict_by(state, tables, limits, r, now)
        tokens[r] = resident_tokens(state, limits, r, i)


@entry_kernel
def offer_one(book: Book, r: int, i: int, now: float) -> None:
    """``offer``, for a router in Python."""
    state, tables, limits = pool_at(book, 0)
    offer(state, tables, limits, r, i, now)


@entry_kernel
def advance_all(book: Book, until: float) -> int:
    """``advance_every``, for a router in Python."""
    state, tables, limits = pool_at(book, 0)
    return advance_every(state, tables, limits, until)


@kernel
def advance_every(state: State, tables: StepTables, limits: Limits, until: float) -> int:
    """Run every replica up to ``until``; returns as ``advance``."""
    for r in range(state.replicas.size):
        full = advance(state, tables, limits, r, until)
        if full != THROUGH:
            return full
    return THROUGH


@entry_kernel
def run_open(
    book: Book, candidates: Candidates, load: int,
    cursor: NDArray[np.int64], until: float,
) -> int:  # fmt: skip
    """Open loop up to ``until`` (inf: until the last request ends). ``cursor[0]`` is the next request to arrive."""
    state, tables, limits = pool_at(book, 0)
    requests, everyone = state.requests, np.arange(state.replicas.size)
    while True:
        i = cursor[0]
        over = i >= requests.size or requests[i].arrival_s > until
        now = until if over else requests[i].arrival_s
        row = everyone if over else candidates[i if candidates.shape[0] > 1 else 0]
        for c in range(row.size):
            full = advance(state, tables, limits, row[c], now)
            if full != THROUGH:
                return full
        if over:
            return THROUGH
        offer(state, tables, limits, choose(state, tables, limits, candidates, load, i, now), i, now)
        cursor[0] = i + 1


@entry_kernel
def cut_all(book: Book, at_s: float) -> float:
    """End every series at its first boundary from ``at_s`` on; returns when the last iteration then in flight ends,
    or has ended where the run is past ``at_s``.
    """
    state, tables, _ = pool_at(book, 0)
    groups = state.groups
    ends_s = at_s
    for g in range(groups.size):
        if groups[g].phase == IDLE:
            continue
        if groups[g].phase == RUNNING and groups[g].steps > 1 and is_series(state, g):
            cut_series(state, tables, g, at_s)
        ends_s = max(ends_s, groups[g].end_s)
    return ends_s


@kernel
def release(state: State, cursor: NDArray[np.int64], concurrency: int, at_s: float) -> None:
    """As many requests as have ended since are offered at ``at_s``; ``cursor[1]`` counts those offered so far."""
    ended = 0
    for r in range(state.replicas.size):
        ended += state.replicas[r].ended
    offered = min(state.requests.size, concurrency + ended)
    for i in range(cursor[1], offered):
        state.requests[i].arrival_s = at_s
    cursor[1] = max(cursor[1], offered)


@kernel
def begin_due(state: State, tables: StepTables, limits: Limits, now: float) -> int:
    """Schedule every group that is at a boundary at ``now``; returns as ``advance``."""
    groups, stages = state.groups, state.stage_free_s.shape[1]
    slack = instant(now)
    g = 0
    while g < groups.size:
        if groups[g].phase == READY and groups[g].end_s <= now + slack:
            full = room(state, tables, g)
            if full != THROUGH:
                return full
            schedule(state, tables, limits, g, now)
            g = g // stages * stages  # it may have woken those before it
        else:
            g += 1
    return THROUGH


@entry_kernel
def run_closed(
    book: Book, candidates: Candidates, load: int,
    cursor: NDArray[np.int64], concurrency: int, delay_s: float, until: float,
) -> int:  # fmt: skip
    """Closed loop: ``concurrency`` requests at once; the end of one releases the next ``delay_s`` later.

    All replicas go from event to event together. With ``cursor[1]`` at the number of requests from the start all
    arrive as in the trace: an open loop for replicas that share something.
    """
    state, tables, limits = pool_at(book, 0)
    requests, groups = state.requests, state.groups
    if cursor[1] == 0:
        release(state, cursor, concurrency, requests[0].arrival_s)
    while True:
        now = np.inf
        for g in range(groups.size):
            now = min(now, groups[g].end_s)
        if cursor[0] < cursor[1]:
            now = min(now, requests[cursor[0]].arrival_s)
        if now == np.inf or now > until:
            return THROUGH
        full = advance_every(state, tables, limits, now)
        if full != THROUGH:
            return full
        release(state, cursor, concurrency, now + delay_s)
        while cursor[0] < cursor[1] and requests[cursor[0]].arrival_s <= now + instant(now):
            i = cursor[0]
            offer(state, tables, limits, choose(state, tables, limits, candidates, load, i, now), i, now)
            cursor[0] = i + 1
            release(state, cursor, concurrency, now + delay_s)
        full = begin_due(state, tables, limits, now)
        if full != THROUGH:
            return full
        release(state, cursor, concurrency, now + delay_s)  # in place of those that were dropped
