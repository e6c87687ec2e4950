"""Pools that hand requests to each other, in one compiled loop: arrivals, routers, replicas and transfers.

All pools go from event to event together. The order inside one instant is: iterations that end, transfers that land,
arrivals, scheduling. A *unit* is a replica, or a rank of one in lockstep; units of all pools are numbered on.

A request enters at a unit that serves or prefills. One that prefills hands it on: its KV goes over the links to a unit
that decodes, which is chosen when the prefill ends (*pull*) or when the request arrives (*push*: it is prefilled once
its blocks are reserved where it will decode). With ``streams`` the KV of a chunk leaves while the chunk is computed,
all but that of the last layer, which is there only when the prefill ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import StepTables
from apexsim.engine.between import between_at
from apexsim.engine.book import Book, pool_at
from apexsim.engine.course import (
    TO_CUT,
    TO_DECODE,
    TO_DELIVER,
    TO_EMBED,
    TO_ENTER,
    TO_FREE,
    Course,
    Rules,
    need,
    path_of,
)
from apexsim.engine.encoding import (
    Encoding,
    brings_images,
    embeddings_came,
    end_batches,
    next_encoding,
    prepare_images,
    read_timers,
    send_embeddings,
    start_batches,
)
from apexsim.engine.eviction import any_drained, leave_waiting, renew
from apexsim.engine.handover import LEFT, TAKEN, end_here, let_go, receive
from apexsim.engine.jit import entry_kernel, kernel, rare_kernel
from apexsim.engine.links import Traffic, carry, next_end, release_bytes, share_out, take_landed
from apexsim.engine.lobby import call_later, next_call, read_lobby
from apexsim.engine.lockstep import cut_ranks, first_rank, wake_ranks
from apexsim.engine.lockstep_pool import advance_groups, begin_groups, offer_rank
from apexsim.engine.pool import (
    advance_every,
    begin_due,
    offer,
)
from apexsim.engine.presence import count_present
from apexsim.engine.replica import THROUGH, wake_groups
from apexsim.engine.result import NOT_REJECTED
from apexsim.engine.series import cut_series, runs_series
from apexsim.engine.state import DONE, NONE, RESERVED, RUNNING, WAITING, State, instant
from apexsim.engine.unit_choice import choose_unit

# --- at one unit ------------------------------------------------------------------------------------------------


@rare_kernel
def offer_to(book: Book, p: int, r: int, i: int, now: float, again: bool) -> bool:
    """Request i arrives at replica r of pool p, perhaps not for the first time; False where it is turned away."""
    state, tables, limits = pool_at(book, p)
    if again:
        renew(state, i)
    state.requests[i].arrival_s = now
    if tables.group.ranks > 1:
        offer_rank(state, tables, limits, r, i, now)
    else:
        offer(state, tables, limits, r, i, now)
    return bool(state.requests[i].reason == NOT_REJECTED)


@rare_kernel
def free_at(book: Book, p: int, r: int, i: int, now: float) -> None:
    """What request i left at replica r of pool p, or had reserved there, is free, and those that wait look again."""
    state, tables, limits = pool_at(book, p)
    if state.requests[i].phase == RESERVED:
        count_present(state.replicas, r, now)
        state.replicas[r].shed_s += now - state.requests[i].arrival_s
        state.replicas[r].waiting -= 1
        state.replicas[r].coming -= 1
        state.replicas[r].prompt_tokens -= state.requests[i].prompt
        state.requests[i].phase = DONE
    elif state.requests[i].phase == WAITING:
        leave_waiting(state, r, i, now)
    let_go(state, limits, r, i)
    look_again(state, tables, r, now)


@rare_kernel
def deliver(book: Book, p: int, r: int, i: int, token_s: float, now: float) -> None:
    """The KV of request i has landed at replica r of pool p."""
    state, tables, limits = pool_at(book, p)
    receive(state, r, i, token_s, now)
    if state.replicas[r].running < limits.max_num_seqs:
        look_again(state, tables, r, now)


@rare_kernel
def cut_at(book: Book, p: int, r: int, now: float) -> None:
    """A series in flight at replica r of pool p ends with its iteration; who waits does not look again."""
    state, tables, _ = pool_at(book, p)
    cut_flight(state, tables, r, now)


@kernel
def look_again(state: State, tables: StepTables, r: int, now: float) -> None:
    """Something has changed at replica r: somebody may begin at its next boundary."""
    if tables.group.ranks > 1:
        wake_ranks(state, tables, first_rank(tables, r), now)
    else:
        wake_groups(state, r, now)
    cut_flight(state, tables, r, now)


@kernel
def cut_flight(state: State, tables: StepTables, r: int, now: float) -> None:
    """The next boundary of replica r is that of the iteration in flight at ``now``."""
    if tables.group.ranks > 1:
        first = first_rank(tables, r)
        if state.groups[first].phase == RUNNING and state.groups[first].steps > 1:
            cut_ranks(state, tables, first, now)
    elif runs_series(state, r * state.stage_free_s.shape[1]):
        cut_series(state, tables, r, now)


@rare_kernel
def advance_pool(book: Book, p: int, now: float) -> int:
    """Every replica of pool p up to ``now``; returns as ``advance``."""
    state, tables, limits = pool_at(book, p)
    if tables.group.ranks > 1:
        return advance_groups(state, tables, limits, now)
    return advance_every(state, tables, limits, now)


@rare_kernel
def begin_pool(book: Book, p: int, now: float) -> int:
    """Every replica of pool p that is at a boundary at ``now`` sets off; returns as ``advance``."""
    state, tables, limits = pool_at(book, p)
    if tables.group.ranks > 1:
        return begin_groups(state, tables, limits, now)
    return begin_due(state, tables, limits, now)


@rare_kernel
def soonest(book: Book, p: int) -> float:
    """When the next event of pool p is."""
    state, _, _ = pool_at(book, p)
    now = np.inf
    for g in range(state.groups.size):
        now = min(now, state.groups[g].end_s)
    return now


# --- from unit to unit --------------------------------------------------------------------------------------------


@rare_kernel
def send_rest(course: Course, traffic: Traffic, i: int) -> None:
    """All of request i's KV that has not left yet may go."""
    journeys = course.journeys
    release_bytes(traffic, i, path_of(course, i), journeys[i].kv_bytes - journeys[i].sent, True)
    journeys[i].sent = journeys[i].kv_bytes


