"""Token-level ITL percentiles: exact against the full expansion of the runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.engine.result import ItlRuns
from apexsim.metrics import itl
from apexsim.metrics.itl import gaps_at_most, itl_distribution, itl_percentiles, total_gaps

PERCENTILES = (0.0, 12.5, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0)


def runs_of(*rows: tuple[float, float, int, int]) -> ItlRuns:
    start, slope, count, sequences = zip(*rows, strict=True) if rows else ((), (), (), ())
    whole = np.array([count, sequences], np.int64).reshape(2, -1)
    return ItlRuns(np.array(start, float), np.array(slope, float), whole[0], whole[1])


def expanded(runs: ItlRuns) -> np.ndarray:
    rows = zip(runs.start_s, runs.slope_s, runs.count, runs.sequences, strict=True)
    return np.concatenate([np.repeat(start + np.arange(n) * slope, k) for start, slope, n, k in rows])


@st.composite
def run_rows(draw: st.DrawFn) -> tuple[float, float, int, int]:
    """A run whose gaps stay positive; the slope may be zero, tiny, steep or falling."""
    start = draw(st.sampled_from([0.0, 0.01, 0.02]) | st.floats(1e-6, 10.0))
    count = draw(st.integers(1, 60))
    slope = draw(st.sampled_from([0.0, 1e-9, 1e-19]) | st.floats(-start / count, 0.5))
    return start, slope, count, draw(st.integers(1, 9))


@given(st.lists(run_rows(), min_size=1, max_size=30), st.sampled_from([1, 16, 1 << 16]))
@settings(max_examples=150, deadline=None)
def test_percentiles_equal_those_of_the_expanded_gaps(rows, sorted_at_once):
    runs = runs_of(*rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itl, "SORTED_AT_ONCE", sorted_at_once)
        found = itl_percentiles(runs, PERCENTILES)
    np.testing.assert_allclose(found, np.percentile(expanded(runs), PERCENTILES), rtol=1e-12, atol=0)


@given(st.lists(run_rows(), min_size=1, max_size=20), st.data())
@settings(max_examples=80, deadline=None)
def test_counts_equal_those_of_the_expanded_gaps(rows, data):
    runs = runs_of(*rows)
    gaps = expanded(runs)
    limit = data.draw(st.sampled_from(gaps.tolist()) | st.floats(0, 40))
    assert gaps_at_most(runs, limit) == np.count_nonzero(gaps <= limit)
    assert total_gaps(runs) == len(gaps)


def test_a_hand_computed_distribution():
    # 10, 11, 12 ms twice each and one gap of 100 ms: 7 gaps
    found = itl_distribution(runs_of((0.010, 0.001, 3, 2), (0.100, 0.0, 1, 1)))
    assert found.mean == pytest.approx((2 * 33e-3 + 0.1) / 7, rel=1e-14)
    assert found.p50 == pytest.approx(0.011, rel=1e-14)
    assert found.p90 == pytest.approx(0.012 + 0.4 * (0.1 - 0.012), rel=1e-12)  # position 5.4 of 0..6
    assert found.max == 0.1


def test_no_gap_is_described_by_nothing():
    assert itl_distribution(runs_of()) == itl.Distribution()
    assert itl_distribution(runs_of((0.01, 0.0, 0, 5))) == itl.Distribution()


def test_many_equal_gaps_need_no_expansion():
    """A hundred billion gaps: would not fit in memory if any step expanded them."""
    found = itl_distribution(runs_of((0.02, 0.0, 10**6, 10**5), (0.03, 1e-12, 10**5, 1)))
    assert (found.p50, found.p99) == (0.02, 0.02)
    assert found.max == 0.03 + 99_999 * 1e-12


def test_a_large_skewed_sample_matches_its_expansion():
    rng = np.random.default_rng(7)
    n = 20_000
    runs = ItlRuns(
        rng.gamma(4, 0.005, n) + 5.0 * (rng.random(n) < 1e-3), rng.normal(0, 1e-7, n),
        rng.integers(1, 40, n), rng.integers(1, 5, n),
    )
    np.testing.assert_allclose(
        itl_percentiles(runs, PERCENTILES), np.percentile(expanded(runs), PERCENTILES), rtol=1e-12, atol=0
    )
