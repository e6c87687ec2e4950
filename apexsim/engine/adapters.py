"""LoRA adapters as they come and go: who may be admitted, what is loaded, and how long an iteration waits for it.

A running batch has at most ``max_loras`` distinct adapters. While it has so many, only requests with one of them, or of
the base model alone, are admitted; others are passed over and keep their places (vLLM v1: ``scheduled_loras``, those
that were skipped go back to the head of the waiting list). So the head of the waiting list is the first that may be
admitted. Where all adapters have a slot nobody is passed over, and any order of the waiting list will do.

An adapter in use stays on the device. Unused ones stay, too, and the least recently used goes where a slot is needed;
those that end together are released in the order of their admission. Host memory holds what the device holds and more,
by the same rule; what it does not hold is fetched from where all adapters are. With ``blocks`` there are no slots: an
adapter takes KV blocks while a request runs with it, and leaves with the last one (S-LoRA's unified paging).

Loads go one after another over the replica's link. The iteration for which requests were admitted begins when all of
theirs are over: a load begins at that iteration's boundary or, with ``prefetch``, when the request arrived and the link
was free.

Nothing here does anything in a run without adapters.
"""

from __future__ import annotations

from apexsim.engine.adapter_state import IN_HOST, ON_DEVICE
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import NONE, Limits, State


@kernel
def may_run(state: State, limits: Limits, r: int, i: int) -> bool:
    """True where the adapter of request i is in use at replica r, needs no place, or finds one."""
    a = state.adapters.asks[i].adapter
    if a == state.adapters.loads.size or state.adapters.slots[r, a].users > 0:
        return True
    return bool(state.adapters.hubs[r].in_use < limits.max_loras)


@kernel
def own_blocks(state: State, limits: Limits, i: int) -> int:
    """KV blocks of the adapter of request i."""
    if limits.max_loras == 0:
        return 0
    a = state.adapters.asks[i].adapter
    return 0 if a == state.adapters.loads.size else int(state.adapters.loads[a].blocks)


@kernel
def missing_blocks(state: State, limits: Limits, r: int, i: int) -> int:
    """KV blocks that the adapter of request i still needs at replica r."""
    blocks = own_blocks(state, limits, i)
    if blocks > 0 and state.adapters.slots[r, state.adapters.asks[i].adapter].users > 0:
        return 0
    return blocks


@kernel
def expect_adapter(state: State, r: int, i: int, change: int) -> None:
    """Request i has arrived at replica r (1), or was turned away while it waited (-1)."""
    if state.adapters.hubs.size > 0:
        state.adapters.slots[r, state.adapters.asks[i].adapter].waiting += change


@kernel
def has_adapter(state: State, r: int, i: int) -> bool:
    """True where replica r has the adapter of request i on its device, or will have it for one that waits there."""
    if state.adapters.hubs.size == 0:
        return False
    a = state.adapters.asks[i].adapter
    if a == state.adapters.loads.size or state.adapters.slots[r, a].waiting > 0:
        return True
    return bool(state.adapters.kept[r, ON_DEVICE, a].there)


@kernel
def use_adapter(state: State, limits: Limits, r: int, i: int, now: float) -> None:
    """Request i is admitted to replica r at the boundary ``now``; the caller allocates ``missing_blocks``."""
    if limits.max_loras > 0:
        hold_adapter(state, limits, r, i, now)


@rare_kernel
def hold_adapter(state: State, limits: Limits, r: int, i: int, now: float) -> None:
    """The same, where there are adapters."""
    asks, slots, kept, hubs = state.adapters.asks, state.adapters.slots, state.adapters.kept, state.adapters.hubs
    asks[i].admitted = hubs[r].admissions
    hubs[r].admissions += 1
    a = asks[i].adapter
    if state.requests[i].preemptions == 0:
        slots[r, a].waiting -= 1
    if a == state.adapters.loads.size:
        return
    hubs[r].uses += 1
    if slots[r, a].users == 0:
        k = hubs[r].in_use
        slots[r, a].place = k
        slots[r, k].in_use = a
        hubs[r].in_use = k + 1
        hubs[r].most_in_use = max(hubs[r].most_in_use, k + 1)
        if not kept[r, ON_DEVICE, a].there:
            load(state, limits, r, i, a, now)
        else:
            unlink(state, r, ON_DEVICE, a)
        unlink(state, r, IN_HOST, a)
    slots[r, a].users += 1


