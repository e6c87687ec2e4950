"""Requests whose KV has come from another pool join the batch: they decode at once, nothing of them is prefilled."""

from __future__ import annotations

from apexsim.cost.tables import StepTables
from apexsim.engine.batch import start_decoding, start_running
from apexsim.engine.handover import unseen_received
from apexsim.engine.jit import rare_kernel
from apexsim.engine.pipeline import is_full
from apexsim.engine.state import NONE, Limits, State


@rare_kernel
def admit_received(state: State, tables: StepTables, limits: Limits, g: int, budget: int, now: float) -> int:
    """Start those whose KV has come, in the order of its coming, while there are seats; returns the budget left.

    Their first token is out, so the gap before the next one began with it. They hold the block of this iteration.
    """
    requests, replicas = state.requests, state.replicas
    r = g // state.stage_free_s.shape[1]
    each = 0 if limits.free_decodes or not limits.mix else state.drafts.size + 1
    while budget >= max(each, 1) and replicas[r].received_head != NONE and replicas[r].running < limits.max_num_seqs:
        if is_full(state, limits, g) or unseen_received(state, limits, g):
            break
        i = take_received(state, r)
        requests[i].start_s = max(now, requests[i].last_token_s)
        start_running(state, g, i)
        requests[i].computed = requests[i].prompt
        requests[i].generated = 1
        start_decoding(state, tables, limits, g, i, requests[i].first_token_s if state.drafts.size > 0 else now)
        if state.drafts.size == 0:
            requests[i].late = 1
            state.groups[g].late += 1
        budget -= each
    return budget


@rare_kernel
def take_received(state: State, r: int) -> int:
    """Remove and return the head of those whose KV has come."""
    requests, replicas = state.requests, state.replicas
    i: int = replicas[r].received_head
    replicas[r].received_head = requests[i].follower
    if replicas[r].received_head == NONE:
        replicas[r].received_tail = NONE
    replicas[r].waiting -= 1
    replicas[r].coming -= 1
    return i
