"""From rows to plans and loads: defaults in force, facts from notes, and what is skipped."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from apexsim.cost.host import host_model
from apexsim.errors import InputError
from apexsim.spec.legality import check_pool
from apexsim.validation.case import Case, Skipped, make_case, read_set
from apexsim.validation.loads import requests_of
from apexsim.validation.sets import find_sets
from apexsim.validation.simulate import offered, prepared_case, simulate_case
from tests.validation_worlds import CLOSED, OFFLINE, TRACE, case_of, cases_of, reason_of, shared_set, table_of


def requests(case):
    return requests_of(case.load, case.row, case.folder, None)


def test_what_the_row_says_is_the_plan(tmp_path):
    case = case_of(tmp_path, tp=2, devices=4, kv_cache="fp8", gpu_memory_utilization=0.8, max_model_len=4096)
    pool = case.plan.pools[0]
    assert (pool.tp, pool.replicas, pool.kv_cache) == (2, 2, "fp8")
    assert (pool.gpu_memory_utilization, pool.max_model_len) == (0.8, 4096)
    assert (pool.scheduler.max_num_seqs, pool.scheduler.max_num_batched_tokens) == (64, 2048)
    assert (case.plan.engine, case.plan.engine_version) == ("vllm", "0.11.0")
    assert any("2 independent engines" in text for text in case.assumptions)


def test_attention_ranks_get_requests_by_their_load(tmp_path):
    case = case_of(tmp_path, model="Qwen3-30B-A3B", dp=2, ep=2, devices=4)
    pool = case.plan.pools[0]
    assert (pool.dp, pool.replicas, case.plan.router) == (2, 2, "join-shortest-queue")
    assert any("2 independent engines" in text and "fewest unfinished" in text for text in case.assumptions)


def test_every_default_is_an_assumption(tmp_path):
    bare = dict.fromkeys(("devices", "tp", "weights", "engine_version", "max_num_seqs", "fixed_lengths"), "")
    bare |= dict.fromkeys(("max_num_batched_tokens", "prefix_caching"), "")
    case = case_of(tmp_path, **bare)
    for text in (
        "tp = 1", "pp = 1", "dp = 1", "ep = 1", "devices = 1", "weights = bf16 (the checkpoint's)", "kv_cache = bf16",
        "engine_version = newest known", "max_num_seqs = 256 (preset vllm)", "requests = 40 (10 x concurrency)",
        "prefix_caching = true (default of vllm)", "fixed_lengths = true", "measured_at = client",
    ):  # fmt: skip
        assert text in case.assumptions
    pool = case.plan.pools[0]
    assert (pool.tp, pool.pp, pool.dp, pool.ep, pool.experts_tp) == (1, 1, 1, 1, 1)
    assert pool.scheduler.prefix_caching


def test_a_row_that_says_everything_assumes_nothing(tmp_path):
    full = {"pp": 1, "dp": 1, "ep": 1, "kv_cache": "bf16", "requests": 40, "measured_at": "client",
            "length_range_ratio": 1}
    assert case_of(tmp_path, **full).assumptions == ()


@pytest.mark.parametrize(
    ("changes", "kv"),
    [
        ({"engine": "tensorrt-llm", "weights": "fp8"}, "fp8"),
        ({"engine": "tensorrt-llm", "weights": "bf16"}, "bf16"),
        ({"engine": "vllm", "weights": "fp8"}, "bf16"),
        ({"kv_cache": "auto"}, "bf16"),
    ],
)
def test_the_kv_cache_follows_the_engine_and_its_weights(tmp_path, changes, kv):
    assert case_of(tmp_path, **changes).plan.pools[0].kv_cache == kv


@pytest.mark.parametrize(
    ("model", "weights", "activations", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", "bf16", "", None),
        ("meta-llama/Llama-3.1-8B", "int4", "bf16", "w4a16"),
        ("meta-llama/Llama-3.1-8B", "int8", "bf16", "w8a16"),
        ("meta-llama/Llama-3.1-8B", "int8", "int8", "int8"),
        ("meta-llama/Llama-3.1-8B", "int4", "fp8", "w4a8"),
        ("meta-llama/Llama-3.1-8B", "fp8", "", "fp8"),
        ("Qwen/Qwen3-32B-FP8", "fp8", "", None),  # its checkpoint is fp8-block
        ("openai/gpt-oss-120b", "nvfp4", "", None),  # its checkpoint is mxfp4
        ("Qwen/Qwen3-32B-FP8", "", "", None),
    ],
)
def test_words_for_dtypes_become_those_of_a_plan(tmp_path, model, weights, activations, expected):
    case = case_of(tmp_path, model=model, weights=weights, activations=activations)
    assert case.plan.pools[0].weights == expected


@pytest.mark.parametrize(
    ("changes", "preset"),
    [
        ({"engine_version": "0.6.0", "chunked_prefill": "false"}, "vllm-v0"),
        ({"engine_version": "0.6.0", "chunked_prefill": "true"}, "vllm"),
        ({"engine_version": "0.6.0"}, "vllm-v0"),
        ({"engine_version": "0.15.1"}, "vllm"),
        ({"engine": "sglang"}, "sglang"),
        ({"engine": "tensorrt-llm"}, "tensorrt-llm"),
        ({"engine": "tensorrt-llm", "scheduler": "orca"}, "orca"),
        ({"engine": "tensorrt-llm", "notes": "x; batch scheduler max_util; y"}, "tensorrt-llm-max-utilization"),
    ],
)
def test_the_scheduler_is_that_of_the_engine_and_version(tmp_path, changes, preset):
    assert case_of(tmp_path, **changes).plan.pools[0].scheduler.preset == preset


def test_more_sequences_than_the_token_budget_are_cut_to_it(tmp_path):
    case = case_of(tmp_path, max_num_seqs=4096, max_num_batched_tokens=1536)
    assert case.plan.pools[0].scheduler.max_num_seqs == 1536
    assert any("max_num_seqs = 1536" in text for text in case.assumptions)


def test_what_was_not_measured_is_not_in_the_host_terms(tmp_path):
    base = host_model("vllm", "0.11.0")
    assert case_of(tmp_path).host() == base
    for changes in ({"measured_at": "server"}, {"notes": "in-process engine, no HTTP"}):
        host = case_of(tmp_path, **changes).host()
        assert (host.entry_s, host.exit_s, host.iteration_s) == (0, 0, base.iteration_s)
    static = case_of(tmp_path, load="static", concurrency="", batch_size=1).host()
    assert (static.entry_s, static.iteration_s, static.sequence_s) == (0, 0, 0)
    assert case_of(tmp_path, cuda_graphs="false").host().largest_graph == 0
    assert case_of(tmp_path, async_scheduling="true").host().asynchronous


def test_a_caller_may_bring_other_host_terms(tmp_path):
    case = case_of(tmp_path)
    slow = case.host().__class__(**{n: getattr(case.host(), n) for n in case.host().__slots__} | {"iteration_s": 0.5})
    assert simulate_case(case, slow).metrics["tpot_mean_s"].simulated > 0.5
    assert simulate_case(case).metrics["tpot_mean_s"].simulated < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "disagg"}, "column 'prefill_workers' is empty: a disaggregated run needs its workers"),
        ({"notes": "task image-chat; multimodal: image tokens are not given"}, "multimodal input"),
        ({"kv_cache": "nvfp4"}, "kv_cache nvfp4 is not simulated"),
        ({"load": ""}, "column 'load' is empty"),
        ({"concurrency": ""}, "column 'concurrency' is empty: a run with load 'concurrency' needs it"),
        ({"input_tokens": ""}, "column 'input_tokens' is empty"),
        ({"load": "rate"}, "column 'rate_rps' is empty"),
        ({"load": "trace"}, "column 'trace' is empty"),
        ({"devices": 3, "tp": 2}, "column 'devices' is 3 (allowed: a multiple of tp · pp · dp = 2)"),
        ({"model": "meta-llama/Llama-3.1-9B"}, "unknown model 'meta-llama/Llama-3.1-9B'; did you mean"),
        ({"device": "h100sxm"}, "unknown device 'h100sxm'; did you mean 'h100-sxm'?"),
        ({"scheduler": "vlm"}, "unknown scheduler preset 'vlm'; did you mean 'vllm'?"),
    ],
)
def test_a_row_without_an_honest_default_is_skipped_with_its_reason(tmp_path, changes, words):
    assert words in reason_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "meta-llama/Llama-3.1-70B"}, r"the plan does not fit: .* short by"),
        ({"tp": 3, "devices": 3}, "tp=3 does not divide the 32 attention heads"),
        ({"max_model_len": 100}, "all 40 requests are longer than the context"),
        ({"device": "a100-sxm-80gb", "weights": "fp8"}, "no matrix units for fp8"),
    ],
)
def test_a_plan_that_cannot_run_is_skipped_when_it_is_simulated(tmp_path, changes, words):
    outcome = simulate_case(case_of(tmp_path, **changes))
    assert outcome.metrics == {}
    assert outcome.skipped is not None
    assert re.search(words, outcome.skipped)


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": 10**12},
        {"load": "offline", "concurrency": "", "max_num_seqs": 10**5, "max_num_batched_tokens": 10**5, "devices": 1000},
    ],
)
def test_more_than_fits_in_memory_is_skipped_before_it_is_drawn(tmp_path, changes):
    assert "requests are more than the 50,000,000 that fit in memory" in reason_of(tmp_path, **changes)


@pytest.mark.parametrize("version", ["gpt-oss-dev", "1", "v", "nightly-0.15"])
def test_a_version_that_is_no_number_is_the_newest(tmp_path, version):
    case = case_of(tmp_path, engine_version=version)
    assert case.plan.engine_version is None
    assert f"engine_version = newest known ({version!r} is no number)" in case.assumptions


@pytest.mark.parametrize("column", ["trace", "lengths", "output_histogram"])
def test_a_file_that_is_not_there_names_the_cell(tmp_path, column):
    row = CLOSED | {column: "gone.csv", "fixed_lengths": "false"}
    with pytest.raises(InputError, match=rf"row 1 \(a\): column '{column}' is 'gone.csv': no such file"):
        cases_of(tmp_path, row)


def test_given_values_fill_empty_cells_only(tmp_path):
    table = table_of(tmp_path, CLOSED | {"run": "a", "kv_cache": ""}, CLOSED | {"run": "b", "kv_cache": "bf16"})
    first, second = (make_case(row, table, {"kv_cache": "fp8"}) for row in table.rows)
    assert (first.plan.pools[0].kv_cache, second.plan.pools[0].kv_cache) == ("fp8", "bf16")
    assert "kv_cache = fp8 (given)" in first.assumptions


def test_a_context_longer_than_the_models_is_stretched(tmp_path):
    case = case_of(tmp_path, model="meta-llama/Llama-2-7b-hf", max_model_len=16384)
    assert case.model.max_context == 16384
    assert not isinstance(prepared_case(case), str)


# loads


@pytest.mark.usefixtures("with_trace")
def test_a_trace_is_served_as_it_is(tmp_path):
    case = case_of(tmp_path, load="trace", trace="t.csv", concurrency="")
    trace = requests(case)
    assert len(trace) == 40
    assert trace.arrival_s[-1] == pytest.approx(11.7)


@pytest.fixture
def with_trace(tmp_path):
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "t.csv").write_text(TRACE)


@pytest.mark.usefixtures("with_trace")
def test_the_lengths_of_a_trace_may_be_offered_otherwise(tmp_path):
    closed = case_of(tmp_path, trace="t.csv")
    assert (requests(closed).arrival_s == 0).all()
    assert closed.load.concurrency == 4
    rate = case_of(tmp_path, load="rate", rate_rps=100, trace="t.csv")
    assert requests(rate).rate_rps == pytest.approx(100, rel=0.5)
    assert requests(rate).input_tokens.tolist() == requests(closed).input_tokens.tolist()


def test_fixed_lengths_are_all_the_same(tmp_path):
    for changes in ({"length_range_ratio": 1}, {"load": "offline", "requests": 40}):
        trace = requests(case_of(tmp_path, **changes))
        assert (trace.input_tokens == 200).all()
        assert (trace.output_tokens == 20).all()
        assert len(trace) == 40


def test_fixed_lengths_of_a_closed_loop_are_loose_so_that_no_lockstep_lasts(tmp_path):
    case = case_of(tmp_path, output_tokens=1000, requests=500)
    outputs = requests(case).output_tokens
    assert (outputs.min(), outputs.max()) == (980, 1000)
    assert "length_range_ratio = 0.98 (closed loop)" in case.assumptions


def test_an_empty_cell_of_fixed_lengths_is_drawn_as_it_is_said(tmp_path):
    case = case_of(tmp_path, load="offline", requests=40, fixed_lengths="")
    assert "fixed_lengths = true" in case.assumptions
    assert set(requests(case).input_tokens) == {200}
    assert requests(case).output_tokens.tolist() == [20] * 40


def test_a_mean_that_is_given_for_an_empty_cell_is_used(tmp_path):
    table = table_of(tmp_path, CLOSED | {"input_tokens": "", "length_range_ratio": 1})
    (case,) = read_set(table, {"input_tokens": 77.0})
    assert set(requests(case).input_tokens) == {77}


def test_a_rate_is_poisson_or_gamma_and_the_same_every_time(tmp_path):
    rate = {"load": "rate", "rate_rps": 5, "requests": 4000}
    gaps = {cv: np.diff(requests(case_of(tmp_path, **rate, burstiness_cv=cv)).arrival_s) for cv in (0, 1, 3)}
    for cv, values in gaps.items():
        assert values.mean() == pytest.approx(0.2, rel=0.15)
        assert values.std() / values.mean() == pytest.approx(cv, rel=0.15, abs=1e-4)
    again = requests(case_of(tmp_path, **rate, burstiness_cv=3))
    assert np.diff(again.arrival_s).tolist() == gaps[3].tolist()
    other = requests(case_of(tmp_path, **rate, burstiness_cv=3, run="b"))
    assert np.diff(other.arrival_s).tolist() != gaps[3].tolist()


def test_lengths_of_which_only_the_mean_is_known_are_spread_around_it(tmp_path):
    trace = requests(case_of(tmp_path, fixed_lengths="false", requests=2000))
    for values, mean in ((trace.input_tokens, 200), (trace.output_tokens, 20)):
        assert values.mean() == pytest.approx(mean, rel=0.01)
        assert 0.7 < values.std() / values.mean() < 1.1


def test_samples_are_concatenated_permutations_with_the_runs_mean_answer(tmp_path):
    samples = "input_tokens,reference_output_tokens\n" + "".join(f"{10 * i},{i}\n" for i in range(1, 51))
    case = cases_of(tmp_path, OFFLINE | {"run": "x-squad-offline", "fixed_lengths": "false", "output_tokens": 51},
                    lengths__squad=samples)[0]  # fmt: skip
    trace = requests(case)
    assert any("lengths/squad.csv" in text for text in case.assumptions)
    for part in (trace.input_tokens[:50], trace.input_tokens[50:]):
        assert sorted(part) == [10 * i for i in range(1, 51)]
    assert trace.input_tokens[:50].tolist() != trace.input_tokens[50:].tolist()
    assert trace.output_tokens.mean() == pytest.approx(51, rel=0.01)
    # the answer of a sample stays that sample's, scaled by two
    assert np.abs(trace.output_tokens - trace.input_tokens / 5).max() <= 1


def test_scaled_answers_never_leave_the_context(tmp_path):
    samples = "input_tokens,output_tokens\n" + "".join(f"{10 * i},{i}\n" for i in range(1, 51))
    case = cases_of(tmp_path, OFFLINE | {"fixed_lengths": "false", "lengths": "s.csv", "output_tokens": 200},
                    lengths__s=samples)[0]  # fmt: skip
    trace = requests_of(case.load, case.row, case.folder, 600)
    assert (trace.input_tokens + trace.output_tokens <= 600).all()
    assert trace.output_tokens.mean() == pytest.approx(200, rel=0.1)


def test_a_histogram_of_answers_and_percentiles_of_prompts(tmp_path):
    bins = "run,bin_low,bin_high,requests\nchat-a,0,10,50\nchat-a,10,30,50\nother,0,9999,100\n"
    prompts = "task,models,p50,p90,max\nchat,meta-llama/Llama-3.1-*,100,1000,5000\n"
    case = cases_of(
        tmp_path, OFFLINE | {"run": "chat-a", "fixed_lengths": "false", "input_tokens": 400, "output_tokens": 12.5},
        output_length_histograms=bins, input_lengths=prompts,
    )[0]  # fmt: skip
    trace = requests(case)
    assert (trace.output_tokens <= 10).mean() == pytest.approx(0.5, abs=0.05)
    assert trace.output_tokens.mean() == pytest.approx(12.5, rel=0.03)
    assert trace.input_tokens.mean() == pytest.approx(400, rel=0.01)
    assert np.percentile(trace.input_tokens, 50) < 200
    assert trace.input_tokens.max() > 2000


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("lengths__s", "input_tokens\n10\nten\n", "row 2: column 'input_tokens' is 'ten' (allowed: a number)"),
        ("lengths__s", "input_tokens\n10\n0\n", "row 2: column 'input_tokens' is 0 (allowed: 1 or more)"),
        ("lengths__s", "tokens\n10\n", "column 'input_tokens' is missing (it has: tokens)"),
        ("lengths__s", "", "cannot be read as CSV"),
        ("output_length_histograms", "run,bin_low,bin_high\na-s,0,9\n", "column 'requests' is missing"),
        ("output_length_histograms", "run,bin_low,bin_high,requests\na-s,0,x,1\n", "column 'bin_high' is 'x'"),
        ("input_lengths", "task,models,p50,p90\na,*,100,50\n", "percentiles of a are 100, 50 (allowed: 1 or more"),
    ],
)
def test_a_wrong_file_of_lengths_is_one_line(tmp_path, file, text, words):
    with pytest.raises(InputError) as caught:
        cases_of(tmp_path, OFFLINE | {"run": "a-s", "fixed_lengths": "false"}, **{file: text})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repeated_prompts_have_the_same_lengths_once_a_pass(tmp_path):
    row = OFFLINE | {"fixed_lengths": "false", "notes": "prompts repeated x2: hits are possible"}
    trace = requests(cases_of(tmp_path, row)[0])
    assert sorted(trace.input_tokens[:50]) == sorted(trace.input_tokens[50:])


def test_a_hit_share_is_whole_blocks_and_leaves_a_token(tmp_path):
    case = case_of(tmp_path, prefix_caching="true", prefix_hit_share=1, input_tokens=32)
    assert set(requests(case).shared_prefix_tokens) == {16}
    none = case_of(tmp_path, prefix_caching="false", prefix_hit_share=1)
    assert requests(none).shared_prefix_tokens is None


def test_the_same_row_gives_the_same_requests_whatever_its_context(tmp_path):
    case = case_of(tmp_path, fixed_lengths="false")
    a, b = offered(case, prepared_case(case)), requests(case)
    assert a.input_tokens.tolist() == b.input_tokens.tolist()


# published sets


def test_published_sets_are_skipped_only_for_what_is_not_simulated():
    skipped, guessed = {}, Counter()
    for table in find_sets(shared_set("").parent / "validation").sets:
        cases = read_set(table)
        skipped[table.name] = {case.reason for case in cases if isinstance(case, Skipped)}
        assert not any(case.mistake for case in cases if isinstance(case, Skipped))
        known = [case for case in cases if isinstance(case, Case)]
        guessed.update((table.name, *case.guessed) for case in known if case.guessed)
        assert not any(check_pool(case.model, case.plan.pools[0], case.plan.engine) for case in known)
    assert guessed == {("closed-loop-grid", "speculative = none"): 53}
    assert not any(skipped.values())


@pytest.mark.parametrize(
    ("name", "window", "measured_at"),
    [
        ("mlenergy-h100-dense", "steady", "client"), ("apex-h100-llama70b", "all", "server"),
        ("llmservingsim-rtxpro6000", "all", "engine"), ("mlperf51-sample", "all", "engine"),
        ("vllm-h100-open-loop", "all", "client"), ("closed-loop-grid", "all", "client"),
    ],
)  # fmt: skip
def test_clocks_of_published_sets_are_those_of_their_readmes(name, window, measured_at):
    (table,) = find_sets(shared_set(name)).sets
    for case in (case for case in read_set(table) if isinstance(case, Case)):
        assert (case.window, case.measured_at) == (window, measured_at)
