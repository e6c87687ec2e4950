"""Fair scheduling by a virtual token counter a client (VTC; Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024, algorithm 2).

A client's counter is what a replica has served it: ``input_weight`` for each token of the prompts that it began, and
``output_weight`` for each token that it yielded. The waiting client with the smallest counter is the next to have a
request admitted, its first; ties go by the client's code. A client that comes back to the waiting list is lifted to the
smallest counter of those that wait there, or where nobody waits to that of the last that left it, so that no time of
absence is saved up.

Counters are exact integers. Sequences that decode are counted by client, and the tokens they yielded are added when
their number changes or the counter is read, never token by token. The clients that wait stand in a heap by what their
counters were when they were last looked at. Counters only grow, so the first of the heap is looked at again until it
stands there with its true value.

Nothing here does anything under another order.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import NONE, Limits, Rows, State


@kernel
def charge(state: State, g: int, i: int, tokens: int) -> None:
    """Request i of group g was served ``tokens`` weighted tokens."""
    clients = state.order.clients
    c = state.order.places[i].client
    clients[g, c].counter += tokens


@kernel
def count_decoding(state: State, limits: Limits, g: int, i: int, change: int) -> None:
    """One sequence more (1) or fewer (-1) of the client of request i decodes in group g."""
    clients, step = state.order.clients, state.groups[g].step
    c = state.order.places[i].client
    clients[g, c].counter += limits.output_weight * clients[g, c].decoding * (step - clients[g, c].step)
    clients[g, c].step = step
    clients[g, c].decoding += change


@kernel
def counter(state: State, limits: Limits, r: int, c: int) -> int:
    """Weighted tokens that replica r has served client c by the last iterations that ended."""
    clients, groups = state.order.clients, state.groups
    stages = state.stage_free_s.shape[1]
    total = 0
    for g in range(r * stages, (r + 1) * stages):
        yielded = clients[g, c].decoding * (groups[g].step - clients[g, c].step)
        total += clients[g, c].counter + limits.output_weight * yielded
    return total


@rare_kernel
def lead(state: State, limits: Limits, r: int) -> None:
    """The first request of the client with the smallest counter is the head of the waiting list."""
    clients, replicas = state.order.clients, state.replicas
    first = r * state.stage_free_s.shape[1]
    while replicas[r].clients > 0:
        c = clients[first, 0].queued
        now = counter(state, limits, r, c)
        if now == clients[first, c].key:
            break
        clients[first, c].key = now
        sift_down(clients, first, replicas[r].clients, 0)
    if replicas[r].clients == 0:
        replicas[r].waiting_head = NONE
    else:
        replicas[r].waiting_head = clients[first, clients[first, 0].queued].head


@rare_kernel
def join_client(state: State, limits: Limits, r: int, i: int, again: bool) -> None:
    """Request i waits at replica r behind those of its client, or before them where it was preempted (``again``)."""
    requests, clients = state.requests, state.order.clients
    first = r * state.stage_free_s.shape[1]
    c = state.order.places[i].client
    requests[i].follower = NONE
    if clients[first, c].head == NONE:
        lift(state, limits, r, c)
        clients[first, c].head = i
        clients[first, c].tail = i
        push(state, limits, r, c)
    elif again:
        requests[i].follower = clients[first, c].head
        clients[first, c].head = i
    else:
        requests[clients[first, c].tail].follower = i
        clients[first, c].tail = i
    lead(state, limits, r)


@rare_kernel
def lift(state: State, limits: Limits, r: int, c: int) -> None:
    """Client c comes back to the waiting list: it has saved nothing up while it was away."""
    replicas, clients = state.replicas, state.order.clients
    first = r * state.stage_free_s.shape[1]
    other = replicas[r].last_client
    if replicas[r].clients > 0:
        lead(state, limits, r)
        other = clients[first, 0].queued
    if other != NONE:
        missing = counter(state, limits, r, other) - counter(state, limits, r, c)
        clients[first, c].counter += max(0, missing)


@rare_kernel
def take_client(state: State, limits: Limits, r: int, admitted: bool) -> None:
    """Remove the head of the waiting list; its client is charged for its prompt where it is ``admitted``."""
    requests, clients, replicas = state.requests, state.order.clients, state.replicas
    first = r * state.stage_free_s.shape[1]
    c = clients[first, 0].queued
    i = clients[first, c].head
    if admitted and requests[i].preemptions == 0:
        charge(state, first, i, limits.input_weight * requests[i].prompt)
    clients[first, c].head = requests[i].follower
    if clients[first, c].head == NONE:
        replicas[r].clients -= 1
        replicas[r].last_client = c
        clients[first, 0].queued = clients[first, replicas[r].clients].queued
        sift_down(clients, first, replicas[r].clients, 0)
    lead(state, limits, r)


@kernel
def push(state: State, limits: Limits, r: int, c: int) -> None:
    """Put client c into the heap of those that wait at replica r."""
    clients, replicas = state.order.clients, state.replicas
    first = r * state.stage_free_s.shape[1]
    clients[first, c].key = counter(state, limits, r, c)
    k = replicas[r].clients
    replicas[r].clients += 1
    while k > 0:
        parent = (k - 1) >> 1
        above = clients[first, parent].queued
        if precedes(clients, first, above, c):
            break
        clients[first, k].queued = above
        k = parent
    clients[first, k].queued = c


@rare_kernel
def sift_down(clients: Rows, first: int, size: int, k: int) -> None:
    """Put the client at place k of the heap to where its key belongs."""
    if k >= size:
        return
    c = clients[first, k].queued
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        below = clients[first, child].queued
        if child + 1 < size and precedes(clients, first, clients[first, child + 1].queued, below):
            child += 1
            below = clients[first, child].queued
        if precedes(clients, first, c, below):
            break
        clients[first, k].queued = below
        k = child
    clients[first, k].queued = c


@kernel
def precedes(clients: Rows, first: int, a: int, b: int) -> bool:
    """True where client a stands before client b."""
    x, y = clients[first, a].key, clients[first, b].key
    return x < y or (x == y and a < b)


@rare_kernel
def steps_to_overtake(state: State, limits: Limits, r: int) -> int:
    """Iterations of the series that begins now at replica r, of one stage, in which its waiting head stays the same."""
    clients, size = state.order.clients, state.replicas[r].clients
    c = clients[r, 0].queued
    rate = limits.output_weight * clients[r, c].decoding
    if size < 2 or rate == 0:
        return 1 << 40
    second = clients[r, clients[r, 1].queued].key
    if size > 2:
        second = min(second, clients[r, clients[r, 2].queued].key)
    # What stands in the heap is never more than the counter is, so at worst this is too early.
    return max(1, int((second - clients[r, c].key + rate - 1) // rate))
