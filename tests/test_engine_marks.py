"""Counters at marks: what a run had done by an instant, without changing the run."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apexsim.engine.result import Counters, SimulationResult
from apexsim.engine.simulate import simulate_pool
from apexsim.errors import UsageError
from apexsim.validation.window import between, yielded
from tests.oracle import simulate as naive
from tests.test_engine_tiny import serve
from tests.worlds import World, drawn, worlds

SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
"""Where in a run two marks lie."""


def run(world: World, marks: tuple[float, ...] = ()) -> SimulationResult:
    return simulate_pool(
        world.trace, world.tables, world.limits, world.policy, replicas=world.replicas, router=world.router, seed=7,
        marks=marks,
    )  # fmt: skip


def instants(world: World, result: SimulationResult, shares: list[float]) -> tuple[float, ...]:
    """Marks at these shares of a run's duration."""
    assume(np.isfinite(result.requests.finish_s).any())
    first = float(world.trace.arrival_s[0])
    return tuple(first + share * result.duration_s for share in shares)


@given(worlds(closed=False), SHARES)
@drawn
def test_marks_change_no_request(world: World, shares: list[float]) -> None:
    plain = run(world)
    marked = run(world, instants(world, plain, shares)).requests
    for field in fields(plain.requests):
        if field.name in ("adapter", "attempts"):
            continue
        np.testing.assert_allclose(
            getattr(marked, field.name), getattr(plain.requests, field.name), rtol=1e-9, atol=1e-12, err_msg=field.name
        )


@given(worlds(closed=False), SHARES)
@drawn
def test_snapshots_hold_the_tokens_that_the_oracle_had_yielded(world: World, shares: list[float]) -> None:
    assume(world.replicas == 1 and world.tables.stages == 1)
    marks = instants(world, run(world), shares)
    candidates = np.zeros((1, 1), np.int64)
    expected = naive(world.trace, world.tables, world.limits, world.policy, candidates=candidates, load="place")
    assume(not expected.tied)
    tokens = np.sort(np.concatenate([request.tokens for request in expected.requests] or [[]]))
    for mark, snapshot in zip(marks, run(world, marks).snapshots, strict=True):
        assert snapshot.at_s >= mark
        assert yielded(snapshot.counters) == np.searchsorted(tokens, snapshot.at_s * (1 + 1e-9) + 1e-9)


@given(worlds(closed=False), SHARES)
@drawn
def test_windows_add_up_to_the_whole_run(world: World, shares: list[float]) -> None:
    plain = run(world)
    early, late = (snapshot.counters for snapshot in run(world, instants(world, plain, shares)).snapshots)
    whole = plain.pools[0]
    parts = (early, between(early, late), between(late, whole))
    for field in fields(Counters):
        if not field.name.startswith("kv_") and field.name not in ("tiers", "adapters"):
            total = sum(np.asarray(getattr(part, field.name)) for part in parts)
            np.testing.assert_allclose(total, getattr(whole, field.name), rtol=1e-9, atol=1e-9, err_msg=field.name)


def test_a_mark_in_a_long_series_is_reached_at_its_next_boundary() -> None:
    """Prefill of 5 tokens until 15 s, then 11 s a token: at 40 s the third decode iteration runs, until 48 s."""
    result = serve([0.0], [5], [40], marks=(40.0,))
    (snapshot,) = result.snapshots
    assert (snapshot.at_s, yielded(snapshot.counters)) == (48.0, 4)
    assert snapshot.counters.decode[1] == 3
    assert snapshot.counters.busy_s == 48.0
    assert result.pools[0].decode[1] == 39


def test_a_snapshot_stays_as_it_was_while_the_run_goes_on() -> None:
    result = serve([0.0, 0.0], [4, 4], [40, 40], marks=(1.0, 1.0, 1000.0))
    assert [yielded(snapshot.counters) for snapshot in result.snapshots] == [2, 2, 80]
    assert [snapshot.at_s for snapshot in result.snapshots] == [18.0, 18.0, 1000.0]


@pytest.mark.parametrize("options", [{"concurrency": 1}])
def test_marks_need_an_open_loop(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="marks: only an open loop"):
        serve([0.0], [5], [3], marks=(1.0,), **options)
