"""Ranks in lockstep: attention in data parallel, experts over all ranks, so every iteration is one of all ranks.

A *rank* is a replica to everything else: it has a waiting list, a batch, KV blocks and a prefix cache of its own, and a
router chooses among ranks. ``ranks`` neighbours are a lockstep group, which replaces ``replica.advance``: its ranks
compose at the same boundary, begin and end together, and a rank that has nothing to run runs a dummy batch of one
sequence as long as another one has work. The law of such an iteration is in ``cost/tables.py``.

Where every rank only decodes, a series is summed in closed form as in ``series.py``. The time of its iterations is the
largest of straight lines, one a rank; a *stretch* ends at a knot of any rank or where another one becomes the slowest.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.balance import compose_decodes, count_series, hold_prompts
from apexsim.engine.gaps import close_late, merge_cohorts, push_gap, record_run
from apexsim.engine.handover import tell_chunks
from apexsim.engine.iteration import attention_of_stage
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import evict
from apexsim.engine.law import NEVER, attention_segment, steps_to_reach, steps_within
from apexsim.engine.ranks import book_sizes, prefill_tokens, weigh
from apexsim.engine.replica import (
    NEEDS_RECORDS,
    THROUGH,
    compose,
    hand_out,
    has_news,
    one_cohort_at,
    room_in_stack,
)
from apexsim.engine.series import blocks_after_first, series_length, take_for_series
from apexsim.engine.shedding import is_watched
from apexsim.engine.state import IDLE, READY, RUNNING, Limits, State, instant
from apexsim.engine.tiers import wait_for_copies

PIECES = 64
"""Stretches of a series at most, each with a record of its gaps; a longer series is split."""


@kernel
def first_rank(tables: StepTables, r: int) -> int:
    """The first rank of the group of rank r."""
    return r // tables.group.ranks * tables.group.ranks


@rare_kernel
def set_off(state: State, tables: StepTables, limits: Limits, first: int, now: float) -> None:
    """Compose the next iteration of every rank at their boundary ``now`` and set it off, or leave the group idle."""
    groups, last = state.groups, first + tables.group.ranks
    busy, mixed, series, again = False, False, True, False
    held, steps = hold_prompts(state, tables, limits, first) if limits.balance else (False, NEVER)
    for g in range(first, last):
        if held:
            prefills, preempted, oldest = compose_decodes(state, tables, limits, g)
        else:
            prefills, preempted, oldest = compose(state, tables, limits, g, now)
        decodes = groups[g].decoding > 0
        busy = busy or decodes or prefills > 0
        mixed = mixed or prefills > 0
        again = again or (preempted and limits.receives)
        if preempted or has_news(state, limits, g, oldest) or (decodes and not one_cohort_at(state, g, now)):
            series = False
        series = series and not is_watched(state, limits, g) and groups[g].late == 0
    for g in range(first, last):
        groups[g].phase = RUNNING if busy else (READY if again else IDLE)
        groups[g].begin_s = now
        groups[g].end_s = now if again and not busy else np.inf
    if not busy:
        return
    weigh(state, tables, first, mixed)
    if limits.streams:
        for g in range(first, last):
            tell_chunks(state, g)
    if mixed or not series:
        run_once(state, tables, first)
    else:
        for g in range(first, last):
            if groups[g].decoding > 0:
                steps = min(steps, series_length(state, tables, limits, g))
        run_series(state, tables, first, steps, np.inf)


@kernel
def run_once(state: State, tables: StepTables, first: int) -> None:
    """All ranks run one iteration, whatever is in their batches."""
    groups, replicas = state.groups, state.replicas
    slowest = 0.0
    for g in range(first, first + tables.group.ranks):
        decoding = groups[g].decoding if groups[g].decoded else 0
        decode_s, prefill_s = attention_of_stage(state, tables, g, 0, decoding)
        replicas[g].prefill_attention_s += prefill_s
        groups[g].own_s += prefill_s
        groups[g].line_s = groups[g].own_s + decode_s
        if replicas[g].copies > 0:
            wait_for_copies(state, g)
        slowest = max(slowest, groups[g].line_s)
    duration, _, _ = with_host(state, tables, first, slowest, 0.0, 1)
    in_flight(state, tables, first, 1, duration)


@rare_kernel
def run_series(state: State, tables: StepTables, first: int, steps: int, limit_s: float) -> None:
    """All ranks decode for ``steps`` iterations, or those that begin within ``limit_s``, or ``PIECES`` stretches."""
    done, elapsed, pieces = 0, 0.0, 0
    while done < steps and pieces < PIECES and (elapsed < limit_s or done == 0):
        slowest, rise, length = stretch(state, tables, first, done)
        duration, slope, length = with_host(state, tables, first, slowest, rise, length)
        m = steps_within(duration, slope, limit_s - elapsed, min(length, steps - done))
        elapsed += m * duration + 0.5 * slope * m * (m - 1.0)
        done += m
        pieces += 1
    in_flight(state, tables, first, done, elapsed)


@kernel
def in_flight(state: State, tables: StepTables, first: int, steps: int, seconds: float) -> None:
    """What runs ends on all ranks at once."""
    groups = state.groups
    for g in range(first, first + tables.group.ranks):
        groups[g].steps = steps
        groups[g].duration_s = seconds
        groups[g].end_s = groups[g].begin_s + seconds


@kernel
def stretch(state: State, tables: StepTables, first: int, done: int) -> tuple[float, float, int]:
    """The straight line of the slowest rank that begins after ``done`` iterations of a series.

    Returns (seconds of its first iteration without the host, seconds more each time, number of iterations on it), and
    leaves each rank's own line in ``line_s`` and ``rise_s``.
    """
    groups, last = state.groups, first + tables.group.ranks
    slowest, rise, length = -1.0, 0.0, NEVER
    for g in range(first, last):
        groups[g].line_s = groups[g].own_s
        groups[g].rise_s = 0.0
        if groups[g].decoding > 0:
            kv = float(groups[g].kv + groups[g].decoding * (done + 1))
            windowed = float(groups[g].kv_windowed + groups[g].growing * (done + 1))
            attention, slope, steps = attention_segment(tables, groups[g].decoding, kv, windowed, groups[g].growing)
            groups[g].line_s += attention
            groups[g].rise_s = slope
            length = min(length, steps)
        own, own_rise = groups[g].line_s, groups[g].rise_s
        if own > slowest or (own == slowest and own_rise > rise):
            slowest, rise = own, own_rise
    for g in range(first, last):
        if groups[g].rise_s > rise:
            length = min(length, steps_to_reach(slowest - groups[g].line_s, groups[g].rise_s - rise))
    return slowest, rise, length


@kernel
def with_host(
    state: State, tables: StepTables, first: int, device: float, rise: float, length: int
) -> tuple[float, float, int]:
    """A stretch of device seconds as one of iterations: (first, more each time, iterations on the line)."""
    scheduled = 0
    for g in range(first, first + tables.group.ranks):
        scheduled = max(scheduled, state.groups[g].scheduled)
    floor, serial = tables.host_floor_s[scheduled], tables.host_serial_s[scheduled]
    if device >= floor:
        return device + serial, rise, length
    return floor + serial, 0.0, min(length, steps_to_reach(floor - device, rise))


@rare_kernel
def complete_ranks(state: State, tables: StepTables, limits: Limits, first: int) -> None:
    """What all ranks had in flight has ended: book it and hand out the tokens; they are at a boundary."""
    groups, last = state.groups, first + tables.group.ranks
    steps, mixed = groups[first].steps, False
    if limits.balance:
        count_series(state, limits, first)
    for g in range(first, last):
        groups[g].seen_s = groups[g].begin_s
        mixed = mixed or prefill_tokens(state, g) > 0
    book_sizes(state, tables, first, steps, mixed)
    if steps == 1:
        close_once(state, tables, first)
    else:
        close_many(state, tables, limits, first, steps)
    for g in range(first, last):
        hand_out(state, tables, limits, g)


@kernel
def close_once(state: State, tables: StepTables, first: int) -> None:
    """One iteration has ended: the gaps before its tokens, and who waited for whom."""
    groups, replicas, last = state.groups, state.replicas, first + tables.group.ranks
    slowest, alike = 0.0, 0
    for g in range(first, last):
        slowest = max(slowest, groups[g].line_s)
    for g in range(first, last):
        replicas[g].waited_s += slowest - groups[g].line_s
        if groups[g].decoded:
            replicas[g].decode_attention_s += groups[g].line_s - groups[g].own_s
            if state.drafts.size == 0:  # else ``accept_drafts`` closes them
                alike += close_cohorts(state, g)
    if alike > 0:
        record_run(state, groups[first].duration_s, 0.0, 1, alike)


@kernel
def close_cohorts(state: State, g: int) -> int:
    """One decode iteration of a rank has ended; returns its gaps that are the iteration, which the caller records."""
    groups, cohorts = state.groups, state.cohorts
    alike = 0
    if groups[g].late > 0:
        close_late(state, g)
    for c in range(groups[g].cohorts):
        sequences = cohorts[g, c].count
        if sequences > 0:
            gap = groups[g].end_s - cohorts[g, c].last_s
            if cohorts[g, c].last_s == groups[g].begin_s:
                gap = groups[g].duration_s
                alike += sequences
            else:
                record_run(state, gap, 0.0, 1, sequences)
            push_gap(state, g, cohorts[g, c].gap, gap)
    merge_cohorts(state, g, groups[g].end_s)
    return alike


@kernel
def close_many(state: State, tables: StepTables, limits: Limits, first: int, steps: int) -> None:
    """A series has ended: its gaps and blocks, and who waited for whom."""
    groups, replicas, ranks = state.groups, state.replicas, tables.group.ranks
    sequences = 0
    for g in range(first, first + ranks):
        sequences += groups[g].decoding
    done, longest, last_s = 0, 0.0, 0.0
    while done < steps:
        slowest, rise, length = stretch(state, tables, first, done)
        duration, slope, length = with_host(state, tables, first, slowest, rise, length)
        m = min(length, steps - done)
        record_run(state, duration, slope if m > 1 else 0.0, m, sequences)
        last_s = duration + slope * (m - 1)
        longest = max(longest, duration, last_s)
        rises = 0.5 * m * (m - 1.0)
        for g in range(first, first + ranks):
            replicas[g].waited_s += m * (slowest - groups[g].line_s) + rises * (rise - groups[g].rise_s)
            replicas[g].decode_attention_s += m * (groups[g].line_s - groups[g].own_s) + rises * groups[g].rise_s
        done += m
    for g in range(first, first + ranks):
        groups[g].seen_s = groups[g].end_s - last_s
        if groups[g].decoding > 0:
            push_gap(state, g, state.cohorts[g, 0].gap, longest)
            merge_cohorts(state, g, groups[g].end_s)
            take_for_series(state, limits, g, steps)


@kernel
def cut_ranks(state: State, tables: StepTables, first: int, at_s: float) -> None:
    """End a series of all ranks at the first boundary from ``at_s`` on."""
    group = state.groups[first]
    run_series(state, tables, first, group.steps, at_s - group.begin_s - instant(at_s))


@rare_kernel
def evict_ranks_by(state: State, tables: StepTables, limits: Limits, first: int, at_s: float) -> None:
    """Evict what a running series has by the instant ``at_s``; its blocks are booked when it ends."""
    groups = state.groups
    if groups[first].phase != RUNNING or groups[first].steps == 1:
        return
    steps, seconds = groups[first].steps, groups[first].duration_s
    cut_ranks(state, tables, first, at_s)
    until_then = groups[first].steps
    in_flight(state, tables, first, steps, seconds)
    for g in range(first, first + tables.group.ranks):
        if state.replicas[g].cached_blocks > 0:
            evict(state, g, limits.kv_blocks - blocks_after_first(state, limits, g, until_then))


@kernel
def wake_ranks(state: State, tables: StepTables, first: int, now: float) -> None:
    """Somebody has arrived at one rank: all of an idle group may begin."""
    groups = state.groups
    for g in range(first, first + tables.group.ranks):
        if groups[g].phase == IDLE:
            groups[g].phase = READY
            groups[g].end_s = now


@kernel
def room_for_ranks(state: State, tables: StepTables, first: int) -> int:
    """THROUGH where the arrays take whatever one event of all ranks can add, else which of them are full."""
    most = PIECES + tables.group.ranks * (state.cohorts.shape[1] + state.begun.shape[1])
    if state.filled[0] + most > state.itl.size:
        return NEEDS_RECORDS
    if state.timeline.size > 0 and state.filled[1] + most > state.timeline.size:
        return NEEDS_RECORDS
    for g in range(first, first + tables.group.ranks):
        full = room_in_stack(state, g)
        if full != THROUGH:
            return full
    return THROUGH


@rare_kernel
def advance_ranks(state: State, tables: StepTables, limits: Limits, first: int, until: float) -> int:
    """``replica.advance`` for the group that begins at rank ``first``."""
    groups = state.groups
    slack = instant(until)
    while True:
        now = groups[first].end_s
        if now > until + slack or now == np.inf:
            return THROUGH
        if groups[first].phase != RUNNING and now >= until - slack:
            return THROUGH
        full = room_for_ranks(state, tables, first)
        if full != THROUGH:
            return full
        if groups[first].phase == RUNNING:
            complete_ranks(state, tables, limits, first)
        else:
            set_off(state, tables, limits, first, now)
