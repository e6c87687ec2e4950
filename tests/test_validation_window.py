"""Windows and metrics of a simulated run, against arithmetic done by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.engine.result import RequestColumns, Timeline
from apexsim.metrics.itl import itl_distribution
from apexsim.scenario import replay, run
from apexsim.validation import window as windows
from apexsim.validation.floor import BELOW, read_s
from apexsim.validation.metrics import Simulated
from apexsim.validation.simulate import offered, prepared_case, simulate_case
from tests.validation_worlds import CLOSED, OFFLINE, TRACE, case_of, write_set


def requests_with(first: list[float], finish: list[float]) -> RequestColumns:
    n = len(first)
    zeros, ones = np.zeros(n), np.ones(n, np.int64)
    return RequestColumns(
        zeros, zeros, np.array(first), np.array(finish), ones, ones, np.zeros(n, np.int8), np.zeros(n, np.int8),
        np.zeros(n, np.int32), np.zeros(n, np.int32), zeros.astype(np.int64), zeros,
    )  # fmt: skip


def test_the_steady_state_is_between_the_first_full_batch_and_the_last():
    """Six requests, two at once: from the second first token until 6 - 2 - 1 = 3 have ended."""
    columns = requests_with([1, 2, 5, 6, 8, 9], [5, 6, 8, 9, 11, 12])
    assert windows.steady_bounds(columns, 2) == (2.0, 8.0)


@pytest.mark.parametrize("at_once", [4, 5, 6, 7])
def test_too_few_requests_for_their_batch_have_no_steady_state(at_once):
    columns = requests_with([1, 2, 5, 6, 8, 9], [5, 6, 8, 9, 11, 12])
    assert windows.steady_bounds(columns, at_once) is None


def test_means_of_a_window_count_parts_of_iterations():
    """Two requests for 4 s, then four for 6 s, cut at 2 and 8: (2 · 2 + 4 · 4) / 6."""
    ints = np.zeros(2, np.int64)
    begin_s, end_s, requests = np.array([0.0, 4.0]), np.array([4.0, 10.0]), np.array([2, 4])
    line = Timeline(begin_s, end_s, ints, ints, ints, ints, ints, requests, ints, ints)
    assert windows.mean_scheduled(line, 2.0, 8.0) == pytest.approx(20 / 6)
    assert windows.mean_scheduled(line, 2.0, 12.0) == pytest.approx((4 + 24) / 10)
    columns = requests_with([1, 1], [4, 8])
    assert windows.mean_admitted(columns, 2.0, 6.0) == pytest.approx((2 + 4) / 4)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """An offline run of 100 requests, 8 at once, whose answers spread."""
    case = case_of(tmp_path_factory.mktemp("set"), OFFLINE, fixed_lengths="false", window="steady")
    prepared = prepared_case(case)
    trace = offered(case, prepared)
    result = replay(prepared, trace, timeline=True)
    window = windows.steady(prepared, trace, result)
    assert window is not None
    return case, prepared, result, window


def test_the_steady_window_lies_at_its_bounds(steady):
    _, _, result, window = steady
    begin_s, end_s = windows.steady_bounds(result.requests, 8)
    longest_iteration = np.max((result.timeline.end_s - result.timeline.begin_s) / np.maximum(result.timeline.steps, 1))
    assert 0 <= window.begin_s - begin_s <= longest_iteration
    assert 0 <= window.end_s - end_s <= longest_iteration


def test_tokens_of_the_window_are_those_of_its_iterations(steady):
    """Brute force: every decode iteration by itself, and the first tokens."""
    _, prepared, result, window = steady
    line, slack = result.timeline, 1e-9
    ends = np.concatenate([
        begin + (end - begin) * np.arange(1, steps + 1) / steps
        for begin, end, steps in zip(line.begin_s, line.end_s, line.steps, strict=True)
    ])  # fmt: skip
    decoding = np.repeat(line.decoding, line.steps)
    inside = (ends > window.begin_s + slack) & (ends <= window.end_s + slack)
    first = result.requests.first_token_s - prepared.compiled.exit_s
    firsts = ((first > window.begin_s + slack) & (first <= window.end_s + slack)).sum()
    assert window.output_tokens == pytest.approx(decoding[inside].sum() + firsts, rel=0.005)


def test_figures_of_the_window_are_its_tokens_joules_and_seconds(steady):
    case, prepared, _result, window = steady
    metrics = simulate_case(case).metrics
    throughput = metrics["output_tokens_per_s"].simulated
    assert throughput == pytest.approx(window.output_tokens / window.seconds, rel=1e-12)
    account = prepared.compiled.accounting.account(window.counters, 1, window.seconds)
    assert metrics["power_w_per_device"].simulated == pytest.approx(account.energy_j / window.seconds, rel=1e-12)
    assert metrics["mean_running_requests"].simulated == pytest.approx(8, rel=0.01)


def test_the_steady_state_is_faster_than_the_run_with_its_ramps(steady, tmp_path):
    case, _, _, window = steady
    whole = simulate_case(case_of(tmp_path, OFFLINE, fixed_lengths="false", window="all", run=case.run))
    assert whole.metrics["output_tokens_per_s"].simulated < window.output_tokens / window.seconds
    assert whole.metrics["mean_running_requests"].simulated < 8


def test_a_steady_run_that_has_no_such_state_says_so(tmp_path):
    outcome = simulate_case(case_of(tmp_path, OFFLINE, window="steady", requests=8))
    assert outcome.metrics["output_tokens_per_s"].simulated is None
    assert outcome.metrics["output_tokens_per_s"].error is None
    assert "no steady window: too few requests for their batch" in outcome.notes


def test_whole_run_metrics_are_those_of_the_summary(tmp_path):
    """Every metric by the summary of ``apexsim simulate``: a second path to the same numbers."""
    write_set(tmp_path, CLOSED, traces__t=TRACE)
    names = [f"{m}_{s}_s" for m in ("ttft", "tpot", "itl", "e2e") for s in ("mean", "p50", "p90", "p95", "p99")]
    figures = ("output_tokens_per_s", "requests_per_s", "makespan_s", "energy_j_per_output_token", "total_tokens_per_s")
    row = CLOSED | {"load": "trace", "trace": "t.csv", "concurrency": ""} | dict.fromkeys((*names, *figures), 1)
    case = case_of(tmp_path, row)
    prepared = prepared_case(case)
    summary = run(prepared, offered(case, prepared)).summary
    metrics = simulate_case(case).metrics
    for name in names:
        metric, statistic, _ = name.split("_")
        assert metrics[name].simulated == pytest.approx(getattr(getattr(summary, f"{metric}_s"), statistic), rel=1e-12)
    throughput = summary.throughput
    assert metrics["output_tokens_per_s"].simulated == pytest.approx(throughput.output_tokens_per_s)
    assert metrics["requests_per_s"].simulated == pytest.approx(throughput.requests_per_s)
    both = throughput.output_tokens_per_s + throughput.input_tokens_per_s
    assert metrics["total_tokens_per_s"].simulated == pytest.approx(both)
    assert metrics["makespan_s"].simulated == pytest.approx(summary.duration_s)
    assert metrics["energy_j_per_output_token"].simulated == pytest.approx(summary.energy.j_per_output_token)


def test_other_statistics_and_the_capacity(tmp_path):
    row = CLOSED | {"itl_max_s": 1, "itl_p33_s": 1, "e2e_max_s": 1, "kv_capacity_tokens": 1000, "step_tokens_mean": 1}
    case = case_of(tmp_path, row)
    prepared = prepared_case(case)
    result = replay(prepared, offered(case, prepared), concurrency=4)
    metrics = simulate_case(case).metrics
    assert metrics["kv_capacity_tokens"].simulated == prepared.compiled.memory.kv_capacity_tokens
    assert metrics["itl_max_s"].simulated == itl_distribution(result.itl).max
    assert metrics["itl_p33_s"].simulated <= metrics["itl_max_s"].simulated
    tokens = (result.requests.input_tokens + result.requests.output_tokens).sum()
    assert metrics["step_tokens_mean"].simulated == pytest.approx(tokens / result.pools[0].iterations)


def test_ttft_from_the_engine_leaves_the_entry_out(tmp_path):
    case = case_of(tmp_path)
    prepared = prepared_case(case)
    result = replay(prepared, offered(case, prepared), concurrency=4)
    window = windows.whole(result)
    client, engine = (
        Simulated(prepared, result, window, from_engine=anchor).value("ttft_mean_s") for anchor in (False, True)
    )
    assert client - engine == pytest.approx(prepared.compiled.entry_s)
    assert prepared.compiled.entry_s > 0


def test_a_static_batch_of_one_is_one_prefill(tmp_path):
    """The published first-token latencies: no scheduler, no HTTP, one output token."""
    row = CLOSED | {"load": "static", "batch_size": 1, "concurrency": "", "output_tokens": 1, "ttft_anchor": "engine"}
    case = case_of(tmp_path, row)
    prepared = prepared_case(case)
    outcome = simulate_case(case)
    assert (prepared.compiled.entry_s, prepared.compiled.exit_s) == (0, 0)
    assert not prepared.compiled.tables.host_floor_s.any()
    assert outcome.metrics["ttft_mean_s"].simulated == pytest.approx(
        replay(prepared, offered(case, prepared)).requests.finish_s[0]
    )
    assert outcome.metrics["tpot_mean_s"].simulated is None


def test_a_measurement_that_beats_the_memory_is_noted_and_kept(tmp_path):
    """The layers of Llama-3.1-8B in bf16: 13.96 GB at 3.35 TB/s take 4.17 ms, whatever the batch."""
    case = case_of(tmp_path / "a", CLOSED, tpot_mean_s=0.0035)
    assert read_s(case, prepared_case(case)) == pytest.approx(4.17e-3, rel=0.02)
    outcome = simulate_case(case)
    assert BELOW in outcome.notes
    assert outcome.metrics["tpot_mean_s"].error is not None
    honest = case_of(tmp_path / "b", CLOSED, tpot_mean_s=0.006)
    assert BELOW not in simulate_case(honest).notes


def test_the_read_grows_with_the_caches_of_the_batch(tmp_path):
    """64 sequences of 10,000 tokens with 131,072 bytes of KV each token: 25 ms more than the weights."""
    changes = {"concurrency": 64, "input_tokens": 10_000, "tpot_mean_s": 0.01, "ttft_mean_s": 1e-9, "output_tokens": 20}
    case = case_of(tmp_path, CLOSED, **changes)
    caches = 64 * 10_010 * 131_072 / 3.35e12
    assert read_s(case, prepared_case(case)) == pytest.approx(4.17e-3 + caches, rel=0.02)
