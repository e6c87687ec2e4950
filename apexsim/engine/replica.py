"""One replica, free of any clock but its own: schedule an iteration, run it or a whole series of them, complete it.

``advance(state, …, r, until)`` runs replica r up to the instant ``until`` and knows nothing of who sends requests.
The order inside one instant is: iterations that end, arrivals, scheduling (design §5), so at ``until`` itself
iterations complete but nothing is scheduled: the caller may still hand over the arrivals of that instant.

The scheduler in the engines' terms: decoding sequences come first and take one token each, then the prompts that
were begun, in the order of their admission, then the waiting list, while the token budget, ``max_num_seqs`` and
free KV blocks allow. A sequence that finds no block preempts the youngest of its group; after a preemption nobody
is admitted in that iteration.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.admission import admit, unseen
from apexsim.engine.batch import (
    end_prefill,
    fill_windows,
    finish,
    make_room_for_gaps,
    preempt,
    stop_decoding,
    target,
)
from apexsim.engine.gaps import close_gaps
from apexsim.engine.handover import all_away, tell_chunks, unseen_received
from apexsim.engine.heap import heap_pop
from apexsim.engine.iteration import run_stages
from apexsim.engine.jit import kernel
from apexsim.engine.kvcache import by_admission, settle, take_blocks
from apexsim.engine.order import FCFS, join_seen
from apexsim.engine.pages import pages_of, step_pages
from apexsim.engine.pipeline import leave_open, take_open
from apexsim.engine.receiving import admit_received
from apexsim.engine.series import close_series, is_series, series_length, series_seconds
from apexsim.engine.shedding import watch_head
from apexsim.engine.shortage import take_in_turn
from apexsim.engine.speculation import accept_drafts, blocks_for_drafts, sequences_at_their_end
from apexsim.engine.state import DECODING, IDLE, NONE, READY, RUNNING, Limits, State, instant

THROUGH, NEEDS_RECORDS, NEEDS_STACK = 0, 1, 2
"""What ``advance`` returns: it got to ``until``, or these arrays are full and it waits for longer ones."""


@kernel
def schedule_decodes(state: State, tables: StepTables, limits: Limits, g: int) -> bool:
    """Give each decoding sequence the block that its next token needs; True where somebody was preempted for it."""
    replicas = state.replicas
    if limits.reserve:
        return False
    r = g // state.stage_free_s.shape[1]
    preempted = False
    need = next_blocks(state, limits, g, False)
    if limits.prefix_caching and need > limits.kv_blocks - replicas[r].used_blocks:
        take_in_turn(state, tables, limits, g)
        return True
    while need > limits.kv_blocks - replicas[r].used_blocks:
        preempt(state, tables, limits, g, 0)
        preempted = True
        need = next_blocks(state, limits, g, False)
    take_blocks(state, limits, r, next_blocks(state, limits, g, True))
    return preempted


@kernel
def next_blocks(state: State, limits: Limits, g: int, taken: bool) -> int:
    """KV blocks that the decoding sequences lack for their next iteration; ``taken``: they are being allocated."""
    if state.drafts.size > 0:
        return blocks_for_drafts(state, limits, g, taken)
    return step_pages(state, limits, g, 0)


@kernel
def continue_prefills(
    state: State, tables: StepTables, limits: Limits, g: int, budget: int, ahead: int
) -> tuple[int, bool]:
    """Chunks for the prompts that were begun; returns (budget left, somebody was preempted)."""
    requests, groups, replicas = state.requests, state.groups, state.replicas
    r = g // state.stage_free_s.shape[1]
    preempted = False
    j = 0
    while j < groups[g].prefills:
        i = state.begun[g, j].request
        chunk = min(target(requests, i) - requests[i].computed, budget, limits.longest_chunk)
        state.begun[g, j].tokens = 0
        if chunk > 0:
            past = requests[i].computed
            more = 0 if limits.reserve else pages_of(limits, past, past + chunk) - requests[i].blocks
            lost = False
            while more > limits.kv_blocks - replicas[r].used_blocks and not lost:
                lost = preempt(state, tables, limits, g, ahead) == i
                preempted = True
                if not lost and state.begun[g, j].request != i:
                    j -= 1  # a less urgent prompt before it was preempted
            if lost:
                continue
            take_blocks(state, limits, r, more)
            requests[i].blocks += more
            state.begun[g, j].tokens = chunk
            budget -= chunk
        j += 1
    return budget, preempted


@kernel
def scheduled_prefills(state: State, g: int) -> int:
    """Prompts that compute a chunk in the iteration being scheduled."""
    count = 0
    for j in range(state.groups[g].prefills):
        count += state.begun[g, j].tokens > 0
    return count


@kernel
def compose(state: State, tables: StepTables, limits: Limits, g: int, now: float) -> tuple[int, bool, int]:
    """Who is in the next iteration of group g at its boundary ``now``.

    Returns (prompts that compute a chunk, whether somebody was preempted, the unit that was the next to be evicted when
    the waiting list was looked at); no prompt and nobody who decodes is an empty batch.
    """
    groups = state.groups
    stages = state.stage_free_s.shape[1]
    decoded = limits.mix
    if limits.follow:
        take_open(state, limits, g)
    preempted = schedule_decodes(state, tables, limits, g) if decoded else False
    budget = limits.max_num_batched_tokens
    if limits.mix and not limits.free_decodes:
        budget -= groups[g].decoding * (state.drafts.size + 1)
    budget, lost = continue_prefills(state, tables, limits, g, budget, 1 if decoded else 0)
    preempted = preempted or lost
    if groups[g].decoding + groups[g].prefills == 0:
        groups[g].seen_s = np.inf  # there was nothing to compose ahead
    if limits.order != FCFS:
        join_seen(state, limits, g)
    if (not preempted and not state.replicas[g // stages].full) or all_away(state, limits, g):
        if limits.receives:
            budget = admit_received(state, tables, limits, g, budget, now)
        admit(state, limits, g, budget, now)
    prefills = scheduled_prefills(state, g)
    oldest = state.replicas[g // stages].oldest
    if not decoded and prefills == 0:
        decoded = True
        preempted = schedule_decodes(state, tables, limits, g) or preempted
    groups[g].decoded = 1 if decoded and groups[g].decoding > 0 else 0
    return prefills, preempted, oldest


@kernel
def has_news(state: State, limits: Limits, g: int, oldest: int) -> bool:
    """Who waits is looked at again where there is news: that it is there, or of units evicted since it was refused."""
    evicted = state.replicas[g // state.stage_free_s.shape[1]].oldest != oldest
    unknown = unseen(state, limits, g) or (limits.receives and unseen_received(state, limits, g))
    return unknown or evicted or others_decide(state, limits, g)


@kernel
def schedule(state: State, tables: StepTables, limits: Limits, g: int, now: float) -> None:
    """Compose the next iteration of group g at its boundary ``now`` and set it off, or leave the group idle."""
    groups = state.groups
    prefills, preempted, oldest = compose(state, tables, limits, g, now)
    if prefills == 0 and groups[g].decoding == 0:
        again = preempted and all_away(state, limits, g)
        groups[g].phase = READY if again else IDLE
        groups[g].end_s = now if again else np.inf
        return
    groups[g].phase = RUNNING
    groups[g].begin_s = now
    groups[g].slow = state.replicas[g // state.stage_free_s.shape[1]].slow
    groups[g].steps = 1
    alone = prefills == 0 and state.stage_free_s.shape[1] == 1 and groups[g].late == 0
    if alone and not preempted and one_cohort_at(state, g, now):
        steps = 1 if has_news(state, limits, g, oldest) else series_length(state, tables, limits, g)
        groups[g].steps = steps
        groups[g].duration_s = np.nan
        groups[g].end_s = now + series_seconds(state, tables, g, steps)
        watch_head(state, tables, limits, g)
    else:
        run_stages(state, tables, g, prefills)
        if limits.streams:
            tell_chunks(state, g)
        if limits.follow:
            leave_open(state, limits, g)
            wake_for_open(state, g, now)


@kernel
def others_decide(state: State, limits: Limits, g: int) -> bool:
    """True where somebody waits who may find, and so need, more or less whenever another replica stores something."""
    replica = state.replicas[g // state.stage_free_s.shape[1]]
    shared = limits.own_tiers < limits.tiers
    return shared and replica.waiting_head != NONE and replica.running < limits.max_num_seqs


@kernel
def one_cohort_at(state: State, g: int, now: float) -> bool:
    """True where every decoding sequence has yielded its last token at ``now``."""
    return state.groups[g].cohorts == 1 and state.cohorts[g, 0].last_s == now


@kernel
def complete(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """What was in flight has ended at ``end_s``: hand out the tokens; the group is at a boundary."""
    groups = state.groups
    groups[g].seen_s = groups[g].begin_s  # of its last iteration: a series says when that began
    if groups[g].decoded and state.drafts.size == 0:
        if is_series(state, g):
            close_series(state, tables, limits, g)
        else:
            close_gaps(state, g)
    hand_out(state, tables, limits, g)


@kernel
def hand_out(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """The tokens of what has ended, whose gaps are booked: sequences go on, begin to decode, or leave."""
    requests, groups = state.requests, state.groups
    now, steps = groups[g].end_s, groups[g].steps
    r = g // state.stage_free_s.shape[1]
    if groups[g].decoded and state.drafts.size > 0:
        accept_drafts(state, tables, limits, g)
        finish_decodes(state, tables, limits, g, now)
    elif groups[g].decoded:
        groups[g].step += steps
        groups[g].kv += groups[g].decoding * steps
        groups[g].kv_windowed += groups[g].growing * steps
        if tables.window > 0:
            fill_windows(state, limits, g)
        finish_decodes(state, tables, limits, g, now)
    kept = 0
    for j in range(groups[g].prefills):
        i = state.begun[g, j].request
        if not limits.follow:
            requests[i].computed += state.begun[g, j].tokens
            settle(state, limits, r, i)
        if requests[i].computed == target(requests, i):
            end_prefill(state, tables, limits, g, i, now)
        else:
            state.begun[g, kept].request = i
            kept += 1
    groups[g].prefills = kept
    groups[g].phase = READY


@kernel
def finish_decodes(state: State, tables: StepTables, limits: Limits, g: int, now: float) -> None:
    """Every sequence whose last token came at the group's step leaves, in the order of their admission."""
    requests, groups = state.requests, state.groups
    leaving = sequences_at_their_end(state, tables, limits, g) if state.drafts.size > 0 else NONE
    while groups[g].finishes > 0 and state.finishes[g, 0].step <= groups[g].step:
        i, key = state.finishes[g, 0].request, state.finishes[g, 0].step
        groups[g].finishes = heap_pop(state.finishes[g], groups[g].finishes)
        if requests[i].phase == DECODING and requests[i].group == g and requests[i].finish_step == key:
            stop_decoding(state, tables, limits, i)
            requests[i].finish_step = NONE  # the heap may hold the pair twice, from before a preemption
            leaving = by_admission(state, limits, leaving, i)
    while leaving != NONE:
        i, leaving = leaving, requests[leaving].follower
        finish(state, limits, i, now)


