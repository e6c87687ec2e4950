"""Load shedding: requests that are turned away, because too many wait or because they have waited too long.

Whose time is up is looked at when its turn has come: at a boundary where the replica has a place for one more request,
and before its KV blocks are looked for. Who has begun is never shed, a preemption or not.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.adapters import expect_adapter
from apexsim.engine.fair import steps_to_overtake
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.order import FAIR, take_next
from apexsim.engine.presence import count_present
from apexsim.engine.result import REJECTED, REJECTED_LATE, REJECTED_WAIT
from apexsim.engine.series import cut_series, series_seconds
from apexsim.engine.state import DONE, NONE, Limits, State, instant


@kernel
def sheds(limits: Limits) -> bool:
    """True where a request that waits may be turned away."""
    return limits.max_wait_s < np.inf or limits.shed_late


@kernel
def reject(state: State, r: int, i: int, reason: int) -> None:
    """Request i is turned away at replica r."""
    state.requests[i].status = REJECTED
    state.requests[i].reason = reason
    state.requests[i].phase = DONE
    state.replicas[r].ended += 1


@kernel
def time_is_up_s(state: State, limits: Limits, i: int) -> float:
    """The last instant at which waiting request i is begun."""
    requests = state.requests
    if not np.isnan(requests[i].start_s):
        return np.inf
    wait_s = limits.max_wait_s
    if limits.shed_late:
        wait_s = min(wait_s, state.order.places[i].deadline_s)
    return float(requests[i].arrival_s) + wait_s


@kernel
def is_hopeless(state: State, limits: Limits, i: int, now: float) -> bool:
    """True where the turn of request i has come too late."""
    return sheds(limits) and now > time_is_up_s(state, limits, i) + instant(now)


@rare_kernel
def drop(state: State, limits: Limits, r: int, now: float) -> None:
    """The head of the waiting list is turned away."""
    requests, replicas = state.requests, state.replicas
    i = replicas[r].waiting_head
    count_present(replicas, r, now)
    replicas[r].shed_s += now - requests[i].arrival_s
    take_next(state, limits, r, False)
    expect_adapter(state, r, i, -1)
    replicas[r].prompt_tokens -= requests[i].prompt
    too_long = now > requests[i].arrival_s + limits.max_wait_s + instant(now)
    reject(state, r, i, REJECTED_WAIT if too_long else REJECTED_LATE)


@kernel
def is_watched(state: State, limits: Limits, r: int) -> bool:
    """True where somebody else may become the head of the waiting list by time alone, and could be admitted."""
    changes = limits.order == FAIR or sheds(limits)
    return changes and state.replicas[r].waiting_head != NONE and state.replicas[r].running < limits.max_num_seqs


@kernel
def watch_head(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """End the series of group g, just set off, where the head of the waiting list changes."""
    if is_watched(state, limits, g):
        stop_at_change(state, tables, limits, g)


@rare_kernel
def stop_at_change(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """The same, where there is a head that may change."""
    groups = state.groups
    if limits.order == FAIR:
        steps = steps_to_overtake(state, limits, g)
        if steps < groups[g].steps:
            groups[g].steps = steps
            groups[g].end_s = groups[g].begin_s + series_seconds(state, tables, g, steps)
    at_s = time_is_up_s(state, limits, state.replicas[g].waiting_head) if sheds(limits) else np.inf
    if at_s < groups[g].end_s:
        cut_series(state, tables, g, max(at_s, groups[g].begin_s))
