"""The waiting list of a replica: who is the next to be admitted.

First come, first served is a linked list whose head is removed and to whose head who was preempted returns. The other
orders have a key a request, the smallest first, ties by index (that is by arrival, so who was preempted is the first
among equals), in a heap; ``fair`` has a list a client (``fair.py``). Whatever the order, ``waiting_head`` is the next
to be admitted.

The heap is a pairing heap (Fredman et al., 1986): O(1) to join, O(log n) amortised to remove the first. It lives in
links that only running requests use otherwise: ``older`` is a request's first child, ``follower`` the next child of its
parent.

An engine takes in what has arrived between two iterations. So in these orders a request stands in a list of its own
(*incoming*) until the next boundary, or with asynchronous scheduling until the next whose iteration is composed after
its arrival.
"""

from __future__ import annotations

from apexsim.engine.adapter_order import join_adapter, lead_by_adapter, take_by_adapter
from apexsim.engine.adapters import may_run
from apexsim.engine.fair import join_client, lead, take_client
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import NONE, WAITING, Limits, Rows, State, instant

FCFS, PRIORITY, SHORTEST, FAIR, DEADLINE = 0, 1, 2, 3, 4
ORDERS = {"fcfs": FCFS, "priority": PRIORITY, "shortest-first": SHORTEST, "fair": FAIR, "deadline": DEADLINE}
"""``scheduler.policy`` of a plan."""

BY_ADAPTER = 5
"""First come, first served where adapters take turns (``adapter_order.py``)."""

ABOUT = {
    "fcfs": "first come, first served",
    "priority": "the smallest priority number first; on a KV shortage the largest is preempted (vLLM)",
    "shortest-first": "the shortest prompt first; nobody looks at how long the answer will be",
    "fair": "the client with the fewest weighted tokens served first (VTC)",
    "deadline": "the earliest deadline of a first token first",
}


@kernel
def wait_last(replicas: Rows, requests: Rows, r: int, i: int) -> None:
    """Request i joins the end of the waiting list."""
    tail = replicas[r].waiting_tail
    if tail == NONE:
        replicas[r].waiting_head = i
    else:
        requests[tail].follower = i
    replicas[r].waiting_tail = i
    requests[i].follower = NONE
    requests[i].phase = WAITING
    replicas[r].waiting += 1


@kernel
def wait_first(replicas: Rows, requests: Rows, r: int, i: int) -> None:
    """A preempted request goes before all that wait."""
    head = replicas[r].waiting_head
    requests[i].follower = head
    replicas[r].waiting_head = i
    if head == NONE:
        replicas[r].waiting_tail = i
    requests[i].phase = WAITING
    replicas[r].waiting += 1


@kernel
def take_waiting(replicas: Rows, requests: Rows, r: int) -> int:
    """Remove and return the head of the waiting list."""
    i: int = replicas[r].waiting_head
    replicas[r].waiting_head = requests[i].follower
    if replicas[r].waiting_head == NONE:
        replicas[r].waiting_tail = NONE
    replicas[r].waiting -= 1
    return i


@kernel
def arrive(state: State, limits: Limits, r: int, i: int) -> None:
    """Request i has arrived at replica r and waits."""
    requests, replicas = state.requests, state.replicas
    if limits.order == FCFS:
        wait_last(replicas, requests, r, i)
        return
    if limits.order == DEADLINE:
        state.order.places[i].key = requests[i].arrival_s + state.order.places[i].deadline_s
    tail = replicas[r].incoming_tail
    if tail == NONE:
        replicas[r].incoming_head = i
    else:
        requests[tail].follower = i
    replicas[r].incoming_tail = i
    requests[i].follower = NONE
    requests[i].phase = WAITING
    replicas[r].waiting += 1


@kernel
def may_lead(state: State, limits: Limits, r: int, i: int) -> bool:
    """False only where somebody else is the head of the waiting list, request i having just arrived."""
    head: int = state.replicas[r].waiting_head
    if limits.order == FCFS:
        return bool(head == i)
    if limits.order == BY_ADAPTER:
        return bool(head == NONE and may_run(state, limits, r, i))
    return head == NONE or limits.order == FAIR or precedes(state.order.places, i, head)


