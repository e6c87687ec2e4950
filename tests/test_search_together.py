"""Bounds of pools that share requests, and of units that encode: no run of the engine is better, and they are no looser
than they must be (invariants 96, 97)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pulp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.engine.disaggregated import ALONE, Handover, Links, PoolSetup, simulate_pools
from apexsim.engine.encoders import ImageSetup
from apexsim.engine.result import SimulationResult
from apexsim.metrics.attainment import attainment
from apexsim.metrics.goodput import WARMUP
from apexsim.metrics.latency import latencies
from apexsim.search.bounds import Counted, attainment_bound, due_to_meet, goodput_bound, median_e2e_bound
from apexsim.search.encoding import encoder_work, least_encoding
from apexsim.search.together import alone_together, due_together
from apexsim.search.work import Lengths, Work, lengths_of
from apexsim.spec.slo import parse_slo
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate
from apexsim.workload.visual import with_visual_tokens
from tests.search_worlds import World, random_world
from tests.test_search_bounds import SLOS, load_of

# --- pools that share requests --------------------------------------------------------------------------------------


def serve(worlds: list[World], trace: Trace, router: str) -> SimulationResult:
    pools = [PoolSetup(w.tables, w.limits, w.policy, w.replicas) for w in worlds]
    return simulate_pools(trace, pools, ALONE, Handover(np.zeros(len(trace))), routers={"serve": router}, seed=1)


def both_bound(worlds: list[World], trace: Trace, text: str, warmup: float) -> tuple[Any, Counted, float, list[Work]]:
    lengths = lengths_of(trace)
    works = [world.work(lengths) for world in worlds]
    load = load_of(trace, lengths, warmup)
    found = due_together(works, lengths, parse_slo(text), lengths.number())
    return found, load, float(found.weights @ [world.replicas for world in worlds]), works


@pytest.mark.parametrize("router", ["least-loaded", "round-robin"])
@pytest.mark.parametrize("seed", range(30))
def test_97_no_two_pools_are_better_than_their_bounds(seed, router):
    worlds = [random_world(seed), random_world(1000 + seed)]
    trace = at_rate(worlds[0].trace, 20.0)
    result, lengths = serve(worlds, trace, router), lengths_of(trace)
    for text in SLOS:
        slo = parse_slo(text)
        found, load, servers, works = both_bound(worlds, trace, text, 0.0)
        assert attainment(result, slo).attainment <= attainment_bound(found.dues, load, servers)
        found, load, servers, _ = both_bound(worlds, trace, text, WARMUP)
        highest = goodput_bound([due.busiest(load.number) for due in found.dues], load, servers)[0]
        if 0 < highest < np.inf:
            assert not attainment(serve(worlds, at_rate(trace, 1.001 * highest), router), slo, WARMUP).met
    work = alone_together(works)
    if (works[0].served == works[1].served).all():
        assert np.nanmedian(latencies(result.requests).e2e_s) >= median_e2e_bound(work, lengths.number())


def test_two_pools_reach_most_of_their_bound_where_only_work_counts():
    """One of three replicas and one of one, whose tokens cost four times as much: three and a quarter servers."""
    fast = only_work(random_world(seed=1, n=3000), 1e-4, 3)
    slow = only_work(random_world(seed=1, n=3000), 4e-4, 1)
    text = "e2e=5s@0.9"  # the router looks at tokens, so the slow one keeps who it serves waiting
    found, load, servers, _ = both_bound([fast, slow], fast.trace, text, WARMUP)
    alone = [both_bound([world], fast.trace, text, WARMUP) for world in (fast, slow)]
    highest, first, second = (
        goodput_bound([due.busiest(load.number) for due in each[0].dues], load, each[2])[0]
        for each in ((found, load, servers), *alone)
    )
    assert servers == pytest.approx(3.25)
    assert first + second == pytest.approx(highest, rel=0.2)  # but for the drain, which each would have to itself
    run = serve([fast, slow], at_rate(fast.trace, 0.75 * highest), "least-loaded")
    assert attainment(run, parse_slo(text), WARMUP).met


def only_work(world: World, token_s: float, replicas: int) -> World:
    tables, alike = world.tables, np.full(len(world.trace), 20)
    knots = np.arange(tables.mixed_s.shape[1], dtype=float)
    knots = np.minimum(knots, 64) + 16 * np.maximum(0, knots - 64)
    nothing = {
        name: 0 * getattr(tables, name) for name in ("head_s", "host_floor_s", "host_serial_s", "transfer_s")
    } | {name: 0 * getattr(tables, name)[:1] for name in ("decode_attention_s", "prefill_s", "prefill_past_s")}
    tables = tables._replace(
        mixed_s=token_s * knots[None], decode_s=token_s * np.arange(float(len(tables.head_s)))[None], **nothing
    )
    trace = world.trace.with_columns(input_tokens=10 * alike, output_tokens=alike)
    limits = replace(world.limits, kv_blocks=1 << 20, pages=None)
    return replace(world, tables=tables, trace=trace, limits=limits, replicas=replicas)


seconds = st.floats(0.01, 10)


@given(
    st.lists(st.tuples(*[seconds] * 4, st.integers(1, 5)), min_size=1, max_size=5),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_97_the_bound_is_no_more_than_the_linear_program_that_deals_requests_out(rows, servers):
    """Two servers a pool; the program's optimum is the least time in which all can be done."""
    first, second = np.array([row[:2] for row in rows]).T, np.array([row[2:4] for row in rows]).T
    number = np.array([row[4] for row in rows])
    bound = least_s([first, second], number, servers)
    program = pulp.LpProblem("deal", pulp.LpMinimize)
    time_s = program.add_variable("t", 0)
    shares = [program.add_variable(f"x{u}", 0, 1) for u in range(len(rows))]
    program += time_s
    for row in first:
        program += pulp.lpSum(n * s * x for n, s, x in zip(number, row, shares, strict=True)) <= servers[0] * time_s
    for row in second:
        program += pulp.lpSum(n * s * (1 - x) for n, s, x in zip(number, row, shares, strict=True)) <= (
            servers[1] * time_s
        )
    program.solve(pulp.HiGHS(msg=False))
    assert bound <= time_s.value() * (1 + 1e-6)
    # pools whose costs are in one proportion are one pool with the sum of their servers
    alike = least_s([first, 3 * first], number, servers)
    assert alike == pytest.approx((first @ number).max() / (servers[0] + servers[1] / 3))


