"""Preemption by swap: a victim's blocks go to host memory and come back before it goes on.

A request that was swapped out waits with its number of computed tokens. When it is admitted again it needs blocks for
all of them, as if they had been found, and computes what is left: a sequence that decoded one token, a prompt that was
begun the rest of it. What the device's prefix cache still has of it is not copied. Where the swap space is full, a
victim is recomputed.

Nothing here does anything where preemption recomputes.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import find, settle
from apexsim.engine.pages import blocks_of
from apexsim.engine.state import Limits, State


@kernel
def in_swap_space(state: State, limits: Limits, i: int) -> bool:
    """True where waiting request i was swapped out."""
    return limits.swap_blocks > 0 and state.requests[i].computed > 0


@kernel
def resumed(state: State, limits: Limits, r: int, i: int, tokens: int) -> tuple[int, int, int]:
    """What waiting request i of ``tokens`` tokens need not compute: as ``find``; swapped out, all that it had."""
    out = in_swap_space(state, limits, i)
    saved = state.requests[i].computed
    units, found, shared = find(state, limits, r, i, saved + 1 if out else tokens, 0 if out else limits.tiers)
    return units, saved if out else found, shared


@rare_kernel
def swap_out(state: State, limits: Limits, r: int, i: int, tokens: int) -> int:
    """Preempted request i with ``tokens`` computed tokens leaves the device; returns how many of them are kept."""
    replicas = state.replicas
    blocks = blocks_of(tokens, limits.block_size)
    if blocks == 0 or replicas[r].swapped_blocks + blocks > limits.swap_blocks:
        return 0
    replicas[r].swapped_blocks += blocks
    replicas[r].swaps += 1
    copy(state, limits, r, blocks)
    return tokens


@rare_kernel
def swap_in(state: State, limits: Limits, r: int, i: int) -> None:
    """Request i is admitted again, and has its blocks: its tokens come back, less those of units that it holds."""
    blocks = blocks_of(state.requests[i].computed, limits.block_size)
    state.replicas[r].swapped_blocks -= blocks
    if limits.prefix_caching:
        blocks = max(0, blocks - state.cache.prefixes[i].settled_tokens // limits.block_size)
    copy(state, limits, r, blocks)
    settle(state, limits, r, i)


@rare_kernel
def copy(state: State, limits: Limits, r: int, blocks: int) -> None:
    """The next iteration of replica r copies so many blocks one way."""
    replicas = state.replicas
    seconds = blocks_of(blocks, limits.swap_group) * limits.swap_group_s
    replicas[r].copies = 1
    replicas[r].copied_blocks += blocks
    if limits.swap_async:
        replicas[r].beside_s += seconds
    else:
        replicas[r].stall_s += seconds