@rare_kernel
def send_chunk(course: Course, traffic: Traffic, rules: Rules, i: int, share: float) -> None:
    """A chunk, this share of request i's prompt, has begun: all but its last layer's KV may go as it is computed."""
    journeys = course.journeys
    most = journeys[i].kv_bytes * rules.early
    amount = min(most * share, most - journeys[i].sent)
    if amount > 0.0:
        release_bytes(traffic, i, path_of(course, i), amount, False)
        journeys[i].sent += amount


@rare_kernel
def read_outbox(
    book: Book, p: int, traffic: Traffic, course: Course, rules: Rules, errands: int, now: float
) -> int:
    """What pool p has to tell the others at this instant becomes errands and transfers; returns how many errands."""
    state, _, _ = pool_at(book, p)
    journeys = course.journeys
    for k in range(state.filled[2]):
        kind, i = state.outbox[k].kind, state.outbox[k].request
        if kind == LEFT:
            journeys[i].left_s = now
            if journeys[i].more == 0:
                r = course.units[journeys[i].source].replica
                end_here(state, r, i)
                free_at(book, p, r, i, now)
            elif not rules.push:
                errands = need(course, errands, TO_DECODE, i, NONE)
            elif not np.isnan(journeys[i].reserved_s):  # it is, unless the unit that had its blocks is gone
                send_rest(course, traffic, i)
        elif kind == TAKEN:
            journeys[i].reserved_s = now
            if not np.isnan(journeys[i].left_s):
                send_rest(course, traffic, i)
            elif journeys[i].entered == 0:
                errands = need(course, errands, TO_ENTER, i, journeys[i].source)
        elif journeys[i].more == 1 and not np.isnan(journeys[i].reserved_s):
            send_chunk(course, traffic, rules, i, state.outbox[k].tokens / state.requests[i].prompt)
    state.filled[2] = 0
    return errands


@rare_kernel
def read_landings(
    traffic: Traffic, course: Course, rules: Rules, encoding: Encoding, errands: int, now: float
) -> int:
    """Transfers that have landed by ``now`` become errands; returns how many there are."""
    i = take_landed(traffic, now)
    while i != NONE:
        if i >= course.journeys.size:
            errands = embeddings_came(encoding, course, rules, errands, i - course.journeys.size, now)
            i = take_landed(traffic, now)
            continue
        if course.journeys[i].sink == NONE:
            # An end of it has failed at the instant at which it would have been there.
            traffic.moved[0].finished -= 1
            traffic.moved[0].dropped += 1
            i = take_landed(traffic, now)
            continue
        course.journeys[i].landed_s = now
        errands = need(course, errands, TO_FREE, i, course.journeys[i].source)
        errands = need(course, errands, TO_DELIVER, i, course.journeys[i].sink)
        i = take_landed(traffic, now)
    return errands


@rare_kernel
def arrive_at(course: Course, encoding: Encoding, cursor: NDArray[np.int64], errands: int, now: float) -> int:
    """Requests that arrive by ``now`` become errands, unless they have to be encoded; returns how many there are."""
    while cursor[0] < cursor[1] and course.arrivals[cursor[0]] <= now + instant(now):
        if brings_images(encoding, cursor[0]):
            prepare_images(encoding, cursor[0], now)
        else:
            errands = need(course, errands, TO_ENTER, cursor[0], NONE)
        cursor[0] += 1
    return errands


