"""Pages of a sequence, and pages that iterations take: ``cost/kvpages.py`` compiled, and its sums over a batch.

Where all layers are alike (``limits.hybrid`` is False) a page is a KV block and a sequence holds ceil(tokens /
block_size) of them. Else ``State.blocks`` has two rows a group: all decoding sequences by (tokens − step) modulo
``limits.cycle``, and after them, by the same, those that are past the window and give pages back.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import NONE, Limits, State


@kernel
def blocks_of(tokens: int, block_size: int) -> int:
    """KV blocks that hold ``tokens`` tokens."""
    return (tokens + block_size - 1) // block_size


@kernel
def pages_of(limits: Limits, past: int, tokens: int) -> int:
    """Pages of a sequence with ``tokens`` tokens, the next of which sees back from the token after ``past``."""
    if not limits.hybrid:
        return blocks_of(tokens, limits.block_size)
    pages = limits.full_groups * blocks_of(tokens, limits.block_size) + limits.state_pages
    if limits.windowed_groups > 0:
        left = max(0, past + 1 - limits.window) // limits.window_block
        pages += limits.windowed_groups * (blocks_of(tokens, limits.window_block) - left)
    return pages


@kernel
def pages_held(limits: Limits, tokens: int) -> int:
    """Pages of a decoding sequence with ``tokens`` tokens in the cache."""
    return pages_of(limits, tokens - 1, tokens)


@kernel
def most_pages(limits: Limits, tokens: int) -> int:
    """Pages that a request of ``tokens`` tokens may hold at a time, whatever its chunks: ``KvPages.most``."""
    pages = blocks_of(tokens, limits.block_size)
    if limits.hybrid:
        pages = limits.full_groups * pages + limits.state_pages
        if limits.windowed_groups > 0:
            most = blocks_of(tokens, limits.window_block)
            if limits.chunked:
                reach = limits.window - 1 + limits.max_num_batched_tokens
                most = min(most, blocks_of(reach, limits.window_block) + 1)
            pages += limits.windowed_groups * most
    return pages


@kernel
def count_pages(state: State, limits: Limits, i: int, sign: int, tokens: int) -> None:
    """Request i, with ``tokens`` tokens, begins (1) or ceases (-1) to decode."""
    g = state.requests[i].group
    where = (state.requests[i].computed - state.requests[i].entry_step) % limits.cycle
    state.blocks[g, where] += sign
    if limits.windowed_groups > 0 and tokens >= limits.window:
        state.blocks[g, limits.cycle + where] += sign


@kernel
def count_past_window(state: State, limits: Limits, i: int) -> None:
    """Decoding request i has filled its window."""
    if limits.windowed_groups > 0 and not limits.reserve:
        where = (state.requests[i].computed - state.requests[i].entry_step) % limits.cycle
        state.blocks[state.requests[i].group, limits.cycle + where] += 1


@kernel
def step_pages(state: State, limits: Limits, g: int, ahead: int) -> int:
    """Pages that the group's iteration takes which comes ``ahead`` after the next, less those that it gives back."""
    step = state.groups[g].step + ahead
    if limits.hybrid:
        return _hybrid_step(state, limits, g, step)
    pages: int = state.blocks[g, -step % limits.block_size]
    return pages


@rare_kernel
def _hybrid_step(state: State, limits: Limits, g: int, step: int) -> int:
    cycle, pages = limits.cycle, 0
    for k in range(-step % limits.block_size, cycle, limits.block_size):
        pages += limits.full_groups * state.blocks[g, k]
    if limits.windowed_groups > 0:
        for k in range(-step % limits.window_block, cycle, limits.window_block):
            pages += limits.windowed_groups * state.blocks[g, k]
        for k in range((limits.window - 1 - step) % limits.window_block, cycle, limits.window_block):
            pages -= limits.windowed_groups * state.blocks[g, cycle + k]
    return pages


@kernel
def _cycle_pages(state: State, limits: Limits, g: int) -> int:
    """Pages that ``limits.cycle`` iterations take in all; never negative."""
    group = state.groups[g]
    pages: int = limits.full_groups * (limits.cycle // limits.block_size) * group.decoding
    if limits.windowed_groups > 0:
        pages += limits.windowed_groups * (limits.cycle // limits.window_block) * group.growing
    return pages


@rare_kernel
def hybrid_steps(state: State, limits: Limits, g: int, steps: int, free: int) -> int:
    """How many of ``steps`` decode iterations, the first of which has its pages, run before pages are missing.

    They also end before an iteration that finds more free pages than there were when the first waiting request was
    refused, since that one may fit then.
    """
    replica = state.replicas[g // state.stage_free_s.shape[1]]
    waits = limits.windowed_groups > 0 and replica.waiting_head != NONE and replica.running < limits.max_num_seqs
    # Where prompts go first, the waiting list was looked at before this iteration took its pages.
    before = 0 if limits.mix else _hybrid_step(state, limits, g, state.groups[g].step)
    if waits and before < 0:
        return 1
    cycle, decoding = limits.cycle, state.groups[g].decoding
    at_most = limits.full_groups * (steps // limits.block_size + 1) * decoding
    at_most += limits.windowed_groups * (steps // limits.window_block + 1) * decoding
    if not waits and at_most <= free:
        return steps
    each = _cycle_pages(state, limits, g)
    taken, done = 0, 1
    while done < steps:
        high, within = 0, 0
        last = min(cycle, steps - done)
        for j in range(last):
            seen = taken + within + before
            within += _hybrid_step(state, limits, g, state.groups[g].step + done + j)
            high = max(high, within)
            if limits.mix:
                seen = taken + within
            if taken + within > free or (waits and seen < 0):
                return done + j
        done += last
        taken += within
        if last == cycle:
            # All cycles are alike: as many as fit whole, whatever happens within one.
            whole = (steps - done) // cycle
            if each > 0:
                whole = min(whole, max(0, (free - taken - high) // each))
            done += whole * cycle
            taken += whole * each
    return done


@rare_kernel
def hybrid_taken(state: State, limits: Limits, g: int, steps: int) -> tuple[int, int]:
    """Pages that the iterations 2 to ``steps`` of a series take in all, and the most at a time."""
    whole = max(0, (steps - 1) // limits.cycle - 1)
    taken = whole * _cycle_pages(state, limits, g)
    most = taken
    for j in range(1 + whole * limits.cycle, steps):
        taken += _hybrid_step(state, limits, g, state.groups[g].step + j)
        most = max(most, taken)
    return taken, most
