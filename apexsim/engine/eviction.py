"""A unit that goes: what it was doing is stopped, what it held is gone; and when one that drains has ended its work.

An iteration in flight is lost with its tokens, and booked whole: its time and its joules have been spent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.book import Book, pool_at
from apexsim.engine.course import DRAINED, DRAINING, Course
from apexsim.engine.iteration import count_iterations, note_decode_work, note_slowness
from apexsim.engine.jit import entry_kernel, kernel, rare_kernel
from apexsim.engine.presence import count_present
from apexsim.engine.result import IN_FLIGHT, NOT_REJECTED
from apexsim.engine.series import close_series, is_series, segment_after, series_seconds, steps_until
from apexsim.engine.state import DONE, IDLE, NONE, RUNNING, State, instant

# --- inside the compiled loop -----------------------------------------------------------------------------------


@rare_kernel
def renew(state: State, i: int) -> None:
    """Nothing has happened to request i in this pool yet: it is offered from scratch."""
    requests, prefixes = state.requests, state.cache.prefixes
    requests[i].start_s = requests[i].first_token_s = requests[i].finish_s = np.nan
    requests[i].last_token_s = requests[i].itl_max_s = np.nan
    requests[i].generated = requests[i].computed = requests[i].blocks = requests[i].preemptions = 0
    requests[i].window_step = requests[i].follower = requests[i].older = requests[i].younger = NONE
    requests[i].status, requests[i].reason, requests[i].late = IN_FLIGHT, NOT_REJECTED, 0
    if prefixes.size > 0:
        prefixes[i].settled = prefixes[i].settled_tokens = 0
        prefixes[i].hit = NONE


@rare_kernel
def leave_waiting(state: State, r: int, i: int, now: float) -> None:
    """Request i waits no longer at replica r, first come first served: what it came for is gone."""
    requests, replicas = state.requests, state.replicas
    count_present(replicas, r, now)
    replicas[r].shed_s += now - requests[i].arrival_s
    before, after = NONE, replicas[r].waiting_head
    while after != i:
        before, after = after, requests[after].follower
    if before == NONE:
        replicas[r].waiting_head = requests[i].follower
    else:
        requests[before].follower = requests[i].follower
    if replicas[r].waiting_tail == i:
        replicas[r].waiting_tail = before
    replicas[r].waiting -= 1
    replicas[r].prompt_tokens -= requests[i].prompt
    requests[i].phase = DONE


@kernel
def has_nothing(state: State, r: int) -> bool:
    """True where replica r has no request, and no KV of any."""
    return bool(state.replicas[r].waiting + state.replicas[r].running + state.replicas[r].used_blocks == 0)


@rare_kernel
def holds_nothing(book: Book, p: int, r: int) -> bool:
    """``has_nothing`` of a pool."""
    state, _, _ = pool_at(book, p)
    return has_nothing(state, r)


@rare_kernel
def any_drained(book: Book, course: Course, cursor: NDArray[np.int64], now: float) -> bool:
    """True where a unit that drains has nothing left; then the instant is noted."""
    if cursor[DRAINING] == 0:
        return False
    for u in range(course.units.size):
        unit = course.units[u]
        if unit.draining == 1 and unit.due == 0 and holds_nothing(book, unit.pool, unit.replica):
            course.stopped_s[0] = now
            cursor[DRAINED] = 1
            return True
    return False


# --- between two runs of it -------------------------------------------------------------------------------------


@entry_kernel
def stop_series(book: Book, p: int, r: int, now: float) -> None:
    """Replica r of pool p stops at ``now``: book what of a series in flight has run by then."""
    state, tables, limits = pool_at(book, p)
    groups, stages = state.groups, state.stage_free_s.shape[1]
    g = r * stages
    if stages > 1 or groups[g].phase != RUNNING or not is_series(state, g):
        return
    begun, seconds = steps_until(state, tables, g, now)
    ended = begun if groups[g].begin_s + seconds <= now + instant(now) else begun - 1
    if ended > 0:
        groups[g].steps = ended
        groups[g].end_s = groups[g].begin_s + series_seconds(state, tables, g, ended)
        close_series(state, tables, limits, g)
        groups[g].step += ended
        groups[g].kv += groups[g].decoding * ended
        groups[g].kv_windowed += groups[g].growing * ended
        groups[g].begin_s = groups[g].end_s
    if ended < begun:
        decoding = groups[g].decoding
        busy_s, _, attention_s, _, _ = segment_after(state, tables, g, 0)
        groups[g].end_s = groups[g].begin_s + busy_s
        state.replicas[r].busy_s += busy_s
        state.replicas[r].decode_attention_s += attention_s
        note_slowness(state, g, busy_s)
        count_iterations(state, g, 1, decoding, 0, decoding, decoding, decoding)
        note_decode_work(state, g, decoding, 1)


def clear_replica(state: State, r: int, now: float) -> None:
    """Replica r is as new: no request, no block, no cached prefix, no iteration. Its sums stay."""
    replicas, groups = state.replicas, state.groups
    there = replicas.waiting[r] + replicas.running[r]
    replicas.present_s[r] += there * (now - replicas.changed_s[r])
    replicas.changed_s[r] = now
    for name in ("waiting", "running", "coming", "used_blocks", "cached_blocks", "full", "prompt_tokens", "lost_last"):
        replicas[name][r] = 0
    for name in ("waiting_head", "waiting_tail", "open_head", "incoming_head", "incoming_tail", "received_head",
                 "received_tail", "oldest", "newest"):  # fmt: skip
        replicas[name][r] = NONE
    of = slice(r * state.stages, (r + 1) * state.stages)
    for name in ("steps", "decoding", "late", "decoded", "kv", "kv_windowed", "growing", "prefills", "finishes",
                 "windows", "cohorts", "stack"):  # fmt: skip
        groups[name][of] = 0
    groups.phase[of], groups.end_s[of], groups.youngest[of] = IDLE, np.inf, NONE
    state.blocks[of] = 0
    state.stage_free_s[r] = -np.inf
    if state.cache.units.size:
        state.cache.units[r] = np.zeros((), state.cache.units.dtype)


def cut_timeline(state: State, r: int, now: float) -> None:
    """Iterations of replica r that were in flight at ``now`` ended there."""
    rows = state.timeline[: state.filled[1]]
    rows.end_s[(rows.group // state.stages == r) & (rows.end_s > now)] = now
