"""No replay is ever better than the bounds: random tables, traces and schedulers against the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apexsim.cost.tables import token_knots
from apexsim.engine.result import COMPLETED
from apexsim.metrics.attainment import attainment
from apexsim.metrics.goodput import WARMUP
from apexsim.metrics.latency import latencies
from apexsim.search.bounds import Counted, attainment_bound, due_to_meet, goodput_bound, median_e2e_bound
from apexsim.search.work import Lengths, least_work, lengths_of
from apexsim.spec.slo import SLO, parse_slo
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate
from tests.lockstep_worlds import in_lockstep
from tests.search_worlds import World, random_world

SLOS = (
    "ttft=1s,tpot=100ms@0.9",
    "ttft=500ms@0.95",
    "e2e=3s@0.8",
    "ttft=1s,itl=200ms@0.9",
    "ttft:p90<=1s;tpot:p80<=50ms",
    "e2e:p50<=2s",
)

SLO_OF_BOTH = parse_slo(SLOS[0])


def load_of(trace: Trace, lengths: Lengths, warmup: float = 0.0) -> Counted:
    counted = trace.arrival_s >= trace.arrival_s[0] + warmup * trace.span_s
    arrivals_s = float(trace.arrival_s[-1] - trace.arrival_s[counted][0])
    return Counted(lengths.number(counted), arrivals_s, trace.rate_rps)


def highest_rate(world: World, slo: SLO, replicas: int | None = None) -> float:
    """The bound on the rates at which the world's own trace meets the SLO after the warm-up."""
    lengths = lengths_of(world.trace)
    dues = due_to_meet(world.work(lengths), lengths, slo)
    load = load_of(world.trace, lengths, WARMUP)
    return goodput_bound([due.busiest(load.number) for due in dues], load, replicas or world.replicas)[0]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("text", SLOS)
def test_no_rate_above_the_bound_meets_the_slo(text, seed):
    world, slo = random_world(seed), parse_slo(text)
    bound = highest_rate(world, slo)
    for rate in (bound * 1.0001, bound * 1.5):
        if 0 < rate < np.inf:
            assert not attainment(world.run(at_rate(world.trace, rate)), slo, WARMUP).met


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("rate", [None, 30.0])
def test_no_replay_is_better_than_its_attainment_and_latency_bounds(seed, rate):
    world = random_world(seed)
    trace = world.trace if rate is None else at_rate(world.trace, rate)
    lengths = lengths_of(trace)
    load, work, result = load_of(trace, lengths), world.work(lengths), world.run(trace)
    for slo in map(parse_slo, SLOS):
        reached = attainment(result, slo).attainment
        assert reached <= attainment_bound(due_to_meet(work, lengths, slo), load, world.replicas)
    e2e_s = latencies(result.requests).e2e_s
    assert np.isfinite(e2e_s).sum() == load.number[work.served].sum()
    assert np.nanmedian(e2e_s) >= median_e2e_bound(work, load.number)


@pytest.mark.parametrize("seed", range(30))
def test_no_replay_with_a_prefix_cache_is_better_than_its_bounds(seed):
    """Prompts that are found in full but for their last block: the most that a cache can save."""
    world, slo = random_world(seed), parse_slo("ttft=1s,tpot=100ms@0.9")
    pages = world.limits.pages._replace(state_pages=0) if world.limits.pages else None
    policy, limits = replace(world.policy, prefix_caching=True), replace(world.limits, pages=pages)
    world = replace(world, policy=policy, limits=limits)
    rng = np.random.default_rng(seed)
    trace = world.trace.with_columns(
        shared_prefix_tokens=world.trace.input_tokens, session=rng.integers(0, 3, len(world.trace))
    )
    lengths = lengths_of(trace)
    work = least_work(world.tables, world.limits, world.policy, lengths, prefix_caching=True)
    load, result = load_of(trace, lengths), world.run(trace)
    assert result.requests.cached_tokens.sum() > 0.5 * trace.input_tokens[result.requests.status == COMPLETED].sum()
    reached = attainment(result, slo).attainment
    assert reached <= attainment_bound(due_to_meet(work, lengths, slo), load, world.replicas)
    assert np.nanmedian(latencies(result.requests).e2e_s) >= median_e2e_bound(work, load.number)


