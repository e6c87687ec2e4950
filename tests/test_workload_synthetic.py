"""Renewal processes, laws of lengths, sessions and ServeGen's tables, against what theory says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import InputError, UsageError
from apexsim.workload.lengths import (
    Fixed,
    LogNormal,
    Quantiles,
    Uniform,
    at_knots,
    knots_of_percentiles,
    parse_lengths,
)
from apexsim.workload.servegen import servegen
from apexsim.workload.sessions import SessionLaw, grow_with_turns, thread_sessions
from apexsim.workload.stats import describe
from apexsim.workload.synthetic import gamma, poisson, with_arrivals


def test_poisson_has_its_rate_and_exponential_gaps():
    trace = poisson(5.0, 50_000, 100, 10, seed=1)
    gaps = np.diff(trace.arrival_s)
    assert trace.arrival_s[0] == 0
    assert trace.rate_rps == pytest.approx(5.0, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.02)
    # Exponential: a share of 1 - 1/e is shorter than the mean. Counts per second have variance = mean.
    assert (gaps < 0.2).mean() == pytest.approx(1 - math.exp(-1), abs=0.01)
    assert describe(trace)["dispersion_1s"] == pytest.approx(1.0, abs=0.03)
    assert set(trace.input_tokens.tolist()) == {100}


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.41, 3.0])
def test_gamma_gaps_have_the_variation_asked_for(cv):
    trace = gamma(2.0, cv, 60_000, 1, 1, seed=2)
    gaps = np.diff(trace.arrival_s)
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-4)


def test_equal_seeds_draw_equal_traces_and_lengths_do_not_hang_on_the_rate():
    law = Uniform(1, 1000)
    slow, again, fast = (poisson(rate, 100, law, law, seed=3) for rate in (1.0, 1.0, 4.0))
    assert slow.arrival_s.tolist() == again.arrival_s.tolist()
    assert slow.input_tokens.tolist() == fast.input_tokens.tolist()
    assert slow.input_tokens.tolist() != slow.output_tokens.tolist()
    assert fast.arrival_s == pytest.approx(slow.arrival_s / 4, abs=2e-6)


def test_imposed_arrivals_keep_the_requests_and_are_noted():
    trace = poisson(1.0, 50, Uniform(1, 99), 7)
    moved = with_arrivals(trace, 8.0, cv=2.0, seed=4)
    assert moved.input_tokens.tolist() == trace.input_tokens.tolist()
    assert moved.arrival_s.tolist() != trace.arrival_s.tolist()
    assert "Gamma (CV 2) at 8 requests/s" in moved.notes[-1]


@pytest.mark.parametrize(
    ("rate", "cv", "requests", "tokens", "said"),
    [
        (0.0, 1.0, 5, 1, "rate is 0"),
        (1.0, -1.0, 5, 1, "cv is -1"),
        (1.0, 1e300, 5, 1, "cv is 1e"),
        (1.0, 1e-300, 5, 1, "cv is 1e"),
        (1.0, 1.0, 0, 1, "requests is 0"),
        (1.0, 1.0, 5, 0, "0 tokens"),
    ],
)
def test_impossible_parameters_are_refused(rate, cv, requests, tokens, said):
    with pytest.raises(UsageError, match=said):
        gamma(rate, cv, requests, tokens, 1)


def test_length_laws_are_read_from_text():
    assert parse_lengths("512") == Fixed(512)
    assert parse_lengths("uniform:3:9") == Uniform(3, 9)
    law = parse_lengths("lognormal:100:300")
    tokens = law.at((np.arange(100_000) + 0.5) / 100_000)
    assert np.median(tokens) == pytest.approx(100, abs=1)
    assert tokens.mean() == pytest.approx(300, rel=0.01)
    assert parse_lengths("lognormal:100:300:5000").at(np.array([0.9999999])).tolist() == [5000]


@pytest.mark.parametrize(
    "text",
    ["", "0", "-4", "x", "1.5", "uniform:5:4", "uniform:0:4", "uniform:1", "lognormal:300:100", "zipf:1:2", "1:2"],
)
def test_what_is_no_law_is_refused(text):
    with pytest.raises(UsageError, match=r"allowed: TOKENS, uniform:LOW:HIGH"):
        parse_lengths(text)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_no_law_gives_less_than_one_token(quantiles):
    u = np.array(quantiles)
    for law in (Fixed(1), Uniform(1, 3), LogNormal.of(1.0, 4.0, 10), Quantiles((0.0, 1.0), (0.0, 5.0))):
        tokens = law.at(u)
        assert tokens.dtype == np.int64
        assert (tokens >= 1).all()
    assert set(Uniform(2, 4).at(u).tolist()) <= {2, 3, 4}


@given(
    st.floats(1, 2000),
    st.floats(1, 5),
    st.floats(1, 20),
    st.floats(0.3, 1.0),
)
def test_laws_of_percentiles_have_them_and_the_mean_where_it_can_be(p50, to_p90, to_p99, share):
    p90, p99 = p50 * to_p90, p50 * to_p90 * to_p99
    # A mean that the percentiles allow: that of a law whose lower end is a share of the median.
    knots = np.array([[max(1.0, share * p50), p50, p90, p99, p99]])
    u = (np.arange(40_000) + 0.5) / 40_000
    row = np.zeros(len(u), np.int64)
    mean = at_knots(knots, row, u).mean()
    columns = (np.array([value]) for value in (mean, p50, p90, p99))
    drawn = at_knots(knots_of_percentiles(*columns), row, u)
    for quantile, value in ((50, p50), (90, p90), (99, p99)):
        assert np.percentile(drawn, quantile) == pytest.approx(value, rel=0.02, abs=1.0)
    assert drawn.mean() == pytest.approx(mean, rel=0.02, abs=0.6)


def test_sessions_in_a_dense_stream_have_their_turns_and_pauses():
    law = SessionLaw(turns_mu=math.log(2.5), turns_sigma=0.6, turns_most=20, gap_mu=math.log(120.0), gap_sigma=1.0)
    arrival_s = np.arange(200_000) * 0.05
    session = thread_sessions(arrival_s, law, np.random.default_rng(1))
    order = np.argsort(session, kind="stable")
    same = np.diff(session[order]) == 0
    pauses = np.diff(arrival_s[order])[same]
    turns = np.bincount(session)
    finished = turns[: len(turns) // 2]  # later sessions run over the end of the stream
    assert np.median(pauses) == pytest.approx(120.0, rel=0.05)
    assert np.median(finished) == 3
    assert finished.max() <= 20
    first = np.unique(session, return_index=True)[1]
    assert (np.diff(first) > 0).all()


def test_growing_with_turns_keeps_pairs_and_lets_no_prompt_shrink():
    session = np.array([0, 1, 0, 0, 1])
    inputs, outputs = np.array([30, 7, 10, 20, 5]), np.array([3, 70, 1, 2, 50])
    grown, paired = grow_with_turns(session, inputs, outputs)
    assert grown.tolist() == [10, 5, 20, 30, 7]
    assert paired.tolist() == [1, 50, 2, 3, 70]


WINDOWS = "category,model,client,window_start_s,rate_rps,interarrival_cv,family,shape,scale\n"
PERCENTILES = ",".join(
    f"{part}_tokens_{which}" for part in ("input", "output") for which in ("mean", "p50", "p90", "p99")
)
LENGTHS = f"category,model,client,window_start_s,{PERCENTILES}\n"


def tables(folder, windows, lengths="language,m,0,0,100,90,150,300,20,15,40,90\n"):
    (folder / "my_client_lengths.csv").write_text(LENGTHS + lengths, encoding="utf-8")
    path = folder / "my_client_windows.csv"
    path.write_text(WINDOWS + windows, encoding="utf-8")
    return path


def test_servegen_keeps_the_rate_of_a_window_whatever_its_family(tmp_path):
    # Fitted scales that would give other rates (traps of the published tables) must not matter.
    path = tables(tmp_path, "language,m,0,0,2.0,1.0,Gamma,1.0,9.0\nlanguage,m,0,600,5.0,2.0,Weibull,0.5,7.0\n")
    trace = servegen(path, duration_s=1200.0, seed=1)
    assert np.bincount((trace.arrival_s // 600).astype(int)).tolist() == [1200, 3000]
    gaps = [np.diff(trace.arrival_s[:1200]), np.diff(trace.arrival_s[1200:])]
    cvs = [gap.std() / gap.mean() for gap in gaps]
    # Gamma: 1 / sqrt(shape). Weibull of shape 1/2: sqrt(Γ(5) / Γ(3)² - 1) = sqrt 5.
    assert cvs == pytest.approx([1.0, math.sqrt(5.0)], rel=0.15)


def test_servegen_takes_lengths_of_the_own_client_first_and_says_when_it_cannot(tmp_path):
    windows = "language,m,0,0,1.0,1,Gamma,1,1\nlanguage,m,7,0,1.0,1,Gamma,1,1\n"
    lengths = "language,m,0,0,100,100,100,100,20,20,20,20\nlanguage,m,7,0,,,,,,,,\n"
    trace = servegen(tables(tmp_path, windows, lengths))
    assert set(trace.input_tokens.tolist()) == {100}
    assert "50% of the requests have lengths of another window or client" in trace.notes[1]


def test_servegen_with_shapes_near_zero_is_still_a_trace(tmp_path):
    trace = servegen(tables(tmp_path, "language,m,0,0,0.05,12,Gamma,0.0001,1\n"), seed=5)
    assert len(trace) == 30
    assert np.isfinite(trace.arrival_s).all()


def test_servegen_refuses_what_the_tables_do_not_have(tmp_path):
    path = tables(tmp_path, "language,m,0,0,1.0,1,Gamma,1,1\n")
    with pytest.raises(UsageError, match="unknown workload 'n'"):
        servegen(path, workload="n")
    with pytest.raises(UsageError, match=r"has no window from 900s to 1500s \(allowed: within 0s to 600s\)"):
        servegen(path, start_s=900.0)
    with pytest.raises(UsageError, match="share 2"):
        servegen(path, share=2.0)
    with pytest.raises(InputError, match="family is 'Pareto'"):
        servegen(tables(tmp_path, "language,m,0,0,1.0,1,Pareto,1,1\n"))
    with pytest.raises(InputError, match="row 1: shape is 0"):
        servegen(tables(tmp_path, "language,m,0,0,1.0,1,Gamma,0,1\n"))
    path = tables(tmp_path, "language,m,0,0,1.0,1,Gamma,1,1\n")
    (tmp_path / "my_client_lengths.csv").unlink()
    with pytest.raises(InputError, match="lengths of its clients are missing"):
        servegen(path)


def test_a_negative_seed_or_too_many_requests_are_refused():
    with pytest.raises(UsageError, match="seed is -1"):
        poisson(1.0, 10, 5, 5, seed=-1)
    with pytest.raises(UsageError, match="requests is 100000000000"):
        poisson(1.0, 100_000_000_000, 5, 5)
