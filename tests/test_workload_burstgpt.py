"""The synthetic BurstGPT is held to the statistics published about the real one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from apexsim.errors import UsageError
from apexsim.workload.burstgpt import API, CONVERSATION, burstgpt, hour_shares
from apexsim.workload.read import read_trace
from apexsim.workload.stats import window_cvs

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published statistics beside the repository")


@pytest.fixture(scope="module")
def log():
    """As many days as the real file has."""
    return burstgpt(days=61, seed=3)


def of_class(trace, code):
    return trace.take(np.flatnonzero(trace.class_code == code))


def targets():
    return json.loads((PUBLISHED / "burstgpt_generator_targets.json").read_text())


def table(name):
    with (PUBLISHED / name).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def distance(lengths, histogram):
    """Kolmogorov-Smirnov distance at the edges of the bins [start, end)."""
    upto = np.cumsum([row["probability"] for row in histogram])
    ends = np.array([row["bin_end"] for row in histogram])
    below = np.searchsorted(np.sort(lengths), ends, side="left") / len(lengths)
    return np.abs(below - upto).max()


@published
@pytest.mark.parametrize("days", [1, 61])
@pytest.mark.parametrize("part", ["input", "output"])
def test_conversation_lengths_follow_the_published_histograms(log, part, days):
    trace = of_class(log if days == 61 else burstgpt(days=1, seed=8), CONVERSATION)
    histogram = table(f"burstgpt1_conversation_{part}_hist.csv")
    assert distance(getattr(trace, f"{part}_tokens"), histogram) < 0.02


@published
def test_every_hour_of_the_day_is_within_ten_percent(log):
    mean = np.array([row["mean_requests_per_hour"] for row in table("burstgpt1_hour_of_day.csv")])
    found = np.bincount((log.arrival_s // 3600).astype(int) % 24, minlength=24)
    assert found / found.sum() == pytest.approx(mean / mean.sum(), rel=0.10)


@pytest.mark.parametrize("code", [None, API, CONVERSATION])
def test_gaps_in_windows_are_as_bursty_as_in_the_log(log, code):
    arrival_s = log.arrival_s if code is None else of_class(log, code).arrival_s
    cvs = window_cvs(arrival_s, 1200.0)
    assert len(cvs) > 1000
    assert 1.2 < np.median(cvs) < 2.0
    assert 1.2 < cvs.mean() < 2.0


@published
def test_api_lengths_have_the_published_medians_means_and_spikes(log):
    api, said = of_class(log, API), targets()["api_1"]
    assert np.median(api.input_tokens) == pytest.approx(said["input_median"], abs=1)
    assert np.median(api.output_tokens) == said["output_median"]
    assert api.input_tokens.mean() == pytest.approx(said["derived_mean_request"], rel=0.01)
    assert api.output_tokens.mean() == pytest.approx(said["derived_mean_response"], rel=0.01)
    assert (api.output_tokens == 7).mean() == pytest.approx(said["frac_response_eq_7"], abs=0.001)
    assert (api.output_tokens == 2).mean() == pytest.approx(said["frac_response_eq_2"], abs=0.001)
    assert len(api) / len(log) == pytest.approx(said["share"], abs=0.005)


@published
def test_responses_grow_with_requests_as_published(log):
    trace = of_class(log, CONVERSATION)
    # A copula only rises; the published curve does from 500 tokens on (below it bends back, see traces/README.md).
    rising = [pair for pair in targets()["response_given_request"]["chatgpt_conv_mean"] if pair[0] >= 750]
    assert len(rising) == 6
    for tokens, mean in rising:
        near = np.abs(trace.input_tokens - tokens) <= 60
        assert trace.output_tokens[near].mean() == pytest.approx(mean, rel=0.20)


@published
def test_sessions_have_the_published_turns(log):
    said = targets()["files"]["BurstGPT_3"]
    turns = np.bincount(of_class(log, CONVERSATION).session)
    assert (turns == 1).mean() > 0.35
    assert np.median(turns) == said["turns_median"]
    assert (turns <= 4).mean() == pytest.approx(0.75, abs=0.02)
    assert turns.mean() == pytest.approx(said["turns_mean"], rel=0.05)


def test_api_calls_have_no_session_and_prompts_of_a_conversation_grow(log):
    assert (of_class(log, API).session == -1).all()
    chat = of_class(log, CONVERSATION)
    order = np.argsort(chat.session, kind="stable")
    same = np.diff(chat.session[order]) == 0
    assert (np.diff(chat.input_tokens[order])[same] >= 0).all()
    assert (np.diff(chat.arrival_s[order])[same] >= 0).all()


def test_days_differ_and_weekends_are_quiet(log):
    days = np.bincount((log.arrival_s // 86400).astype(int), minlength=61)
    assert days.max() > 3 * np.median(days)
    chat = np.bincount((of_class(log, CONVERSATION).arrival_s // 86400).astype(int), minlength=61)
    by_weekday = [chat[day::7].mean() for day in range(7)]
    assert np.argmin(by_weekday) == 4
    assert max(by_weekday) > 2 * min(by_weekday)


def test_the_rate_is_as_asked_and_seeds_matter():
    fast, again, other = burstgpt(1, 2.0, seed=5), burstgpt(1, 2.0, seed=5), burstgpt(1, 2.0, seed=6)
    assert len(fast) / 86400 == pytest.approx(2.0, rel=0.03)
    assert fast.arrival_s.tobytes() == again.arrival_s.tobytes() != other.arrival_s.tobytes()
    assert fast.output_tokens.tobytes() == again.output_tokens.tobytes()
    assert (np.diff(fast.arrival_s) >= 0).all()
    assert fast.arrival_s[0] >= 0
    assert fast.arrival_s[-1] < 86400


def test_a_tiny_rate_still_makes_a_trace():
    assert len(burstgpt(1, 0.001, seed=1)) > 0


@pytest.mark.parametrize(("days", "rate"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, float("nan")), (400, 1e4)])
def test_days_and_rates_out_of_range_are_refused(days, rate):
    with pytest.raises(UsageError, match=r"burstgpt: .* \(allowed: 1 day or more"):
        burstgpt(days, rate)


def test_hours_without_waves_are_equal():
    assert hour_shares([0.3, 0.0, 0.0]) == pytest.approx(np.full(24, 1 / 24))


def test_the_bundled_day_is_what_its_readme_says_it_is():
    bundled, drawn = read_trace("burstgpt-day"), burstgpt(days=1, seed=0)
    assert len(bundled) == 23_033
    assert bundled.arrival_s.tolist() == drawn.arrival_s.tolist()
    assert bundled.input_tokens.tolist() == drawn.input_tokens.tolist()
    assert bundled.output_tokens.tolist() == drawn.output_tokens.tolist()
    assert bundled.session.tolist() == drawn.session.tolist()
    named = [bundled.classes[code] for code in bundled.class_code]
    assert named == [drawn.classes[code] for code in drawn.class_code]
