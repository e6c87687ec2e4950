"""Small worlds whose requests bring images, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from apexsim.engine.disaggregated import Handover
from apexsim.engine.encoders import ImageSetup
from apexsim.workload.visual import with_visual_tokens
from tests.pool_worlds import PoolWorld, links_of, pool_of
from tests.worlds import World, worlds


@dataclass(frozen=True)
class Encoder:
    """Seconds by tokens, and batches that are cheaper than their slices."""

    rate: float
    batch: np.ndarray

    def slice_s(self, visual_tokens: np.ndarray) -> np.ndarray:
        return self.rate * (1.0 + visual_tokens)


@dataclass(frozen=True)
class ImageWorld:
    pools: PoolWorld
    images: ImageSetup


@st.composite
def image_worlds(draw: st.DrawFn, *, apart: bool | None = None) -> ImageWorld:
    """Requests with and without images; units that encode (``apart``), or pools that encode what they prefill."""
    base: World = draw(worlds())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, most = len(base.trace), draw(st.sampled_from([1, 3, 9]))
    trace = base.trace.with_columns(
        images=random.integers(0, most + 1, n), visual_tokens=random.integers(1, 6, n), hash_ids=None,
        hash_offsets=None, shared_prefix_tokens=None,
    )  # fmt: skip
    trace = with_visual_tokens(trace, 1, "drawn")
    longest = int((trace.input_tokens + trace.output_tokens).max())
    roles = draw(st.sampled_from([
        ("serve",), ("serve", "serve"), ("prefill", "decode"), ("prefill", "prefill", "decode"),
        ("serve", "prefill", "decode"),
    ]))  # fmt: skip
    pools = [pool_of(draw, role, longest) for role in roles]
    apart = draw(st.booleans()) if apart is None else apart
    apart = apart or any(pool.units > pool.replicas for pool in pools)
    encoder = Encoder(draw(st.sampled_from([1e-3, 2e-2])), np.array(draw(st.sampled_from([[1, 1], [1, 1, 0.8, 0.7]]))))
    if not apart:
        pools = [
            pool if pool.policy.role == "decode" else replace(pool, limits=replace(pool.limits, encoder=encoder))
            for pool in pools
        ]
    units = draw(st.integers(1, 4)) if apart else 0
    host_s = np.where(trace.images > 0, draw(st.sampled_from([0.0, 3e-3])) + random.random(n) * 5e-3, 0.0)
    images = ImageSetup(
        host_s, units, encoder if apart else None, trace.visual_tokens * draw(st.sampled_from([0.1, 5.0])),
        irp=draw(st.booleans()), most=draw(st.sampled_from([1, 2, 5])),
        router=draw(st.sampled_from(["round-robin", "random", "least-loaded", "join-shortest-queue"])),
    )  # fmt: skip
    push = draw(st.booleans())
    handover = Handover(
        trace.input_tokens * draw(st.sampled_from([0.01, 1.0])), push=push,
        early=draw(st.sampled_from([0.0, 0.5])) if push else 0.0, shown=draw(st.booleans()),
    )  # fmt: skip
    links = links_of(
        random, sum(pool.units for pool in pools) + units, middle=draw(st.sampled_from(["none", "one", "parts"])),
        ways=draw(st.integers(1, 2)), latency_s=draw(st.sampled_from([0.0, 1e-3])),
    )  # fmt: skip
    names = st.sampled_from(["round-robin", "least-loaded", "join-shortest-queue"])
    routers = {"prefill": draw(names), "decode": draw(names)}
    return ImageWorld(
        PoolWorld(trace, tuple(pools), links, handover, routers, draw(st.none() | st.integers(1, 8))), images
    )
