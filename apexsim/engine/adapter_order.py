"""The waiting list where adapters take turns: first come, first served among those whose adapter has a place.

All that wait stand in one list, by ``older`` and ``younger``, links that only running requests use otherwise, and in
one for each adapter, by ``follower``. So whoever is passed over is never looked at: while all places are taken the next
is the first of the heads of the adapters in use.
"""

from __future__ import annotations

from apexsim.engine.jit import rare_kernel
from apexsim.engine.state import NONE, Limits, State


@rare_kernel
def lead_by_adapter(state: State, limits: Limits, r: int) -> None:
    """The first that may be admitted is the head of the waiting list of replica r."""
    asks, slots, hubs = state.adapters.asks, state.adapters.slots, state.adapters.hubs
    head = hubs[r].first
    if hubs[r].in_use >= limits.max_loras:
        head = slots[r, state.adapters.loads.size].head
        for k in range(hubs[r].in_use):
            other = slots[r, slots[r, k].in_use].head
            if other != NONE and (head == NONE or asks[other].place < asks[head].place):
                head = other
    state.replicas[r].waiting_head = head


@rare_kernel
def join_adapter(state: State, limits: Limits, r: int, i: int, again: bool) -> None:
    """Request i waits at replica r behind all others, or before them where it was preempted (``again``)."""
    requests, slots, hubs = state.requests, state.adapters.slots, state.adapters.hubs
    a = state.adapters.asks[i].adapter
    requests[i].older = requests[i].younger = requests[i].follower = NONE
    if again:
        hubs[r].place_first -= 1
        state.adapters.asks[i].place = hubs[r].place_first
        requests[i].younger = hubs[r].first
        requests[i].follower = slots[r, a].head
        if hubs[r].first != NONE:
            requests[hubs[r].first].older = i
        hubs[r].first = i
        slots[r, a].head = i
        if hubs[r].last == NONE:
            hubs[r].last = i
        if slots[r, a].tail == NONE:
            slots[r, a].tail = i
    else:
        hubs[r].place_last += 1
        state.adapters.asks[i].place = hubs[r].place_last
        requests[i].older = hubs[r].last
        if hubs[r].last != NONE:
            requests[hubs[r].last].younger = i
        else:
            hubs[r].first = i
        hubs[r].last = i
        if slots[r, a].tail != NONE:
            requests[slots[r, a].tail].follower = i
        else:
            slots[r, a].head = i
        slots[r, a].tail = i
    lead_by_adapter(state, limits, r)


@rare_kernel
def take_by_adapter(state: State, limits: Limits, r: int) -> None:
    """Remove the head of the waiting list; whoever is admitted has its adapter by now."""
    requests, slots, hubs = state.requests, state.adapters.slots, state.adapters.hubs
    i = state.replicas[r].waiting_head
    a = state.adapters.asks[i].adapter
    before, after = requests[i].older, requests[i].younger
    if before != NONE:
        requests[before].younger = after
    else:
        hubs[r].first = after
    if after != NONE:
        requests[after].older = before
    else:
        hubs[r].last = before
    slots[r, a].head = requests[i].follower
    if slots[r, a].head == NONE:
        slots[r, a].tail = NONE
    lead_by_adapter(state, limits, r)
