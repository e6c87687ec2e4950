"""The gaps between tokens of the sequences in a group, without a loop over the sequences.

*Cohorts*: sequences whose last token came at the same instant share their next gap. A group whose batch decodes in
every iteration has one cohort; where prefill runs alone, each iteration that starts new sequences adds one.
*Stack*: gap j is the largest that a sequence with first gap <= j has seen since. Only decreasing maxima matter, so the
largest gap of a sequence is one binary search, whatever its length.
"""

from __future__ import annotations

import numpy as np

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import State


@kernel
def record_run(state: State, start_s: float, slope_s: float, count: int, sequences: int) -> None:
    """Append ``count`` iterations of ``sequences`` gaps each: start_s, start_s + slope_s, …"""
    itl, i = state.itl, state.filled[0]
    itl[i].start_s = start_s
    itl[i].slope_s = slope_s
    itl[i].count = count
    itl[i].sequences = sequences
    state.filled[0] = i + 1


@kernel
def join_cohort(state: State, g: int, now: float) -> int:
    """A sequence yields a token at ``now`` and goes on decoding; returns the index of its next gap."""
    groups, cohorts = state.groups, state.cohorts
    last = groups[g].cohorts - 1
    if last >= 0 and cohorts[g, last].last_s == now:
        cohorts[g, last].count += 1
        return cohorts[g, last].gap
    if last < 0:
        last = 0
        cohorts[g, 0].gap = 0
    elif cohorts[g, last].count > 0:
        gap = cohorts[g, last].gap + 1
        last += 1
        if last == cohorts.shape[1]:
            last = drop_empty_cohorts(state, g)
        cohorts[g, last].gap = gap
    groups[g].cohorts = last + 1
    cohorts[g, last].last_s = now
    cohorts[g, last].count = 1
    return cohorts[g, last].gap


@rare_kernel
def drop_empty_cohorts(state: State, g: int) -> int:
    """Close the holes that preempted sequences left; returns how many cohorts remain."""
    groups, cohorts = state.groups, state.cohorts
    kept = 0
    for c in range(groups[g].cohorts):
        if cohorts[g, c].count > 0:
            cohorts[g, kept].last_s = cohorts[g, c].last_s
            cohorts[g, kept].count = cohorts[g, c].count
            cohorts[g, kept].gap = cohorts[g, c].gap
            kept += 1
    return kept


@kernel
def leave_cohort(state: State, g: int, gap: int) -> float:
    """A sequence whose first gap was ``gap`` stops decoding; returns when its last token came."""
    groups, cohorts = state.groups, state.cohorts
    c = groups[g].cohorts - 1
    while c > 0 and cohorts[g, c].gap > gap:
        c -= 1
    cohorts[g, c].count -= 1
    return cohorts[g, c].last_s


@kernel
def push_gap(state: State, g: int, gap: int, seconds: float) -> None:
    """Gap number ``gap`` of this group lasted ``seconds``."""
    groups, stack = state.groups, state.stack
    size = groups[g].stack
    while size > 0 and stack[g, size - 1].seconds <= seconds:
        size -= 1
    stack[g, size].gap = gap
    stack[g, size].seconds = seconds
    groups[g].stack = size + 1


@kernel
def largest_gap(state: State, g: int, gap: int) -> float:
    """The longest gap since number ``gap``; NaN where there was none."""
    groups, stack = state.groups, state.stack
    low = 0
    high = groups[g].stack
    while low < high:
        mid = (low + high) >> 1
        if stack[g, mid].gap >= gap:
            high = mid
        else:
            low = mid + 1
    if low == groups[g].stack:
        return np.nan
    return stack[g, low].seconds


@kernel
def merge_cohorts(state: State, g: int, now: float) -> None:
    """All sequences have yielded a token at ``now``: one cohort again."""
    groups, cohorts = state.groups, state.cohorts
    cohorts[g, 0].gap = cohorts[g, groups[g].cohorts - 1].gap + 1
    cohorts[g, 0].last_s = now
    cohorts[g, 0].count = groups[g].decoding
    groups[g].cohorts = 1


@rare_kernel
def close_late(state: State, g: int) -> None:
    """Sequences that joined with a token long out: their gap began with it, and is theirs alone."""
    requests, groups = state.requests, state.groups
    i = groups[g].youngest
    while groups[g].late > 0:
        if requests[i].late == 1:
            gap = groups[g].end_s - requests[i].first_token_s
            record_run(state, gap, 0.0, 1, 1)
            requests[i].itl_max_s = np.fmax(requests[i].itl_max_s, gap)
            leave_cohort(state, g, requests[i].gap)  # until all are merged
            requests[i].late = 0
            groups[g].late -= 1
        i = requests[i].older


@kernel
def close_gaps(state: State, g: int) -> None:
    """One decode iteration has ended: every cohort's gap is known."""
    groups, cohorts = state.groups, state.cohorts
    end = groups[g].end_s
    if groups[g].late > 0:
        close_late(state, g)
    for c in range(groups[g].cohorts):
        sequences = cohorts[g, c].count
        if sequences > 0:
            # The duration itself where it is the gap: a difference of two late instants has lost digits.
            gap = groups[g].duration_s if cohorts[g, c].last_s == groups[g].begin_s else end - cohorts[g, c].last_s
            record_run(state, gap, 0.0, 1, sequences)
            push_gap(state, g, cohorts[g, c].gap, gap)
    merge_cohorts(state, g, end)


@rare_kernel
def forget_old_gaps(state: State, g: int, oldest: int) -> None:
    """Drop the entries that no running sequence can ask for (first gap of all of them >= ``oldest``)."""
    groups, stack = state.groups, state.stack
    kept = 0
    for i in range(groups[g].stack):
        if stack[g, i].gap >= oldest:
            stack[g, kept].gap = stack[g, i].gap
            stack[g, kept].seconds = stack[g, i].seconds
            kept += 1
    groups[g].stack = kept