def test_the_sum_of_the_pools_own_bounds_is_none():
    """Each is good at what the other is bad at."""
    works, number = [np.array([[1.0, 9.0]]), np.array([[9.0, 1.0]])], np.array([5, 5])
    alone_s = [least_s([work], number, (1,)) for work in works]
    assert least_s(works, number, (1, 1)) == pytest.approx(5.0)
    assert 1 / least_s(works, number, (1, 1)) > 1.9 * sum(1 / each for each in alone_s)


def least_s(works: list[np.ndarray], number: np.ndarray, servers: tuple[int, ...]) -> float:
    """Seconds that the bound leaves for all of these requests, each of which must be served."""
    slo, alike = parse_slo("e2e=1s@1.0"), np.arange(1, len(number) + 1)
    lengths = Lengths(alike, alike, np.repeat(np.arange(len(number)), number))
    everyone = np.ones(len(number), np.bool_)
    made = [Work(("device",) * len(w), w, w, w.max(axis=0), everyone) for w in works]
    dues, _, weights = due_together(made, lengths, slo, number)
    return max(due.busiest(number).seconds for due in dues) / float(weights @ servers)


# --- units that encode ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """An encoder: seconds by tokens, batches that are cheaper than their slices."""

    batch: np.ndarray
    rate: float

    @property
    def work(self) -> SimpleNamespace:
        return SimpleNamespace(slice_s=0.5, joules=7.0)

    def slice_s(self, visual_tokens: np.ndarray) -> np.ndarray:
        return self.rate * (1.0 + visual_tokens)

    def host_s(self, images: np.ndarray) -> np.ndarray:
        return np.where(images > 0, 0.03, 0.0)


