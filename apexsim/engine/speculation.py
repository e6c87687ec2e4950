"""Speculative decoding: what a step of k drafts a sequence yields, and what it holds.

Each step verifies k drafts of every decoding sequence. Those before the first that is rejected are accepted, and the
model's own token follows them: 1 to k + 1 tokens, out at one instant. Draft j is accepted with the probability
``State.drafts[j].acceptance``, given that all before it were (Leviathan et al., ICML 2023, section 3.1). Whether it is,
hangs on the seed, the request and the place of the token in its answer alone: neither the replica, nor who else is in
the batch, nor a preemption changes the draw.

Sequences progress at different rates. So there is no closed form: the group goes step by step, and each step is one
loop over its sequences. The group's ``step`` stands still; ``computed``, ``generated`` and ``blocks`` of a request
are up to date instead. Nothing here runs without drafts.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.fair import charge
from apexsim.engine.gaps import record_run
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import by_admission
from apexsim.engine.order import FAIR
from apexsim.engine.pages import pages_of
from apexsim.engine.state import DECODING, NONE, Limits, State

WORD = 0xFFFFFFFF


@kernel
def scrambled(word: int) -> int:
    """A 32-bit word of which every bit hangs on every bit of ``word``; products stay below 2^63."""
    word = (word + 0x9E3779B9) & WORD
    word = ((word ^ (word >> 16)) * 0x45D9F3B) & WORD
    word = ((word ^ (word >> 16)) * 0x45D9F3B) & WORD
    return word ^ (word >> 16)


@kernel
def chance(seed: int, request: int, place: int) -> float:
    """Uniform in [0, 1), and the same whenever it is asked for: a hash of what it is for, no stream of numbers."""
    word = scrambled(scrambled(seed & WORD) ^ (seed >> 32))
    return scrambled(scrambled(word ^ request) ^ place) / 4294967296.0


@rare_kernel
def step_tokens(state: State, i: int) -> int:
    """Tokens that a step of request i yields: accepted drafts and one more, never beyond what it asked for."""
    requests, drafts = state.requests, state.drafts
    place = requests[i].generated
    tokens, most = 1, min(drafts.size + 1, requests[i].output - place)
    while tokens < most and chance(drafts[0].seed, i, place + tokens - 1) < drafts[tokens - 1].acceptance:
        tokens += 1
    return tokens


@kernel
def speculate(state: State, tables: StepTables, g: int, i: int, now: float) -> None:
    """Request i decodes from now on, its first token (or that of a recomputed prompt) is out."""
    requests, groups = state.requests, state.groups
    requests[i].last_token_s = now
    groups[g].decoding += 1
    groups[g].kv += requests[i].computed
    if tables.window > 0:
        groups[g].kv_windowed += min(requests[i].computed, tables.window)
        groups[g].growing += requests[i].computed < tables.window


@kernel
def stop_speculating(state: State, tables: StepTables, i: int) -> float:
    """Take request i out of the group's sums; returns when its last token came."""
    requests, groups = state.requests, state.groups
    g, tokens = requests[i].group, requests[i].computed
    groups[g].decoding -= 1
    groups[g].kv -= tokens
    if tables.window > 0:
        groups[g].kv_windowed -= min(tokens, tables.window)
        groups[g].growing -= tokens < tables.window
    last_token_s: float = requests[i].last_token_s
    return last_token_s


@kernel
def lookahead_blocks(state: State, limits: Limits, i: int) -> int:
    """KV blocks of request i in its next step: room for every draft, whether it will be accepted or not."""
    tokens = state.requests[i].computed
    return min(pages_of(limits, tokens, tokens + state.drafts.size + 1), limits.kv_blocks)


@rare_kernel
def blocks_for_drafts(state: State, limits: Limits, g: int, taken: bool) -> int:
    """Blocks that the group's sequences lack for their next step, less what windows give back; with ``taken`` they
    hold them from now on."""
    requests = state.requests
    lacking = 0
    i = state.groups[g].youngest
    while i != NONE:
        if requests[i].phase == DECODING:
            more = lookahead_blocks(state, limits, i) - requests[i].blocks
            lacking += more
            if taken:
                requests[i].blocks += more
        i = requests[i].older
    return lacking


@rare_kernel
def accept_drafts(state: State, tables: StepTables, limits: Limits, g: int) -> None:
    """A step has ended: every sequence yields its tokens. The first of them closes a gap, the others follow at once."""
    requests, groups = state.requests, state.groups
    together, accepted = 0, 0
    i = groups[g].youngest
    while i != NONE:
        if requests[i].phase == DECODING:
            tokens = step_tokens(state, i)
            # The duration itself where it is the gap: a difference of two late instants has lost digits.
            gap = groups[g].duration_s
            if requests[i].last_token_s == groups[g].begin_s:
                together += 1
            else:
                gap = groups[g].end_s - requests[i].last_token_s
                record_run(state, gap, 0.0, 1, 1)
            requests[i].itl_max_s = np.fmax(requests[i].itl_max_s, gap)
            stop_speculating(state, tables, i)
            requests[i].computed += tokens
            requests[i].generated += tokens
            speculate(state, tables, g, i, groups[g].end_s)
            accepted += tokens - 1
            if limits.order == FAIR:
                charge(state, g, i, limits.output_weight * tokens)
        i = requests[i].older
    if together > 0:
        record_run(state, groups[g].duration_s, 0.0, 1, together)
    if accepted > 0:
        record_run(state, 0.0, 0.0, 1, accepted)
    state.replicas[g // state.stage_free_s.shape[1]].accepted_tokens += accepted


@rare_kernel
def sequences_at_their_end(state: State, tables: StepTables, limits: Limits, g: int) -> int:
    """Sequences that have yielded all they were asked for, as a list by ``follower`` in the order of admission."""
    requests = state.requests
    leaving = NONE
    i = state.groups[g].youngest
    while i != NONE:
        if requests[i].phase == DECODING and requests[i].generated == requests[i].output:
            stop_speculating(state, tables, i)
            leaving = by_admission(state, limits, leaving, i)
        i = requests[i].older
    return leaving
