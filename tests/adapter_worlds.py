"""Small worlds whose requests ask for LoRA adapters, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from apexsim.cost.adapters import AdapterLaw
from tests.tier_worlds import swaps, tiers
from tests.worlds import World, orders, worlds


@st.composite
def laws(draw: st.DrawFn) -> AdapterLaw:
    """One to eight adapters, on slots for one of them up to all, or in pages of the KV cache."""
    count = draw(st.integers(1, 8))
    slots = draw(st.sampled_from([1, 1, 2, 3, 8]))
    kinds = draw(st.integers(1, 3))
    seconds = st.sampled_from([0.0, 1e-3, 7e-3, 5e-2])
    unified = draw(st.sampled_from([False, False, True]))
    return AdapterLaw(
        count, slots, max(min(slots, count), draw(st.integers(1, 8))),
        load_s=tuple(draw(seconds) for _ in range(kinds)), fetch_s=tuple(draw(seconds) for _ in range(kinds)),
        blocks=tuple(draw(st.integers(1, 3)) if unified else 0 for _ in range(kinds)),
        prefetch=draw(st.booleans()), zipf=draw(st.sampled_from([0.0, 1.0])),
    )  # fmt: skip


@st.composite
def adapter_worlds(draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), closed: bool = True) -> World:
    """A world on one pipeline stage, with prefix caches, tiers, swaps, limits on waiting; most batches are short of
    places for adapters. Where none are, the waiting list is in any order.
    """
    world = draw(worlds(routers=routers, closed=closed, alone=True))
    law = draw(laws())
    limits = replace(world.limits, adapters=law)
    if any(law.blocks):  # or nobody could ever run
        limits = replace(limits, kv_blocks=limits.kv_blocks + draw(st.integers(0, 4)))
    if world.policy.prefix_caching and draw(st.booleans()):
        limits = replace(limits, tiers=draw(tiers()))
    policy = world.policy
    if not policy.reserve and draw(st.booleans()):
        limits = replace(limits, swap=draw(swaps()))
    if draw(st.booleans()):
        policy = replace(policy, **orders(draw))
        if law.adapters > law.slots:
            policy = replace(policy, order="fcfs")
    trace = world.trace
    if draw(st.booleans()):
        code = np.random.default_rng(draw(st.integers(0, 999))).integers(-1, law.adapters, len(trace))
        trace = trace.with_columns(adapters=tuple(str(a) for a in range(law.adapters)), adapter_code=code)
    return replace(world, limits=limits, policy=policy, trace=trace)
