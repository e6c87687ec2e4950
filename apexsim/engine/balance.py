"""Prompts held back until every attention rank has one: TensorRT-LLM's ``attention_dp_config``.

One rank's prompt makes the iteration of all ranks a long one, so that ranks better compute their prompts together. At
each boundary, where some rank has no prompt to compute (or no place for one more sequence), none of them computes any;
after ``timeout_iters`` such iterations, or where some rank decodes nothing, they do all the same. Where every rank has
one, they wait ``batching_wait_iters`` iterations more, for fuller batches. Iterations are counted whether or not
anybody waits, as in TensorRT-LLM (``PyExecutor._balance_adp_requests``).
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.admission import admission_blocks, first_chunk, unseen
from apexsim.engine.batch import known
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.law import NEVER
from apexsim.engine.replica import schedule_decodes
from apexsim.engine.state import NONE, Limits, State


@kernel
def has_prompt(state: State, limits: Limits, g: int) -> bool:
    """True where rank g could compute a chunk at this boundary: of a prompt that was begun, or of the first waiting."""
    groups, replica = state.groups, state.replicas[g]
    if groups[g].decoding + groups[g].prefills == 0:
        groups[g].seen_s = np.inf  # there was nothing to compose ahead
    budget = limits.max_num_batched_tokens
    if not limits.free_decodes:
        budget -= groups[g].decoding * (state.drafts.size + 1)
    if budget <= 0 or groups[g].prefills > 0:
        return budget > 0
    i = replica.waiting_head
    if i == NONE or replica.running >= limits.max_num_seqs or unseen(state, limits, g):
        return False
    _, found, shared = known(state, limits, g, i)
    chunk = first_chunk(state, limits, i, found, budget, True)
    blocks = admission_blocks(state, limits, i, found, found + chunk)
    return chunk > 0 and blocks - shared <= limits.kv_blocks - replica.used_blocks


@rare_kernel
def hold_prompts(state: State, tables: StepTables, limits: Limits, first: int) -> tuple[bool, int]:
    """Whether no rank of the group computes a prompt in the iteration that is due, and counts it.

    Also returns iterations, this one among them, after which that is looked at again.
    """
    groups, count = state.groups, state.groups[first]
    everyone, anyone, decoding, places = True, False, True, True
    for g in range(first, first + tables.group.ranks):
        found = has_prompt(state, limits, g)
        everyone, anyone = everyone and found, anyone or found
        decoding = decoding and groups[g].decoding > 0
        places = places and groups[g].decoding < limits.max_num_seqs
    count.counted = 0
    # Blocks that decodes take may be those that the first who waits would need.
    again = 1 if anyone and not limits.reserve else NEVER
    if everyone and places:
        count.waited = 0
        if not decoding:
            return False, 1
        if count.batched < limits.batching_wait_iters:
            count.batched, count.counted = count.batched + 1, 2
            return True, min(again, limits.batching_wait_iters - count.batched + 1)
        count.batched = 0
        return False, 1
    count.waited += 1
    if count.waited >= limits.timeout_iters or not decoding:
        count.waited = 0
        count.counted = 1 if decoding else 0
        return False, again
    count.counted = 1
    return True, min(again, limits.timeout_iters - count.waited) if anyone else NEVER


@kernel
def count_series(state: State, limits: Limits, first: int) -> None:
    """The iterations of a series after its first, which ``hold_prompts`` has counted."""
    count = state.groups[first]
    more = count.steps - 1
    if count.counted == 1:
        count.waited = (count.waited + more) % max(limits.timeout_iters, 1)
    elif count.counted == 2:
        count.batched += more


@rare_kernel
def compose_decodes(state: State, tables: StepTables, limits: Limits, g: int) -> tuple[int, bool, int]:
    """``replica.compose`` of a rank whose prompts are held back."""
    groups = state.groups
    preempted = schedule_decodes(state, tables, limits, g)
    for j in range(groups[g].prefills):
        state.begun[g, j].tokens = 0
    groups[g].decoded = 1 if groups[g].decoding > 0 else 0
    return 0, preempted, state.replicas[g].oldest
