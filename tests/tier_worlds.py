"""Small worlds with KV tiers beyond the device's memory, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from apexsim.cost.swap import SwapLaw
from apexsim.cost.tiers import TierLaw
from tests.lockstep_worlds import lockstep_worlds
from tests.worlds import World, worlds


@st.composite
def tiers(draw: st.DrawFn) -> tuple[TierLaw, ...]:
    """One to three tiers, from blocks for one prompt to more than all; the last may be a pool for all replicas."""
    count = draw(st.integers(1, 3))
    layers = draw(st.sampled_from([1, 2, 5]))
    return tuple(
        TierLaw(
            f"tier {k}", draw(st.sampled_from([1, 4, 9, 20, 1000])), draw(st.sampled_from([1e-4, 1e-3, 1e-2])),
            draw(st.sampled_from([0.0, 2e-3])), block_bytes=1.0, layers=layers,
            through=k == 0 or draw(st.booleans()), carries=k == 0 and draw(st.booleans()),
            shared=k == count - 1 and draw(st.booleans()),
        )
        for k in range(count)
    )  # fmt: skip


@st.composite
def tiered_worlds(
    draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), closed: bool = True, drafting: bool = False
) -> World:
    """A world that shares, most of it through tiers: the device's cache is as small as the world's."""
    world = draw(worlds(routers=routers, closed=closed, sharing=True, drafting=drafting))
    return replace(world, limits=replace(world.limits, tiers=draw(tiers()), weigh_loads=draw(st.booleans())))


@st.composite
def tiered_ranks(
    draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), closed: bool = True, drafting: bool = False
) -> World:
    """Ranks in lockstep, each with tiers of its own or one for all, and a swap space or none; none beside drafts."""
    world: World = draw(lockstep_worlds(routers=routers, closed=closed, sharing=True, drafting=drafting))
    swap = None if drafting else draw(st.none() | swaps())
    limits = replace(world.limits, tiers=draw(tiers()), weigh_loads=draw(st.booleans()), swap=swap)
    policy = replace(world.policy, reserve=world.policy.reserve and limits.swap is None)
    return replace(world, limits=limits, policy=policy)


@st.composite
def swaps(draw: st.DrawFn) -> SwapLaw:
    """A swap space for a block or two, or for all."""
    return SwapLaw(
        draw(st.sampled_from([1, 3, 8, 1000])), draw(st.integers(1, 3)), draw(st.sampled_from([1e-4, 2e-3, 5e-2])),
        draw(st.booleans()), block_bytes=1.0,
    )  # fmt: skip


@st.composite
def swapping_worlds(draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), closed: bool = True) -> World:
    """A world in which victims are swapped, with a prefix cache and tiers or without."""
    world = draw(worlds(routers=routers, closed=closed) | tiered_worlds(routers=routers, closed=closed))
    policy = replace(world.policy, reserve=False)
    return replace(world, limits=replace(world.limits, swap=draw(swaps())), policy=policy)