@kernel
def comes_back(state: State, limits: Limits, r: int, i: int) -> bool:
    """True where nobody else of request i's client waits: the next boundary says to what its counter is lifted."""
    if limits.order != FAIR:
        return False
    first = r * state.stage_free_s.shape[1]
    return bool(state.order.clients[first, state.order.places[i].client].head == NONE)


@rare_kernel
def join_seen(state: State, limits: Limits, g: int) -> None:
    """Those that have arrived take their places in the order; with ``ahead`` only whom the boundary knows."""
    requests, replicas = state.requests, state.replicas
    r, seen_s = g // state.stage_free_s.shape[1], state.groups[g].seen_s
    i = replicas[r].incoming_head
    while i != NONE and not (limits.ahead and requests[i].arrival_s > seen_s + instant(seen_s)):
        after = requests[i].follower
        join(state, limits, r, i, False)
        i = after
    replicas[r].incoming_head = i
    if i == NONE:
        replicas[r].incoming_tail = NONE
    if limits.order == FAIR:
        lead(state, limits, r)  # tokens were yielded since
    elif limits.order == BY_ADAPTER:
        lead_by_adapter(state, limits, r)  # adapters have come free


@kernel
def join(state: State, limits: Limits, r: int, i: int, again: bool) -> None:
    """Request i takes its place in the order; ``again`` where it was preempted."""
    if limits.order == FAIR:
        join_client(state, limits, r, i, again)
        return
    if limits.order == BY_ADAPTER:
        join_adapter(state, limits, r, i, again)
        return
    state.requests[i].older = NONE
    head = state.replicas[r].waiting_head
    state.replicas[r].waiting_head = i if head == NONE else meld(state.requests, state.order.places, head, i)


@kernel
def wait_again(state: State, limits: Limits, r: int, i: int) -> None:
    """Request i was preempted and waits once more."""
    if limits.order == FCFS:
        wait_first(state.replicas, state.requests, r, i)
        return
    state.requests[i].phase = WAITING
    state.replicas[r].waiting += 1
    join(state, limits, r, i, True)


@kernel
def take_next(state: State, limits: Limits, r: int, admitted: bool) -> None:
    """Remove the head of the waiting list, to be ``admitted`` or not."""
    if limits.order == FCFS:
        take_waiting(state.replicas, state.requests, r)
        return
    state.replicas[r].waiting -= 1
    if limits.order == FAIR:
        take_client(state, limits, r, admitted)
    elif limits.order == BY_ADAPTER:
        take_by_adapter(state, limits, r)
    else:
        head = state.replicas[r].waiting_head
        state.replicas[r].waiting_head = without_root(state.requests, state.order.places, head)


@kernel
def precedes(places: Rows, i: int, j: int) -> bool:
    """True where request i goes before request j."""
    a, b = places[i].key, places[j].key
    return a < b or (a == b and i < j)


@rare_kernel
def meld(requests: Rows, places: Rows, i: int, j: int) -> int:
    """Make one heap of the two with roots i and j; returns its root."""
    if precedes(places, j, i):
        i, j = j, i
    requests[j].follower = requests[i].older
    requests[i].older = j
    return i


@rare_kernel
def without_root(requests: Rows, places: Rows, root: int) -> int:
    """Remove the root of a heap; returns the root of what is left, or NONE."""
    head, pairs = NONE, NONE  # of its children, the last pair first
    i = int(requests[root].older)
    while i != NONE:
        rest = int(NONE)
        if requests[i].follower != NONE:
            j = int(requests[i].follower)
            rest = int(requests[j].follower)
            i = meld(requests, places, i, j)
        requests[i].follower = pairs
        pairs = i
        i = rest
    while pairs != NONE:
        rest = int(requests[pairs].follower)
        head = pairs if head == NONE else meld(requests, places, head, pairs)
        pairs = rest
    return head


@rare_kernel
def least_urgent(state: State, g: int) -> int:
    """The running request of group g with the largest key, of these the last that arrived: whom vLLM preempts."""
    requests, places = state.requests, state.order.places
    last: int = state.groups[g].youngest
    i = requests[last].older
    while i != NONE:
        if precedes(places, last, i):
            last = i
        i = requests[i].older
    return last
