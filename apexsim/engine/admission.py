"""Who of those that wait at a replica is in its next iteration."""

from __future__ import annotations

import numpy as np

from apexsim.engine.adapters import missing_blocks, use_adapter
from apexsim.engine.batch import known, start_running, target
from apexsim.engine.handover import blocks_to_receive, comes_from_elsewhere, reserve, whole_blocks
from apexsim.engine.jit import kernel
from apexsim.engine.kvcache import hold, take_blocks
from apexsim.engine.order import FCFS, take_next
from apexsim.engine.pages import pages_of
from apexsim.engine.pipeline import is_full
from apexsim.engine.shedding import drop, is_hopeless
from apexsim.engine.state import NONE, Limits, State, instant
from apexsim.engine.swap import in_swap_space, swap_in


@kernel
def admission_blocks(state: State, limits: Limits, i: int, found: int, tokens: int) -> int:
    """KV blocks that waiting request i needs to begin, its first chunk going from ``found`` to ``tokens``."""
    if limits.reserve:
        return whole_blocks(state, limits, i)
    return pages_of(limits, found, tokens)


@kernel
def first_chunk(state: State, limits: Limits, i: int, found: int, budget: int, batch_is_empty: bool) -> int:
    """Tokens of waiting request i, after ``found``, that the next iteration could compute; 0 where it has to wait."""
    tokens = target(state.requests, i) - found
    if limits.chunked:
        return min(tokens, budget, limits.longest_chunk)
    # Uncut prompts longer than the budget could never run, so the first of an iteration always may.
    return tokens if tokens <= budget or batch_is_empty else 0


@kernel
def admit(state: State, limits: Limits, g: int, budget: int, now: float) -> None:
    """Start waiting requests, in their order, while they fit."""
    requests, groups, replicas = state.requests, state.groups, state.replicas
    r = g // state.stage_free_s.shape[1]
    while budget > 0 and replicas[r].waiting_head != NONE and replicas[r].running < limits.max_num_seqs:
        i = replicas[r].waiting_head
        if is_full(state, limits, g) or (limits.order == FCFS and unseen(state, limits, g)):
            break
        if is_hopeless(state, limits, i, now):
            drop(state, limits, r, now)
            continue
        if comes_from_elsewhere(state, limits, i):
            if blocks_to_receive(state, limits, i) > limits.kv_blocks - replicas[r].used_blocks:
                break
            if limits.seat_first and replicas[r].running + replicas[r].coming >= limits.max_num_seqs:
                break
            reserve(state, limits, r, i)
            continue
        units, found, shared = known(state, limits, r, i)
        chunk = first_chunk(state, limits, i, found, budget, groups[g].prefills == 0)
        blocks = admission_blocks(state, limits, i, found, found + chunk)
        more = blocks - shared + missing_blocks(state, limits, r, i)
        if chunk == 0 or more > limits.kv_blocks - replicas[r].used_blocks:
            break
        use_adapter(state, limits, r, i, now)
        take_next(state, limits, r, True)
        swapped = in_swap_space(state, limits, i)
        hold(state, limits, r, i, units, found)
        take_blocks(state, limits, r, more)
        start_running(state, g, i)
        requests[i].blocks, requests[i].computed = blocks, found
        if swapped:
            swap_in(state, limits, r, i)
        if np.isnan(requests[i].start_s):
            # A boundary within one instant before the arrival counts as after it.
            requests[i].start_s = max(now, requests[i].arrival_s)
        j = groups[g].prefills
        state.begun[g, j].request = i
        state.begun[g, j].tokens = chunk
        groups[g].prefills = j + 1
        budget -= chunk


@kernel
def unseen(state: State, limits: Limits, g: int) -> bool:
    """True where the first waiting request came after the iteration that is now due was composed."""
    if not limits.ahead:
        return False
    r, seen_s = g // state.stage_free_s.shape[1], state.groups[g].seen_s
    i = state.replicas[r].waiting_head if limits.order == FCFS else state.replicas[r].incoming_head
    return i != NONE and state.requests[i].arrival_s > seen_s + instant(seen_s)
