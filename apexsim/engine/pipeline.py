"""Prompts in a pipeline: their next chunk follows through the stages while the ones before are still in flight.

A prompt that was begun and has tokens left belongs to no batch: it stands in the replica's list of open prompts, in
the order of admission, and the batch that is composed next takes it over for one iteration. The stages work in
order, so a chunk is in every stage after the one before it. The batch of the last chunk keeps the request.
What is in flight counts as computed here: whoever is scheduled later goes through the stages later.
"""

from __future__ import annotations

from apexsim.engine.batch import join_batch, leave_batch, target
from apexsim.engine.jit import kernel
from apexsim.engine.kvcache import settle
from apexsim.engine.state import NONE, Limits, State


@kernel
def is_full(state: State, limits: Limits, g: int) -> bool:
    """True where the group has as many requests as one batch may hold."""
    requests: int = state.groups[g].decoding + state.groups[g].prefills
    return requests >= limits.max_batch_seqs


@kernel
def take_open(state: State, limits: Limits, g: int) -> None:
    """The group takes the open prompts of its replica over, the first ones where it has not room for all."""
    requests, groups, replicas = state.requests, state.groups, state.replicas
    r = g // state.stage_free_s.shape[1]
    while replicas[r].open_head != NONE and not is_full(state, limits, g):
        i = replicas[r].open_head
        replicas[r].open_head = requests[i].follower
        join_batch(state, g, i)
        j = groups[g].prefills
        state.begun[g, j].request = i
        state.begun[g, j].tokens = 0
        groups[g].prefills = j + 1


@kernel
def leave_open(state: State, limits: Limits, g: int) -> None:
    """The group's chunks are under way: prompts with tokens left are open again, before those it had no room for."""
    requests, groups, replicas, begun = state.requests, state.groups, state.replicas, state.begun
    r = g // state.stage_free_s.shape[1]
    for j in range(groups[g].prefills - 1, -1, -1):
        i = begun[g, j].request
        if requests[i].computed + begun[g, j].tokens < target(requests, i):
            leave_batch(state, i)
            requests[i].follower = replicas[r].open_head
            replicas[r].open_head = i
    kept = 0
    for j in range(groups[g].prefills):
        i = begun[g, j].request
        requests[i].computed += begun[g, j].tokens
        settle(state, limits, r, i)
        if requests[i].computed == target(requests, i):
            begun[g, kept].request = i
            kept += 1
    groups[g].prefills = kept