@kernel
def next_group(state: State, r: int) -> int:
    """The group of replica r whose next event comes first: ends before schedulings, then by index."""
    groups = state.groups
    stages = state.stage_free_s.shape[1]
    best = r * stages
    for g in range(r * stages + 1, (r + 1) * stages):
        earlier = groups[g].end_s < groups[best].end_s
        same = groups[g].end_s == groups[best].end_s
        if earlier or (same and groups[g].phase == RUNNING and groups[best].phase == READY):
            best = g
    return best


@kernel
def wake_groups(state: State, r: int, now: float) -> None:
    """Requests wait or prompts are open, and something has changed: every idle batch of the replica may try again."""
    groups = state.groups
    stages = state.stage_free_s.shape[1]
    if state.replicas[r].waiting == 0 and state.replicas[r].open_head == NONE:
        return
    for g in range(r * stages, (r + 1) * stages):
        if groups[g].phase == IDLE:
            groups[g].phase = READY
            groups[g].end_s = now


@kernel
def wake_for_open(state: State, g: int, now: float) -> None:
    """Prompts of the group's replica are open: its idle batches may take them over."""
    r = g // state.stage_free_s.shape[1]
    if state.replicas[r].open_head != NONE:
        wake_groups(state, r, now)


@kernel
def room(state: State, tables: StepTables, g: int) -> int:
    """THROUGH where the arrays take whatever one event can add, else which of them are full."""
    most = state.cohorts.shape[1] + state.begun.shape[1] + 4 * tables.context_knots.size
    if state.filled[0] + most > state.itl.size:
        return NEEDS_RECORDS
    if state.timeline.size > 0 and state.filled[1] + most > state.timeline.size:
        return NEEDS_RECORDS
    return room_in_stack(state, g)


@kernel
def room_in_stack(state: State, g: int) -> int:
    """THROUGH where the stack of group g takes the gaps of one more event, else NEEDS_STACK."""
    groups, depth = state.groups, state.stack.shape[1]
    if groups[g].stack + groups[g].cohorts + 1 > depth:
        make_room_for_gaps(state, g)
        if 2 * (groups[g].stack + groups[g].cohorts + 1) > depth:
            return NEEDS_STACK
    return THROUGH


@kernel
def advance(state: State, tables: StepTables, limits: Limits, r: int, until: float) -> int:
    """Run replica r up to the instant ``until``; what begins there is left for after its arrivals.

    Returns what must be made longer first (NEEDS_RECORDS, NEEDS_STACK), if anything; calling again goes on.
    """
    groups = state.groups
    slack = instant(until)
    while True:
        g = next_group(state, r)
        now = groups[g].end_s
        if now > until + slack or now == np.inf:
            return THROUGH
        full = room(state, tables, g)
        if full != THROUGH:
            return full
        if groups[g].phase == RUNNING:
            complete(state, tables, limits, g)
            wake_groups(state, r, now)
        elif now >= until - slack:
            return THROUGH
        else:
            schedule(state, tables, limits, g, now)
