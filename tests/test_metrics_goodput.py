"""Goodput by interpolation: what it converges to, what it says when it cannot, and the trace it is tested on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.metrics.goodput import goodput, goodput_trace
from apexsim.workload.trace import Trace


def step_at(limit: float):
    return lambda rate: 1.0 if rate <= limit else 0.5


@given(st.floats(0.11, 999.0), st.none() | st.floats(1e-6, 1e4))
def test_the_answer_is_within_one_percent_below_the_true_limit(limit, guess):
    found = goodput(step_at(limit), 0.9, upper_bound_rps=1000.0, guess_rps=guess)
    assert not found.censored
    assert found.rps <= limit < found.rps * 1.01 + 1e-12
    assert found.attainment == 1.0


def test_the_answer_and_a_rate_one_percent_above_it_were_both_tested():
    found = goodput(lambda rate: 1 / (1 + rate / 50), 0.6, upper_bound_rps=400.0)
    tested = dict(found.tested)
    assert tested[found.rps] >= 0.6
    assert any(share < 0.6 and found.rps < rate <= found.rps * 1.01 for rate, share in found.tested)
    assert found.rps == pytest.approx(100 / 3, rel=0.01)
    assert found.evaluations == len(tested)


def test_a_bound_that_never_fails_is_censored():
    found = goodput(lambda rate: 1.0, 0.9, upper_bound_rps=64.0, guess_rps=3.0)
    assert (found.rps, found.censored) == (64.0, True)


def test_an_slo_that_is_never_met_has_no_goodput():
    found = goodput(lambda rate: 0.2, 0.9, upper_bound_rps=64.0)
    assert found.rps is None
    assert not found.censored
    assert found.attainment == 0.2


def test_a_guess_saves_evaluations():
    near = goodput(step_at(100.0), 0.9, upper_bound_rps=5000.0, guess_rps=101.0)
    far = goodput(step_at(100.0), 0.9, upper_bound_rps=5000.0)
    assert near.evaluations < far.evaluations


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("steepness", [3.0, 12.0, 30.0])
@pytest.mark.parametrize("off", [0.8, 0.95, 1.0, 1.3])
def test_a_smooth_curve_takes_few_evaluations_however_steep_it_is(target, steepness, off):
    """Misses that grow with a power of the rate: a bracket of 64 rungs alone would take six halvings."""
    allowed = max(1 - target, 1e-3)

    def share(rate):
        return 1 - min(1.0, 0.999 * allowed * (rate / 40.0) ** steepness)

    found = goodput(share, 1 - allowed, 500.0, 40 * off)
    assert found.rps == pytest.approx(40, rel=0.011)
    assert found.evaluations <= (6 if abs(off - 1) < 0.1 else 9)


def test_a_dip_below_the_answer_is_not_looked_for():
    """Attainment need not be monotone: the convention is the bracket that the growing steps find."""
    found = goodput(lambda rate: 0.0 if 10 < rate < 11 or rate > 90 else 1.0, 0.9, 128.0, guess_rps=8.0)
    assert found.rps == pytest.approx(90, rel=0.01)


def few_requests(n: int, rate: float) -> Trace:
    return Trace("few", np.arange(n) / rate, np.full(n, 10), np.full(n, 5))


@pytest.mark.parametrize(("rate", "requests"), [(1.0, 2000), (100.0, 30_001)])
def test_the_trace_reaches_2000_requests_and_300_seconds_at_the_tested_rate(rate, requests):
    trace = goodput_trace(few_requests(1000, 5.0), rate)
    assert trace.rate_rps == pytest.approx(rate)
    assert trace.span_s >= 300.0 - 1e-9
    assert requests <= len(trace) < requests + 1000


def test_a_trace_that_is_long_enough_is_used_whole():
    assert len(goodput_trace(few_requests(5000, 5.0), 2.0)) == 5000
