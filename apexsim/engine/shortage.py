"""KV blocks run short in a batch that decodes: who takes the last ones, and who gives his back.

Sequences take their block in the order of their admission, as vLLM's scheduler does, and one that finds none preempts
the youngest, or the least urgent. With a prefix cache the order shows: those before the shortage evict what is
cached, those after it find what the preempted ones left. Pages that a window has left go before anybody takes one.
"""

from __future__ import annotations

from apexsim.cost.tables import StepTables
from apexsim.engine.batch import preempt, tokens_held
from apexsim.engine.jit import rare_kernel
from apexsim.engine.kvcache import take_blocks
from apexsim.engine.order import PRIORITY, least_urgent
from apexsim.engine.pages import pages_held, pages_of
from apexsim.engine.speculation import lookahead_blocks
from apexsim.engine.state import DECODING, NONE, Limits, State


@rare_kernel
def take_in_turn(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """Each decoding sequence of group g takes the blocks of its next iteration, the longest admitted first."""
    requests = state.requests
    r = g // state.stage_free_s.shape[1]
    if limits.hybrid:
        give_unseen_back(state, limits, g)
    i = oldest_of(state, g)
    while i != NONE:
        after, lost = requests[i].younger, False
        more = blocks_lacking(state, limits, i)
        while more > limits.kv_blocks - state.replicas[r].used_blocks and not lost:
            lost = preempt_in_turn(state, tables, limits, g, i) == i
            if not lost:
                after = requests[i].younger
        if not lost and more > 0:
            take_blocks(state, limits, r, more)
            if state.drafts.size > 0:
                requests[i].blocks += more
        i = after


@rare_kernel
def give_unseen_back(state: State, limits: Limits, g: int) -> None:
    """Each decoding sequence of group g gives back the pages that its next token does not see."""
    i = oldest_of(state, g)
    while i != NONE:
        if state.requests[i].phase == DECODING:
            state.replicas[g // state.stage_free_s.shape[1]].used_blocks -= unseen_pages(state, limits, i)
            if state.drafts.size > 0:
                state.requests[i].blocks -= unseen_pages(state, limits, i)
        i = state.requests[i].younger


@rare_kernel
def unseen_pages(state: State, limits: Limits, i: int) -> int:
    """Pages of decoding request i that its next token does not see, those that its drafts left empty among them."""
    tokens = tokens_held(state.requests, state.groups, i)
    held: int = state.requests[i].blocks if state.drafts.size > 0 else pages_held(limits, tokens)
    return held - pages_of(limits, tokens, tokens)


@rare_kernel
def preempt_in_turn(state: State, tables: StepTables, limits: Limits, g: int, i: int) -> int:
    """Preempt the youngest or least urgent of group g, whose request i finds no block in its turn; returns it."""
    victim: int = least_urgent(state, g) if limits.order == PRIORITY else state.groups[g].youngest
    served = is_older(state, victim, i)
    if limits.hybrid and state.drafts.size == 0 and state.requests[victim].phase == DECODING and not served:
        # It has given back already what a preemption takes from it.
        state.replicas[g // state.stage_free_s.shape[1]].used_blocks += unseen_pages(state, limits, victim)
    preempt(state, tables, limits, g, 1 if served else 0)
    return victim


@rare_kernel
def oldest_of(state: State, g: int) -> int:
    """The running request of group g that was admitted first."""
    i: int = state.groups[g].youngest
    while i != NONE and state.requests[i].older != NONE:
        i = state.requests[i].older
    return i


@rare_kernel
def is_older(state: State, i: int, j: int) -> bool:
    """True where request i was admitted to the batch of request j before it."""
    j = state.requests[j].older
    while j != NONE and j != i:
        j = state.requests[j].older
    return j == i


@rare_kernel
def blocks_lacking(state: State, limits: Limits, i: int) -> int:
    """KV blocks that request i lacks for its next iteration; 0 where it does not decode."""
    if state.requests[i].phase != DECODING:
        return 0
    if state.drafts.size > 0:
        return int(lookahead_blocks(state, limits, i) - state.requests[i].blocks)
    tokens = tokens_held(state.requests, state.groups, i)
    return pages_held(limits, tokens + 1) - pages_of(limits, tokens, tokens)
