"""Small worlds of pools that hand requests to each other, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from apexsim.engine.disaggregated import Handover, Links, PoolSetup
from apexsim.workload.trace import Trace
from tests.lockstep_worlds import in_lockstep
from tests.worlds import World, worlds


@dataclass(frozen=True)
class PoolWorld:
    trace: Trace
    pools: tuple[PoolSetup, ...]
    links: Links
    handover: Handover
    routers: dict[str, str]
    concurrency: int | None


def pool_of(draw: st.DrawFn, role: str, longest: int, *, ranks: bool = True) -> PoolSetup:
    """A pool of its own law, limits and rules; one that decodes has no prefix cache."""
    drafting = role == "decode" and draw(st.sampled_from([False, True]))
    sharing = role == "prefill" and draw(st.booleans())
    world: World = draw(worlds(alone=draw(st.booleans()), sharing=sharing, drafting=drafting))
    caching = world.policy.prefix_caching and role != "decode"
    policy = replace(world.policy, role=role, seat_first=draw(st.booleans()), prefix_caching=caching)
    block = world.limits.block_size
    blocks = -(-longest // block)
    limits = replace(
        world.limits, kv_blocks=draw(st.integers(max(1, blocks - 1), 2 * blocks + 4)),
        max_model_len=draw(st.sampled_from([60, 1000])),
    )  # fmt: skip
    tables, replicas = world.tables, draw(st.integers(1, 2))
    if ranks and tables.stages == 1 and tables.cp == 1 and draw(st.sampled_from([False, False, True])):
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        tables = in_lockstep(random, tables, draw(st.integers(2, 3)), draw(st.sampled_from([(0, 0), (6, 3)])))
        policy = replace(policy, follow=False)
    return PoolSetup(tables, limits, policy, replicas)


def links_of(
    random: np.random.Generator, units: int, *, middle: str, ways: int, latency_s: float
) -> Links:
    """Every unit has a link out and a link in; between them one that all share, one of several ways, or some of each.

    ``middle``: none, one, or parts: a way puts shares of its bytes on two links in between.
    """
    if middle == "parts":
        return in_parts(random, units, ways, latency_s)
    shared = middle == "one"
    middles = ways if shared else 0
    capacity = 50.0 + 2000.0 * random.random(2 * units + middles)
    paths, numbers = [], np.zeros((units, units, ways), np.int64)
    for a in range(units):
        for b in range(units):
            for k in range(ways):
                numbers[a, b, k] = len(paths)
                paths.append((a, units + b, 2 * units + k) if shared else (a, units + b))
    return Links(capacity, tuple(paths), np.full(len(paths), latency_s), numbers)


def in_parts(random: np.random.Generator, units: int, ways: int, latency_s: float) -> Links:
    """Three links in the middle, of which each way takes two, with shares of its own."""
    capacity = 50.0 + 2000.0 * random.random(2 * units + 3)
    paths, shares, numbers = [], [], np.zeros((units, units, ways), np.int64)
    for a in range(units):
        for b in range(units):
            for k in range(ways):
                numbers[a, b, k] = len(paths)
                share = float(random.choice([0.25, 0.5, random.random()]))
                skipped = int(random.integers(3))
                between = [2 * units + m for m in range(3) if m != skipped]
                paths.append((a, units + b, *between))
                shares.append((1.0, 1.0, share, 1.0 - share))
    return Links(capacity, tuple(paths), np.full(len(paths), latency_s), numbers, tuple(shares))


@st.composite
def pool_worlds(draw: st.DrawFn) -> PoolWorld:
    """Pools that prefill and decode, now and then with one that serves beside them."""
    base: World = draw(worlds(sharing=draw(st.booleans())))
    trace = base.trace
    longest = int((trace.input_tokens + trace.output_tokens).max())
    roles = draw(st.sampled_from([
        ("prefill", "decode"), ("prefill", "decode"), ("prefill", "prefill", "decode"), ("prefill", "decode", "decode"),
        ("decode", "prefill"), ("serve", "prefill", "decode"),
    ]))  # fmt: skip
    pools = tuple(pool_of(draw, role, longest) for role in roles)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    units = sum(pool.units for pool in pools)
    links = links_of(
        random, units, middle=draw(st.sampled_from(["none", "one", "parts"])), ways=draw(st.integers(1, 2)),
        latency_s=draw(st.sampled_from([0.0, 1e-3])),
    )  # fmt: skip
    push = draw(st.booleans())
    handover = Handover(
        trace.input_tokens * draw(st.sampled_from([0.01, 1.0, 10.0])), push=push,
        early=draw(st.sampled_from([0.0, 0.5, 0.9])) if push else 0.0, shown=draw(st.booleans()),
    )  # fmt: skip
    names = st.sampled_from(["round-robin", "random", "least-loaded", "join-shortest-queue", "power-of-two"])
    routers = {"prefill": draw(names | st.just("prefix-aware")), "decode": draw(names)}
    return PoolWorld(trace, pools, links, handover, routers, draw(st.none() | st.integers(1, 8)))