@pytest.mark.parametrize("seed", range(40))
def test_no_replay_of_ranks_in_lockstep_is_better_than_its_bounds(seed):
    """A rank is as many servers as a replica, and works for its own requests at least as long as it would alone.

    Every fourth world drafts.
    """
    world, rng = random_world(seed), np.random.default_rng(seed)
    tables = world.tables
    if tables.stages > 1:
        tables = tables._replace(**{
            name: getattr(tables, name)[:1]
            for name in ("mixed_s", "decode_s", "decode_attention_s", "prefill_s", "prefill_past_s")
        })  # fmt: skip
    drafts = 2 if seed % 4 == 0 else 0
    tables = in_lockstep(rng, tables, int(rng.integers(2, 5)), (0, 64), drafts)
    world = replace(world, tables=tables, policy=replace(world.policy, acceptance=(0.8,) * drafts))
    lengths = lengths_of(world.trace)
    load, work, result = load_of(world.trace, lengths), world.work(lengths), world.run(world.trace)
    for slo in map(parse_slo, SLOS):
        bound = attainment_bound(due_to_meet(work, lengths, slo), load, world.units)
        assert attainment(result, slo).attainment <= bound
        highest = highest_rate(world, slo, replicas=world.units)
        if 0 < highest < np.inf:
            assert not attainment(world.run(at_rate(world.trace, 1.01 * highest)), slo, WARMUP).met
    assert np.nanmedian(latencies(result.requests).e2e_s) >= median_e2e_bound(work, load.number)


def test_the_bound_is_tight_where_only_work_counts():
    """Equal requests, costs per token and nothing else: no batch is cheaper than another."""
    world, slo = random_world(seed=1, n=6000), parse_slo("ttft=5s,e2e=20s@0.99")
    tables, alike = world.tables, np.full(6000, 20)
    tokens = token_knots(1024, dense=64, stride=16)[: tables.mixed_s.shape[1]]
    tables = tables._replace(
        mixed_s=1e-4 * tokens[None, :].astype(float),
        decode_s=1e-4 * np.arange(len(tables.head_s))[None, :].astype(float),
        decode_attention_s=tables.decode_attention_s[:1] * 0,
        prefill_s=tables.prefill_s[:1] * 0,
        prefill_past_s=tables.prefill_past_s[:1] * 0,
        head_s=tables.head_s * 0,
        host_floor_s=tables.host_floor_s * 0,
        host_serial_s=tables.host_serial_s * 0,
    )
    trace = world.trace.with_columns(input_tokens=10 * alike, output_tokens=alike)
    world = replace(world, tables=tables, trace=trace, limits=replace(world.limits, kv_blocks=1 << 20))
    bound = highest_rate(world, slo)
    assert attainment(world.run(at_rate(world.trace, 0.8 * bound)), slo, WARMUP).met


def test_a_longer_run_tightens_the_bound():
    """The drain after the last arrival is then a smaller part of the run."""
    slo = parse_slo("ttft=1s,tpot=100ms@0.9")
    short, long = (highest_rate(random_world(seed=1, n=n), slo, replicas=1) for n in (300, 3000))
    assert long < short


def test_more_replicas_raise_the_bound_at_least_as_much():
    world, slo = random_world(seed=2, n=2000), parse_slo("ttft=1s@0.9")
    one, two = (highest_rate(world, slo, replicas) for replicas in (1, 2))
    assert 2 * one <= two


def test_a_tpot_limit_alone_bounds_nothing():
    """Such requests may wait for ever before their first token, so no rate is too high."""
    assert highest_rate(random_world(seed=2), parse_slo("tpot=50ms")) == np.inf


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("acceptance", [(1.0, 1.0), (0.9, 0.0), (0.7,)])
def test_no_replay_with_drafts_is_better_than_its_bounds(seed, acceptance):
    """At best every draft is accepted, in batches of the size that is cheapest for them."""
    world = random_world(seed)
    if world.tables.stages > 1:
        return
    world = replace(world, policy=replace(world.policy, acceptance=acceptance))
    lengths = lengths_of(world.trace)
    load, work, result = load_of(world.trace, lengths), world.work(lengths), world.run(world.trace)
    assert result.pools[0].accepted_tokens > 0
    for slo in map(parse_slo, SLOS):
        reached = attainment(result, slo).attainment
        assert reached <= attainment_bound(due_to_meet(work, lengths, slo), load, world.replicas)
    assert np.nanmedian(latencies(result.requests).e2e_s) >= median_e2e_bound(work, load.number)
    bound = highest_rate(world, SLO_OF_BOTH)
    if 0 < bound < np.inf:
        assert not attainment(world.run(at_rate(world.trace, bound * 1.0001)), SLO_OF_BOTH, WARMUP).met