@rare_kernel
def load(state: State, limits: Limits, r: int, i: int, a: int, now: float) -> None:
    """Adapter a comes to the device for request i, which is admitted ``now``; it is in the host's list of unused."""
    kept, hubs, loads = state.adapters.kept, state.adapters.hubs, state.adapters.loads
    seconds = loads[a].load_s
    if not kept[r, IN_HOST, a].there:
        if state.adapters.ends[r, IN_HOST].count >= limits.max_cpu_loras:
            evict_adapter(state, r, IN_HOST)
        append(state, r, IN_HOST, a)
        kept[r, IN_HOST, a].there = 1
        state.adapters.ends[r, IN_HOST].count += 1
        hubs[r].fetches += 1
        seconds += loads[a].fetch_s
    if loads[a].blocks == 0 and state.adapters.ends[r, ON_DEVICE].count >= limits.max_loras:
        evict_adapter(state, r, ON_DEVICE)
    kept[r, ON_DEVICE, a].there = 1
    state.adapters.ends[r, ON_DEVICE].count += 1
    hubs[r].loads += 1
    begin = now
    if limits.prefetch_loras and state.requests[i].preemptions == 0:
        begin = min(now, state.requests[i].arrival_s)
    hubs[r].link_free_s = max(begin, hubs[r].link_free_s) + seconds
    hubs[r].load_s += seconds
    hubs[r].loaded_bytes += loads[a].bytes


@rare_kernel
def evict_adapter(state: State, r: int, t: int) -> None:
    """The least recently used adapter leaves the device, or host memory and with it the device."""
    a = state.adapters.ends[r, t].oldest
    for place in range(t + 1):
        if state.adapters.kept[r, place, a].there:
            unlink(state, r, place, a)
            state.adapters.kept[r, place, a].there = 0
            state.adapters.ends[r, place].count -= 1


@kernel
def leave_adapter(state: State, r: int, i: int) -> None:
    """Request i runs no more at replica r."""
    if state.adapters.hubs.size > 0:
        release_adapter(state, r, i)


@rare_kernel
def release_adapter(state: State, r: int, i: int) -> None:
    """The same, where there are adapters."""
    slots, hubs, loads = state.adapters.slots, state.adapters.hubs, state.adapters.loads
    a = state.adapters.asks[i].adapter
    if a == loads.size:
        return
    slots[r, a].users -= 1
    if slots[r, a].users > 0:
        return
    last = hubs[r].in_use - 1
    other = slots[r, last].in_use
    slots[r, slots[r, a].place].in_use = other
    slots[r, other].place = slots[r, a].place
    hubs[r].in_use = last
    append(state, r, IN_HOST, a)
    if loads[a].blocks == 0:
        append(state, r, ON_DEVICE, a)
    else:
        state.adapters.kept[r, ON_DEVICE, a].there = 0
        state.adapters.ends[r, ON_DEVICE].count -= 1
        state.replicas[r].used_blocks -= loads[a].blocks


@kernel
def loading_s(state: State, r: int, now: float) -> float:
    """Seconds that the iteration that begins ``now`` waits for adapters."""
    if state.adapters.hubs.size == 0:
        return 0.0
    seconds: float = max(0.0, state.adapters.hubs[r].link_free_s - now)
    state.adapters.hubs[r].wait_s += seconds
    return seconds


@rare_kernel
def append(state: State, r: int, t: int, a: int) -> None:
    """Adapter a is the most recently used of the unused ones in place t."""
    kept, ends = state.adapters.kept, state.adapters.ends
    last = ends[r, t].newest
    kept[r, t, a].older = last
    kept[r, t, a].younger = NONE
    if last != NONE:
        kept[r, t, last].younger = a
    else:
        ends[r, t].oldest = a
    ends[r, t].newest = a


@rare_kernel
def unlink(state: State, r: int, t: int, a: int) -> None:
    """Take adapter a out of the list of unused ones in place t."""
    kept, ends = state.adapters.kept, state.adapters.ends
    before, after = kept[r, t, a].older, kept[r, t, a].younger
    if before != NONE:
        kept[r, t, before].younger = after
    else:
        ends[r, t].oldest = after
    if after != NONE:
        kept[r, t, after].older = before
    else:
        ends[r, t].newest = before