@rare_kernel
def ended_in(book: Book, p: int) -> int:
    """Requests that have ended in pool p."""
    state, _, _ = pool_at(book, p)
    ended = 0
    for r in range(state.replicas.size):
        ended += state.replicas[r].ended
    return ended


@rare_kernel
def release_next(
    book: Book, course: Course, rules: Rules, cursor: NDArray[np.int64], concurrency: int, at_s: float
) -> None:
    """Closed loop: as many requests as have ended arrive at ``at_s``; ``cursor[1]`` counts those that have."""
    if cursor[1] == course.arrivals.size:
        return
    offered = concurrency
    for p in range(rules.pools):
        offered += ended_in(book, p)
    offered = min(course.arrivals.size, offered)
    for i in range(cursor[1], offered):
        course.arrivals[i] = at_s
    cursor[1] = max(cursor[1], offered)


# --- the loop ---------------------------------------------------------------------------------------------------


@rare_kernel
def run_errands(
    book: Book, course: Course, rules: Rules, traffic: Traffic, encoding: Encoding, cursor: NDArray[np.int64],
    errands: int, now: float,
) -> None:
    """Do what has to be done at this instant, in its order."""
    k = 0
    while k < errands:
        kind, i, unit = course.errands[k].kind, course.errands[k].request, course.errands[k].unit
        k += 1
        if unit == NONE:
            unit = choose_unit(book, course, rules, kind, i)
            if unit == NONE:
                call_later(course, cursor, kind, i)
                continue
            if kind == TO_DECODE:
                course.journeys[i].sink = unit
            else:
                course.journeys[i].source = unit
                if kind == TO_EMBED:
                    course.units[unit].due += 1
                    send_embeddings(encoding, course, traffic, i)
                    continue
                if rules.push and course.units[unit].hands_over == 1 and course.journeys[i].more == 1:
                    course.units[unit].due += 1
                    errands = need(course, errands, TO_DECODE, i, NONE)
                    continue
        elif kind == TO_ENTER:
            course.units[unit].due -= 1
        p, r = course.units[unit].pool, course.units[unit].replica
        if kind == TO_ENTER:
            course.journeys[i].entered = 1
        if kind == TO_CUT:
            cut_at(book, p, r, now)
        elif kind == TO_FREE:
            free_at(book, p, r, i, now)
        elif kind == TO_DELIVER:
            deliver(book, p, r, i, course.journeys[i].left_s if rules.shown else now, now)
        elif not offer_to(book, p, r, i, now, rules.life):
            # Turned away at one end, it gives back what it has at the other.
            other = course.journeys[i].sink if kind == TO_ENTER else course.journeys[i].source
            if rules.push and kind == TO_DECODE and course.journeys[i].entered == 0:
                course.units[other].due -= 1
            elif other != NONE:
                errands = need(course, errands, TO_FREE, i, other)


@entry_kernel
def run_coupled(
    book: Book, between: Book, cursor: NDArray[np.int64], concurrency: int, delay_s: float, until: float
) -> int:
    """All pools, and what is ``between`` them, up to ``until`` (inf: until the last request ends); returns as
    ``advance``, the pool in ``cursor[2]``.

    ``cursor[0]`` is the next request to arrive, ``cursor[1]`` how many arrivals are known: all in an open loop; its
    other places are said in ``course.py``. Where units come and go it also stops when one has drained.
    """
    traffic, course, rules, encoding = between_at(between, 0)
    now, begins = -np.inf, False
    while True:
        errands = 0
        if not begins:
            now = min(next_end(traffic), next_encoding(encoding))
            for p in range(rules.pools):
                now = min(now, soonest(book, p))
            if cursor[0] < cursor[1]:
                now = min(now, course.arrivals[cursor[0]])
            if rules.life:
                now = min(now, next_call(course, cursor))
            if now == np.inf or now > until:
                return THROUGH
        for p in range(rules.pools):
            full = begin_pool(book, p, now) if begins else advance_pool(book, p, now)
            if full != THROUGH:
                cursor[2] = p
                return full
        if not begins:
            carry(traffic, now)
        for p in range(rules.pools):
            errands = read_outbox(book, p, traffic, course, rules, errands, now)
        release_next(book, course, rules, cursor, concurrency, now + delay_s)
        if not begins:
            errands = end_batches(encoding, course, errands, now)
            errands = read_landings(traffic, course, rules, encoding, errands, now)
            errands = read_lobby(course, traffic, cursor, errands, now) if rules.life else errands
            errands = arrive_at(course, encoding, cursor, errands, now)
            errands = read_timers(encoding, course, errands, now)
        run_errands(book, course, rules, traffic, encoding, cursor, errands, now)
        if errands > 0:
            release_next(book, course, rules, cursor, concurrency, now + delay_s)  # in place of those turned away
        if begins:
            start_batches(encoding, now)
            share_out(traffic)
            if rules.life and any_drained(book, course, cursor, now):
                return THROUGH
        begins = not begins
