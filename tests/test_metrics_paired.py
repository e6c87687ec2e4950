"""Intervals of the differences of two runs of the same requests: symmetry, shifts, a known truth, what is unlike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.metrics.by_window import windows_of
from apexsim.metrics.paired import Served, difference_intervals, unlike
from apexsim.search.intervals import window_draws

DRAWS = window_draws(20, 0, 400)


def run_of(seconds: np.ndarray, **columns: np.ndarray) -> Served:
    n = len(seconds)
    given = {
        "arrival_s": np.arange(n) * 1.0, "input_tokens": np.full(n, 10), "output_tokens": np.full(n, 5),
        "completed": np.isfinite(seconds), "preemptions": np.zeros(n, int), "cached_tokens": np.zeros(n, int),
        "seconds": {"ttft": seconds},
    }  # fmt: skip
    return Served(**(given | columns))


def intervals(one: Served, other: Served) -> dict[str, tuple[float, float]]:
    return difference_intervals(one, other, windows_of(len(one), 20), DRAWS, 0.95)


def drawn(seed: int, n: int, lost: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    seconds = rng.lognormal(-1.0, 1.0, n)
    return np.where(rng.random(n) < lost, np.nan, seconds)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(40, 300), st.sampled_from([0.0, 0.1]))
def test_98_a_difference_the_other_way_round_is_its_negative(seed: int, n: int, lost: float) -> None:
    one, other = run_of(drawn(seed, n, lost)), run_of(drawn(seed + 1, n, lost))
    forth, back = intervals(one, other), intervals(other, one)
    assert set(forth) == set(back)
    for tag, (low, high) in forth.items():
        assert back[tag] == pytest.approx((-high, -low), abs=1e-12)
        assert low <= high
    assert all(each == (0.0, 0.0) for each in intervals(one, one).values())


def test_98_what_is_added_to_each_latency_is_the_difference_and_surely_so() -> None:
    seconds = drawn(3, 400)
    found = intervals(run_of(seconds), run_of(seconds + 0.25))
    for name in ("mean", "p50", "p90", "p95", "p99"):
        assert found[f"ttft_{name}"] == pytest.approx((0.25, 0.25), abs=1e-9)


def test_a_percentile_of_a_draw_is_that_of_the_requests_that_were_drawn() -> None:
    seconds, windows = drawn(5, 2000), windows_of(2000, 20)
    base, other = run_of(np.zeros(2000)), run_of(seconds)
    for weights in DRAWS[:5]:
        again = np.concatenate([np.repeat(seconds[windows == w], int(weights[w])) for w in range(20)])
        found = difference_intervals(base, other, windows, weights[None, :], 0.95)
        assert found["ttft_mean"][0] == pytest.approx(again.mean())
        for percentile in (50, 90, 95, 99):
            expected = np.percentile(again, percentile)
            assert found[f"ttft_p{percentile}"][0] == pytest.approx(expected, rel=0.03)


def test_the_interval_holds_a_known_truth() -> None:
    """Bursts that hit both runs, and a second run that is 10 ms slower in the mean, give or take."""
    rng, inside, runs, narrow = np.random.default_rng(1), 0, 200, 0
    for _ in range(runs):
        bursts = np.repeat(rng.lognormal(0.0, 1.0, 20), 25)
        base = bursts * rng.lognormal(0.0, 0.2, 500)
        other = base + 0.01 + np.repeat(rng.normal(0.0, 0.02, 20), 25) + rng.normal(0.0, 0.05, 500)
        low, high = intervals(run_of(base), run_of(other))["ttft_mean"]
        inside += low <= 0.01 <= high
        narrow += high - low < 0.2 * bursts.std() / 20**0.5
    assert 0.85 <= inside / runs <= 0.99
    assert narrow > 0.9 * runs, "what both have cancels out"


def test_shares_and_counts_have_intervals_too() -> None:
    n = 400
    kept = (np.arange(n) % 4 > 0).astype(float)
    one = run_of(drawn(7, n), kept=kept, preemptions=np.arange(n) % 2, cached_tokens=np.zeros(n, int))
    other = replace(one, kept=np.ones(n), preemptions=np.zeros(n, int), cached_tokens=np.full(n, 5))
    found = intervals(one, other)
    assert found["attainment"] == pytest.approx((0.25, 0.25))
    assert found["preemptions"] == pytest.approx((-n / 2, -n / 2))
    assert found["prefix_hit_rate"] == pytest.approx((0.5, 0.5))
    assert "attainment" not in intervals(one, replace(other, kept=None))


def test_requests_that_are_unlike_are_named() -> None:
    one = run_of(drawn(1, 100))
    assert unlike(one, replace(one, arrival_s=one.arrival_s * 2)) == ""
    assert unlike(one, run_of(drawn(1, 99))) == "A has 100 of them, B 99"
    longer = one.output_tokens.copy()
    longer[41] += 1
    assert unlike(one, replace(one, output_tokens=longer)) == "the 42. has 5 output tokens in A, 6 in B"
