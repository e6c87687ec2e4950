"""The two ends of a transfer between pools: what a replica leaves for another, and what it receives.

*Leaving.* A prefill-only replica keeps the blocks of a prompt that it has computed until its KV is where it decodes.
Meanwhile the request runs no more, and nobody can have its blocks.

*Receiving.* A decode-only replica takes a request off its waiting list when it has the blocks of the whole prompt
(*reserved*); when the KV has come (*received*) the request joins the next batch that has a seat, before all that wait.

What happens is written into the state's outbox; who joins pools (``coupled.py``) empties it at once.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import release, take_blocks
from apexsim.engine.order import take_next
from apexsim.engine.pages import most_pages, pages_of
from apexsim.engine.result import COMPLETED
from apexsim.engine.state import DONE, NONE, RECEIVED, RESERVED, Limits, State, instant

LEFT, TAKEN, BEGUN = 0, 1, 2
"""Kinds of events: a request has left a replica, its blocks are reserved, a chunk of it has begun."""


@kernel
def whole_blocks(state: State, limits: Limits, i: int) -> int:
    """KV blocks that request i may hold at a time, its whole answer included: what a policy that reserves takes."""
    whole = state.requests[i].prompt + state.requests[i].output - 1 + state.drafts.size
    return min(most_pages(limits, whole), limits.kv_blocks)


@kernel
def tell(state: State, kind: int, i: int, tokens: int) -> None:
    """Write an event into the outbox."""
    row = state.filled[2]
    state.outbox[row].kind = kind
    state.outbox[row].request = i
    state.outbox[row].tokens = tokens
    state.filled[2] = row + 1


@rare_kernel
def hand_over(state: State, r: int, i: int, blocks: int, tokens: int) -> None:
    """Request i, which runs no more, has done here what it came for; its ``blocks`` stay where they are."""
    requests, replicas = state.requests, state.replicas
    requests[i].blocks, requests[i].computed = blocks, tokens
    requests[i].phase = DONE
    replicas[r].prompt_tokens -= requests[i].prompt
    replicas[r].full = 0
    tell(state, LEFT, i, tokens)


@rare_kernel
def let_go(state: State, limits: Limits, r: int, i: int) -> None:
    """What request i left at replica r is no longer needed: its blocks are free."""
    requests, replicas = state.requests, state.replicas
    replicas[r].used_blocks -= requests[i].blocks
    release(state, limits, r, i, requests[i].computed)
    requests[i].blocks = 0
    replicas[r].full = 0  # as where a request ends: whoever was preempted may find room now


@rare_kernel
def end_here(state: State, r: int, i: int) -> None:
    """Request i needs no other pool: it has all of its tokens."""
    state.requests[i].status = COMPLETED
    state.replicas[r].ended += 1


@kernel
def comes_from_elsewhere(state: State, limits: Limits, i: int) -> bool:
    """True where waiting request i needs the KV that another pool has; who was preempted is recomputed."""
    return limits.receives and state.requests[i].preemptions == 0


@kernel
def blocks_to_receive(state: State, limits: Limits, i: int) -> int:
    """KV blocks that request i must have here before its KV may come: of its prompt, and of the first decode iteration.

    Where decodes are scheduled last (``mix`` is False) these take that one themselves.
    """
    if limits.reserve:
        return whole_blocks(state, limits, i)
    prompt = state.requests[i].prompt
    if not limits.mix:
        return pages_of(limits, prompt - 1, prompt)
    return min(pages_of(limits, prompt, prompt + state.drafts.size + 1), limits.kv_blocks)


@rare_kernel
def reserve(state: State, limits: Limits, r: int, i: int) -> None:
    """Waiting request i, whose turn it is at replica r, has its blocks, and its KV may come."""
    take_next(state, limits, r, True)
    blocks = blocks_to_receive(state, limits, i)
    take_blocks(state, limits, r, blocks)
    state.requests[i].blocks = blocks
    state.requests[i].phase = RESERVED
    state.replicas[r].waiting += 1  # it still waits, though not in the list
    state.replicas[r].coming += 1
    tell(state, TAKEN, i, 0)


@rare_kernel
def receive(state: State, r: int, i: int, token_s: float, now: float) -> None:
    """The KV of request i is at replica r; its first token was out at ``token_s``."""
    requests, replicas = state.requests, state.replicas
    requests[i].phase = RECEIVED
    requests[i].last_token_s = now  # until it decodes: when it came
    requests[i].first_token_s = token_s
    requests[i].follower = NONE
    tail = replicas[r].received_tail
    if tail == NONE:
        replicas[r].received_head = i
    else:
        requests[tail].follower = i
    replicas[r].received_tail = i


@kernel
def all_away(state: State, limits: Limits, g: int) -> bool:
    """True where nobody runs, though others have blocks here: a preemption keeps nobody out then."""
    return limits.receives and state.replicas[g // state.stage_free_s.shape[1]].running == 0


@kernel
def unseen_received(state: State, limits: Limits, g: int) -> bool:
    """True where KV came after the iteration that is now due was composed."""
    i = state.replicas[g // state.stage_free_s.shape[1]].received_head
    if not limits.ahead or i == NONE:
        return False
    seen_s = state.groups[g].seen_s
    return bool(state.requests[i].last_token_s > seen_s + instant(seen_s))


@kernel
def tell_chunks(state: State, g: int) -> None:
    """The chunks of the iteration that group g has set off."""
    for j in range(state.groups[g].prefills):
        if state.begun[g, j].tokens > 0:
            tell(state, BEGUN, state.begun[g, j].request, state.begun[g, j].tokens)
