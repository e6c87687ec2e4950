"""A series of decode iterations in closed form: nothing changes in the batch, so their times are an arithmetic sum.

Pipelines of one stage only. A series is set off with its whole length; an arrival that could be admitted cuts it
at the next boundary, and when it ends its gaps, blocks and seconds are booked at once.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.gaps import merge_cohorts, push_gap, record_run
from apexsim.engine.iteration import count_iterations, note_decode_work, note_slowness
from apexsim.engine.jit import kernel
from apexsim.engine.kvcache import evict, lost_first, take_blocks
from apexsim.engine.law import decode_segment, steps_within
from apexsim.engine.pages import hybrid_steps, hybrid_taken
from apexsim.engine.state import NONE, RUNNING, Limits, State, instant


@kernel
def series_length(state: State, tables: StepTables, limits: Limits, g: int) -> int:
    """Decode iterations until the batch changes: a sequence ends, fills its window, or finds no free block."""
    groups = state.groups
    # The heap's top may be stale; a series that ends too early is split, never wrong.
    steps = state.finishes[g, 0].step - groups[g].step
    if tables.window > 0 and groups[g].windows > 0:
        steps = min(steps, state.windows[g, 0].step - groups[g].step)
    steps = max(1, steps)
    if limits.reserve:
        return steps
    replica = state.replicas[g // state.stage_free_s.shape[1]]
    free = limits.kv_blocks - replica.used_blocks
    if replica.oldest != NONE and replica.waiting_head != NONE and replica.running < limits.max_num_seqs:
        # To evict a unit may take what the first that waits would find, and so change what it needs.
        free -= replica.cached_blocks - lost_first(state, g // state.stage_free_s.shape[1])
    if limits.hybrid:
        return hybrid_steps(state, limits, g, steps, free)
    decoding, size = groups[g].decoding, limits.block_size
    if (steps // size + 1) * decoding <= free:
        return steps
    # The blocks of the first iteration are taken. Each full cycle of the block size takes one a sequence.
    fit = 1 + free // decoding * size
    free -= free // decoding * decoding
    while fit < steps:
        free -= state.blocks[g, -(groups[g].step + fit) % size]
        if free < 0:
            break
        fit += 1
    return min(steps, fit)


@kernel
def segment_after(
    state: State, tables: StepTables, g: int, done: int
) -> tuple[float, float, float, float, int]:
    """The straight stretch of the law that begins after ``done`` iterations of the series; see ``decode_segment``."""
    group = state.groups[g]
    kv = float(group.kv + group.decoding * (done + 1))
    windowed = float(group.kv_windowed + group.growing * (done + 1))
    line = decode_segment(tables, group.decoding, kv, windowed, group.growing)
    return line[0] * group.slow, line[1] * group.slow, line[2], line[3], line[4]


@kernel
def series_seconds(state: State, tables: StepTables, g: int, steps: int) -> float:
    """How long ``steps`` decode iterations of this batch take."""
    done, elapsed = 0, 0.0
    while done < steps:
        first, slope, _, _, length = segment_after(state, tables, g, done)
        m = min(length, steps - done)
        elapsed += m * first + 0.5 * slope * m * (m - 1.0)
        done += m
    return elapsed


@kernel
def cut_series(state: State, tables: StepTables, g: int, at_s: float) -> None:
    """Somebody has arrived at ``at_s`` who could be admitted: end the series at the first boundary from then on."""
    groups = state.groups
    steps, seconds = steps_until(state, tables, g, at_s)
    groups[g].steps = steps
    groups[g].end_s = groups[g].begin_s + seconds


@kernel
def steps_until(state: State, tables: StepTables, g: int, at_s: float) -> tuple[int, float]:
    """Iterations of the series that begin before ``at_s``, and how long they take."""
    groups = state.groups
    limit = at_s - groups[g].begin_s - instant(at_s)
    done, elapsed, steps = 0, 0.0, groups[g].steps
    while done < steps and (elapsed < limit or done == 0):
        first, slope, _, _, length = segment_after(state, tables, g, done)
        m = steps_within(first, slope, limit - elapsed, min(length, steps - done))
        elapsed += m * first + 0.5 * slope * m * (m - 1.0)
        done += m
    return done, elapsed


@kernel
def close_series(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """A series of decode iterations has ended: book its time, gaps and blocks."""
    groups, replicas = state.groups, state.replicas
    r = g  # one stage: a group is its replica
    steps, decoding = groups[g].steps, groups[g].decoding
    done, longest, last = 0, 0.0, 0.0
    while done < steps:
        first, slope, attention, attention_slope, length = segment_after(state, tables, g, done)
        m = min(length, steps - done)
        record_run(state, first, slope if m > 1 else 0.0, m, decoding)
        last = first + slope * (m - 1)
        longest = max(longest, first, last)
        replicas[r].decode_attention_s += m * attention + 0.5 * attention_slope * m * (m - 1.0)
        busy_s = m * first + 0.5 * slope * m * (m - 1.0)
        replicas[r].busy_s += busy_s
        note_slowness(state, g, busy_s)
        done += m
    if steps > 1:
        groups[g].seen_s = groups[g].end_s - last
    push_gap(state, g, state.cohorts[g, 0].gap, longest)
    merge_cohorts(state, g, groups[g].end_s)
    count_iterations(state, g, steps, decoding, 0, decoding, decoding, decoding)
    note_decode_work(state, g, decoding, steps)
    take_for_series(state, limits, g, steps)


@kernel
def take_for_series(state: State, limits: Limits, g: int, steps: int) -> None:
    """Allocate what the iterations 2 to ``steps`` of a series have taken. One stage: a group is its replica."""
    if limits.hybrid and not limits.reserve:
        taken, most = hybrid_taken(state, limits, g, steps)
        take_blocks(state, limits, g, most)
        take_blocks(state, limits, g, taken - most)
    else:
        take_blocks(state, limits, g, blocks_after_first(state, limits, g, steps))


@kernel
def blocks_after_first(state: State, limits: Limits, g: int, steps: int) -> int:
    """KV blocks that the iterations 2 to ``steps`` of the series take; those of the first were taken with it.

    Where some are given back meanwhile, the most that they take at a time.
    """
    if limits.reserve or steps == 1:
        return 0
    if limits.hybrid:
        return hybrid_taken(state, limits, g, steps)[1]
    size = limits.block_size
    taken = (steps - 1) // size * state.groups[g].decoding
    for j in range(1 + (steps - 1) // size * size, steps):
        taken += state.blocks[g, -(state.groups[g].step + j) % size]
    return taken


@kernel
def runs_series(state: State, g: int) -> bool:
    """True where a series of several iterations is in flight."""
    groups = state.groups
    stages = state.stage_free_s.shape[1]
    return stages == 1 and groups[g].phase == RUNNING and groups[g].steps > 1 and is_series(state, g)


@kernel
def evict_by(state: State, tables: StepTables, limits: Limits, r: int, at_s: float) -> None:
    """Evict what a running series has by the instant ``at_s``; its blocks are booked when it ends."""
    g = r * state.stage_free_s.shape[1]
    if state.replicas[r].cached_blocks > 0 and runs_series(state, g):
        steps, _ = steps_until(state, tables, g, at_s)
        evict(state, r, limits.kv_blocks - blocks_after_first(state, limits, g, steps))


@kernel
def is_series(state: State, g: int) -> bool:
    """True where what is in flight was set off in closed form: then there is no one duration."""
    return np.isnan(state.groups[g].duration_s)
