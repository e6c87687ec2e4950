"""The trace for Perfetto: what its format asks for, that nothing of the run is lost in it, and that it stays small."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

import apexsim as ax
from apexsim.cli.main import app
from apexsim.engine.result import SimulationResult
from apexsim.engine.simulate import simulate_pool
from apexsim.errors import UsageError
from apexsim.metrics.tracks import sample, spans
from apexsim.report.perfetto import trace_text
from apexsim.workload.read import read_trace
from apexsim.workload.transform import head
from tests.fleet_worlds import FleetWorld, fleet_worlds
from tests.lockstep_worlds import lockstep_worlds
from tests.pool_worlds import PoolWorld, pool_worlds
from tests.test_engine_differential import run_both
from tests.test_engine_fleet import run as run_fleet
from tests.test_engine_pools import run
from tests.worlds import World, drawn, worlds

few = settings(drawn, max_examples=60)
PLAN = {"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{"replicas": 1}]}


def events_of(result: SimulationResult) -> list[dict]:
    text, _ = trace_text(result, [f"pool {p}: serve" for p in range(len(result.pools))], "drawn")
    return json.loads(text)["traceEvents"]


def check_format(events: list[dict], result: SimulationResult) -> None:
    """What the Trace Event Format asks for, and what a reader takes for granted."""
    tracks, open_spans = defaultdict(list), defaultdict(list)
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    for event in events:
        assert event["ph"] == "M" or event["ts"] >= 0
        if event["ph"] == "X":
            assert (event["pid"], event["tid"]) in named
            tracks[event["pid"], event["tid"]].append((round(event["ts"] * 1e3), round(event["dur"] * 1e3)))
        elif event["ph"] == "b":
            open_spans[event["cat"], event["id"]].append((event["name"], event["ts"]))
        elif event["ph"] == "e":
            name, begin = open_spans[event["cat"], event["id"]].pop()
            assert name == event["name"]  # what opens last closes first
            assert begin <= event["ts"]
    assert not any(open_spans.values())
    for track in tracks.values():
        track.sort()
        assert all(begin + length <= after for (begin, length), (after, _) in pairwise(track))
    assert sum(e["ph"] == "b" and e["name"].startswith("request ") for e in events) == len(sample(result))


def check_sums(result: SimulationResult, most: int) -> None:
    """Every iteration and token is in one span, however many there may be."""
    merged, line = spans(result, most), result.timeline
    assert line is not None
    assert len(merged.pool) <= most + len({*zip(line.pool, line.replica, line.slot, strict=True)})
    assert merged.iterations.sum() == line.steps.sum() == sum(pool.iterations for pool in result.pools)
    assert merged.decode_tokens.sum() == (line.steps * line.decoding).sum()
    assert merged.prefill_tokens.sum() == sum(pool.prefill_tokens for pool in result.pools)
    np.testing.assert_allclose(merged.busy_s.sum(), (line.end_s - line.begin_s).sum(), rtol=1e-12)
    assert (merged.busy_s <= (merged.end_s - merged.begin_s) * (1 + 1e-9) + 1e-12).all()
    assert (merged.waiting >= 0).all()
    blocks = np.array([pool.kv_blocks for pool in result.pools])
    assert (merged.kv_blocks <= blocks[merged.pool]).all()


@given(worlds())
@few
def test_the_trace_of_a_pool_is_well_formed_and_whole(world: World) -> None:
    result, _ = run_both(world)
    check_format(events_of(result), result)
    for most in (1, 7, 10_000):
        check_sums(result, most)


@given(lockstep_worlds())
@few
def test_ranks_in_lockstep_have_a_track_each(world: World) -> None:
    result, _ = run_both(world)
    check_format(events_of(result), result)
    check_sums(result, 7)


@given(pool_worlds())
@few
def test_the_trace_of_several_pools_is_well_formed_and_whole(world: PoolWorld) -> None:
    result = run(world)
    events = events_of(result)
    check_format(events, result)
    check_sums(result, 7)
    assert result.transfers is not None
    moved = sum(e["ph"] == "b" and e["cat"] == "transfer" for e in events)
    assert moved == result.transfers.finished


@given(fleet_worlds())
@few
def test_what_happens_to_replicas_is_in_the_trace(world: FleetWorld) -> None:
    result = run_fleet(world)
    events = events_of(result)
    check_format(events, result)
    check_sums(result, 7)
    assert sum(e["ph"] == "i" for e in events) == len(result.fleet_events)


@given(worlds())
@few
def test_the_timeline_changes_nothing_else(world: World) -> None:
    result, _ = run_both(world)
    without = simulate_pool(
        world.trace, world.tables, world.limits, world.policy, replicas=world.replicas, router=world.router, seed=7,
        concurrency=world.concurrency,
    )  # fmt: skip
    assert without.timeline is None
    assert replace(result, timeline=None).same_bytes(without)


def test_waiting_requests_by_hand() -> None:
    """One sequence at a time: while the first of three is served, two wait, then one."""
    plan = {**PLAN, "pools": [{"replicas": 1, "scheduler": {"max_num_seqs": 1}}]}
    trace = head(read_trace("docs/examples/requests.csv"), 3)
    report = ax.simulate(plan, replace(trace, arrival_s=np.zeros(3)), timeline=True)
    merged = spans(report.result)
    start_s = np.sort(report.result.requests.start_s)
    by_hand = 3 - np.searchsorted(start_s, merged.begin_s, "right")
    assert merged.waiting.tolist() == by_hand.tolist()
    assert set(by_hand) == {0, 1, 2}


def test_many_requests_are_sampled_evenly() -> None:
    trace = head(read_trace("burstgpt-day"), 5_000)
    result = ax.simulate(PLAN, trace, rate=20.0, timeline=True).result
    chosen = sample(result)
    assert (len(chosen), chosen[0], chosen[-1]) == (2_000, 0, 4_999)
    assert set(np.diff(chosen)) == {2, 3}
    assert len(spans(result, 500).pool) <= 501


def test_the_command_writes_a_trace_gzipped_where_its_name_says_so(tmp_path) -> None:
    arguments = ["simulate", "docs/examples/disaggregated.yaml", "--trace", "docs/examples/requests.csv", "--timeline"]
    for name in ("t.json", "t.json.gz"):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert "timeline: 355 iterations" in result.stderr
    text = (tmp_path / "t.json").read_bytes()
    assert gzip.decompress((tmp_path / "t.json.gz").read_bytes()) == text
    trace = json.loads(text)
    assert {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"} == {
        "requests and transfers", "pool 0: prefill", "pool 1: decode",
    }  # fmt: skip
    assert trace["otherData"]["holds"].endswith("4 of 4 requests")


def test_a_report_without_its_timeline_says_how_to_get_one(tmp_path) -> None:
    report = ax.simulate(PLAN, "docs/examples/requests.csv")
    with pytest.raises(UsageError, match="timeline=True"):
        report.write_timeline(tmp_path / "t.json")