def with_pictures(world: World, seed: int) -> World:
    rng = np.random.default_rng(seed)
    n = len(world.trace)
    seen = world.trace.with_columns(images=rng.integers(0, 9, n), visual_tokens=rng.integers(1, 6, n))
    return replace(world, trace=with_visual_tokens(seen, 1, "drawn"))


def encode(world: World, trace: Trace, law: Law, units: int, most: int, irp: bool) -> SimulationResult:
    setup = ImageSetup(law.host_s(trace.images), units, law, np.zeros(len(trace)), irp, most)
    every = world.replicas + units
    ways = Links(np.full(1, 1e9), ((0,),), np.zeros(1), np.zeros((every, every, 1), np.int64))
    pool = PoolSetup(world.tables, world.limits, world.policy, world.replicas)
    return simulate_pools(trace, [pool], ways, Handover(np.zeros(len(trace))), images=setup)


@pytest.mark.parametrize("seed", range(30))
def test_96_no_units_that_encode_are_better_than_their_bounds(seed):
    world = with_pictures(random_world(seed), seed)
    units, most, irp = 1 + seed % 3, (1, 3, 8)[seed // 3 % 3], seed % 2 == 0
    law = Law(np.array([1, 1, 0.9, 0.8, 0.7]), (2e-3, 3e-2)[seed % 5 == 0])
    trace = at_rate(world.trace, 20.0)
    result, lengths = encode(world, trace, law, units, most, irp), lengths_of(trace)
    work = encoder_work(least_encoding(law, lengths, most), lengths, units if irp else 1)
    load, warm = load_of(trace, lengths), load_of(trace, lengths, WARMUP)
    for text in SLOS:
        slo = parse_slo(text)
        dues = due_to_meet(work, lengths, slo)
        assert attainment(result, slo).attainment <= attainment_bound(dues, load, units)
        highest = goodput_bound([due.busiest(warm.number) for due in dues], warm, units)[0]
        if 0 < highest < np.inf:
            run = encode(world, at_rate(trace, 1.001 * highest), law, units, most, irp)
            assert not attainment(run, slo, WARMUP).met
    served = result.encoded.landed_s - trace.arrival_s
    shown = trace.images > 0
    assert (served[shown] >= work.alone_s[lengths.which][shown] * (1 - 1e-9)).all()


def test_units_that_encode_reach_most_of_their_bound_and_of_nothing_else():
    world = with_pictures(random_world(seed=4, n=2000), 0)
    law = Law(np.array([1, 1, 0.9, 0.8, 0.7]), 3e-2)
    lengths = lengths_of(world.trace)
    found = least_encoding(law, lengths, 3)
    alone_s = lengths.images * law.slice_s(lengths.visual_tokens)
    np.testing.assert_allclose(found.busy_s, 0.8 * alone_s)
    np.testing.assert_allclose(found.joules, 14.0 * alone_s)
    result = encode(world, world.trace.with_columns(arrival_s=np.zeros(2000)), law, 2, 3, True)
    busy_s = float(found.busy_s @ lengths.number())
    assert result.encoded.busy_s == pytest.approx(busy_s, rel=0.01)  # every batch is full
    assert np.nanmax(result.encoded.encoded_s) == pytest.approx(busy_s / 2, rel=0.02)
    apart = encoder_work(found, lengths, 4)
    largest = np.ceil(lengths.images / 4) / np.maximum(lengths.images, 1)
    np.testing.assert_allclose(apart.alone_s, law.host_s(lengths.images) + largest * found.busy_s)
