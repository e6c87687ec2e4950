"""Small worlds of pools whose replicas fail, drain and slow down, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from apexsim.engine.disaggregated import Handover, PoolSetup
from apexsim.spec.fleet import Autoscale, Drain, Failure, Failures, Fleet, Straggler, Switch, SwitchPool
from tests.pool_worlds import PoolWorld, links_of, pool_of
from tests.worlds import World, worlds

ROLES = (
    ("serve",), ("serve",), ("serve", "serve"), ("prefill", "decode"), ("prefill", "decode"),
    ("prefill", "prefill", "decode"), ("prefill", "decode", "decode"), ("serve", "prefill", "decode"),
)  # fmt: skip


@dataclass(frozen=True)
class FleetWorld:
    pools: PoolWorld
    fleet: Fleet


def lives(draw: st.DrawFn, pools: tuple[PoolSetup, ...], span_s: float) -> Fleet:
    """A few things that happen to replicas, while they are busy more often than not."""
    places = [(p, r) for p, pool in enumerate(pools) for r in range(pool.replicas)]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def place() -> dict[str, int]:
        pool, replica = places[random.integers(len(places))]
        return {"pool": pool, "replica": replica}

    def instant() -> float:
        return float(random.random() * span_s)

    together = [instant()] * draw(st.integers(0, 4))  # as where what several replicas share fails
    failures = tuple(
        Failure(
            **place(), at=together.pop() if together else instant(),
            repair=None if random.random() < 0.1 else 0.3 * instant(),
        )
        for _ in range(draw(st.integers(0, 4)))
    )
    drains = tuple(Drain(**place(), at=instant(), away=0.3 * instant()) for _ in range(draw(st.integers(0, 3))))
    begins = [instant() for _ in range(draw(st.integers(0, 3)))]
    slow = place() if draw(st.booleans()) else None  # one replica, for several reasons
    stragglers = tuple(
        Straggler(
            **(slow or place()), factor=1.0 + 2 * random.random(), at=at, until=random.choice([None, at + instant()])
        )
        for at in begins
    )
    return Fleet(
        failures=Failures(scheduled=failures, retries=draw(st.integers(0, 2))), drain=drains, stragglers=stragglers
    )


@st.composite
def fleet_worlds(draw: st.DrawFn) -> FleetWorld:
    """Pools of several roles, or one that serves, and what happens to their replicas."""
    base: World = draw(worlds(sharing=draw(st.booleans())))
    trace = base.trace
    longest = int((trace.input_tokens + trace.output_tokens).max())
    roles = draw(st.sampled_from(ROLES))
    pools = tuple(pool_of(draw, role, longest, ranks=False) for role in roles)
    push = draw(st.booleans()) and roles.count("decode") == 1
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    links = links_of(
        random, sum(pool.units for pool in pools), middle=draw(st.sampled_from(["none", "one", "parts"])),
        ways=draw(st.integers(1, 2)), latency_s=draw(st.sampled_from([0.0, 1e-3])),
    )  # fmt: skip
    handover = Handover(
        trace.input_tokens * draw(st.sampled_from([0.01, 1.0, 10.0])), push=push,
        early=draw(st.sampled_from([0.0, 0.5, 0.9])) if push else 0.0, shown=draw(st.booleans()),
    )  # fmt: skip
    names = st.sampled_from(["round-robin", "random", "least-loaded", "join-shortest-queue", "power-of-two"])
    routers = {"prefill": draw(names | st.just("prefix-aware")), "decode": draw(names)}
    world = PoolWorld(trace, pools, links, handover, routers, draw(st.none() | st.integers(1, 8)))
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0]) + 0.02 * float(trace.output_tokens.sum()) + 0.2
    return FleetWorld(replace(world), lives(draw, pools, span_s))


@st.composite
def scaled_worlds(draw: st.DrawFn) -> FleetWorld:
    """Pools whose size follows their load, or whose replicas change their role, while some of them fail and drain."""
    base: World = draw(worlds())
    trace = base.trace
    longest = int((trace.input_tokens + trace.output_tokens).max())
    switched = draw(st.booleans())
    pools = tuple(
        pool_of(draw, role, longest, ranks=False) for role in (("prefill", "decode") if switched else ("serve",))
    )
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0]) + 0.02 * float(trace.output_tokens.sum()) + 0.2
    chances = st.sampled_from([0.01, 0.03, 0.1])
    target = draw(st.sampled_from([0.5, 1.0, 3.0]))
    policies: dict[str, object] = {}
    if switched:
        policies["switch"] = Switch(
            pools=tuple(SwitchPool(pool=p, target_requests=target) for p in (0, 1)), period=draw(chances) * span_s,
            migration=draw(st.sampled_from([0.0, 0.02])) * span_s, hysteresis=draw(st.sampled_from([1.0, 2.0])),
        )  # fmt: skip
    else:
        policies["autoscale"] = (Autoscale(
            max_replicas=pools[0].replicas + draw(st.integers(0, 2)), target_requests=target,
            period=draw(chances) * span_s, provision=draw(st.sampled_from([0.0, 0.02])) * span_s, load=0.0,
            cooldown=draw(st.sampled_from([0.0, 0.05])) * span_s,
        ),)  # fmt: skip
    lived = lives(draw, pools, span_s).model_copy(update=policies)
    most = sum(pool.replicas for pool in pools) if switched else lived.autoscale[0].max_replicas
    links = links_of(np.random.default_rng(1), most, middle="one", ways=1, latency_s=0.0)
    handover = Handover(trace.input_tokens * 1.0, push=draw(st.booleans()))
    routers = {"prefill": draw(st.sampled_from(["round-robin", "least-loaded"])), "decode": "join-shortest-queue"}
    world = PoolWorld(trace, pools, links, handover, routers, draw(st.none() | st.integers(1, 8)))
    return FleetWorld(world, lived)
