"""Worlds whose layers are of several kinds and share one pool of pages."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from apexsim.cost.kvpages import KvPages
from apexsim.workload.trace import Trace
from tests.oracle_pages import most
from tests.worlds import World, worlds


@st.composite
def paged_worlds(
    draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), sharing: bool = False, **options: bool
) -> World:
    """Pools of any number of groups of each kind, tight enough to preempt and to reject.

    With ``sharing``, one group keeps the whole context, none a state, and prompts share what it keeps.
    """
    world = draw(worlds(routers=routers, sharing=sharing, **options))
    window, size = world.tables.window, world.limits.block_size
    windowed = draw(st.integers(0, 3)) if window else 0
    times = draw(st.sampled_from([1, 1, 2, 3]))
    larger = draw(st.booleans())
    law = KvPages(
        full_groups=draw(st.integers(0 if windowed else 1, 3)), windowed_groups=windowed,
        state_pages=draw(st.integers(0, 3)), block_size=size * (times if larger else 1),
        window_block=size * (1 if larger else times) if windowed else size, window=window if windowed else 0,
    )  # fmt: skip
    if not windowed:
        law = law._replace(window_block=law.block_size)
    if sharing:
        return _with(draw, world, law._replace(full_groups=1, state_pages=0), world.trace)
    trace = replace(world.trace, shared_prefix_tokens=None, hash_ids=None, hash_offsets=None)
    return _with(draw, replace(world, policy=replace(world.policy, prefix_caching=False)), law, trace)


def _with(draw: st.DrawFn, world: World, law: KvPages, trace: Trace) -> World:
    chunk = world.policy.max_num_batched_tokens if world.policy.chunked else 1 << 20
    longest = most(law, int((trace.input_tokens + trace.output_tokens).max()), chunk)
    pool = draw(st.integers(max(1, longest - 3), 2 * longest + 6))
    limits = replace(world.limits, kv_blocks=pool, block_size=law.block_size, pages=law)
    return replace(world, trace=trace, limits=limits)
