"""Importers: the contract for each, and what is particular to each tool's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from apexsim.cli.main import app
from apexsim.errors import InputError, UsageError
from apexsim.testing.importer import ImporterContract, load, read, written
from apexsim.validation.imports import import_file
from apexsim.validation.sets import read_table

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


class TestRegisteredImporters(ImporterContract):
    """All importers of the registry."""


def imported(tmp_path: Path, text: str, file: str = "result.json", **cells: str):
    """The cells of the first row that a file becomes."""
    (tmp_path / file).write_text(text)
    import_file(tmp_path / file, tmp_path / "set", cells={"device": "h100-sxm", **cells})
    return read_table(tmp_path / "set" / "runs.csv").rows[0].values


def serve(**changes) -> str:
    data = json.loads(load("vllm-bench-serve").example()["serve.json"])
    return json.dumps({key: value for key, value in (data | changes).items() if value != "absent"})


def test_vllm_serve_in_detail_is_a_trace_with_every_request(tmp_path):
    row = imported(tmp_path, serve())
    assert (row["load"], row["model"], row["engine"], row["requests"]) == ("trace", LLAMA, "vllm", 3)
    assert (row["ttft_mean_s"], row["tpot_mean_s"], row["e2e_mean_s"]) == (0.03, 0.011, 0.05267)
    assert (row["itl_mean_s"], row["makespan_s"], row["output_tokens_per_s"]) == (0.01133, 4.0, 2.25)
    trace = (tmp_path / "set" / "traces" / row["trace"]).read_text().splitlines()
    assert trace == ["arrival_s,input_tokens,output_tokens", "0,100,2", "0.5,200,3", "1,300,4"]
    requests = np.genfromtxt(tmp_path / "set" / "requests" / row["trace"], delimiter=",", names=True)
    np.testing.assert_allclose(requests["tpot_s"], [0.01, 0.011, 0.012])
    np.testing.assert_allclose(requests["e2e_s"], [0.03, 0.052, 0.076])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"request_rate": "inf", "max_concurrency": 8}, {"load": "concurrency", "concurrency": 8}),
        ({"request_rate": 2.0, "start_times": "absent", "burstiness": 4.0},
         {"load": "rate", "rate_rps": 2.0, "burstiness_cv": 0.5}),
        ({"request_rate": "inf", "start_times": "absent"}, {"load": "offline"}),
    ],
)
def test_vllm_serve_load_is_what_the_client_did(tmp_path, changes, expected):
    row = imported(tmp_path, serve(**changes))
    assert {key: row[key] for key in expected} == expected


def test_vllm_serve_without_detail_has_means_and_no_trace(tmp_path):
    bare = dict.fromkeys(("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"), "absent")
    row = imported(tmp_path, serve(**bare))
    assert "trace" not in row
    assert (row["input_tokens"], row["output_tokens"]) == (200, 3)


def test_failed_requests_of_vllm_serve_are_left_out_and_said(tmp_path):
    row = imported(tmp_path, serve(failed=1, ttfts=[0.02, 0.0, 0.04], itls=[[0.01], [], [0.01, 0.01, 0.016]]))
    assert row["requests"] == 2
    assert "1 requests failed" in row["notes"]


def test_a_backend_that_is_a_protocol_is_no_engine(tmp_path):
    assert "engine" not in imported(tmp_path, serve(backend="openai-chat"))


def test_the_mean_gap_of_a_request_is_tpot_in_aiperf_and_genai_perf(tmp_path):
    row = imported(tmp_path, load("aiperf").example()["profile_export_aiperf.json"])
    assert (row["tpot_mean_s"], row["ttft_p99_s"], row["e2e_mean_s"]) == (0.012, 0.04, 0.066)
    assert "itl_mean_s" not in row
    assert (row["load"], row["concurrency"]) == ("concurrency", 2)


def test_genai_perf_csv_is_the_same_two_tables(tmp_path):
    text = (
        "Metric,avg,min,max,p99,p95,p90,p75,p50,p25\r\n"
        "Time To First Token (ms),23.94,22.92,30.75,30.10,27.51,24.26,23.38,23.20,23.02\r\n"
        "Inter Token Latency (ms),11.54,11.45,11.70,11.69,11.64,11.58,11.55,11.53,11.52\r\n"
        'Request Latency (ms),"5,919.16","5,912.73","5,934.45","5,933.31",1,1,1,1,1\r\n'
        "Output Sequence Length,511.90,505.00,516.00,515.91,515.55,515.10,512.75,512.00,511.25\r\n"
        "Input Sequence Length,127.50,126.00,128.00,128.00,128.00,128.00,128.00,128.00,127.00\r\n"
        "\r\nMetric,Value\r\n"
        "Output Token Throughput (per sec),86.48\r\nRequest Throughput (per sec),0.17\r\n"
    )
    row = imported(tmp_path, text, "profile.csv", model=LLAMA, load="concurrency", concurrency="1")
    assert (row["ttft_mean_s"], row["tpot_p50_s"], row["e2e_mean_s"]) == (0.02394, 0.01153, 5.91916)
    assert (row["output_tokens"], row["output_tokens_per_s"], row["requests_per_s"]) == (511.9, 86.48, 0.17)


def test_aiperf_records_beside_the_summary_become_requests(tmp_path):
    (run,) = read("aiperf", tmp_path)
    assert run.requests is not None
    assert run.requests.arrival_s.tolist() == [0.0, 1.0]
    np.testing.assert_allclose(run.requests.tpot_s, 0.012)


def test_every_benchmark_of_a_guidellm_report_is_a_run(tmp_path):
    report = json.loads(load("guidellm").example()["benchmarks.json"])
    poisson = report["benchmarks"][0] | {"config": {"strategy": {"type_": "poisson", "rate": 3.0}}}
    none = report["benchmarks"][0] | {"metrics": {"request_totals": {"successful": 0}}}
    (tmp_path / "b.json").write_text(json.dumps(report | {"benchmarks": [*report["benchmarks"], poisson, none]}))
    done = import_file(tmp_path / "b.json", tmp_path / "set", cells={"device": "h100-sxm"})
    assert done.runs == ("b-1-concurrent", "b-2-poisson")
    closed, opened = (row.values for row in read_table(tmp_path / "set" / "runs.csv").rows)
    assert (closed["load"], closed["concurrency"], opened["load"]) == ("concurrency", 2, "trace")
    assert closed["itl_mean_s"] == pytest.approx(0.01)
    assert closed["tpot_mean_s"] == pytest.approx(0.01)


def test_a_sample_of_guidellms_requests_is_no_trace(tmp_path):
    report = json.loads(load("guidellm").example()["benchmarks.json"])
    report["benchmarks"][0]["metrics"]["request_totals"]["successful"] = 50
    row = imported(tmp_path, json.dumps(report))
    assert "trace" not in row
    assert row["requests"] == 50


def test_a_metrics_page_gives_means_of_queue_and_steps_at_the_server(tmp_path):
    row = imported(tmp_path, load("prometheus").example()["metrics.txt"], "m.txt", load="rate", rate_rps="4")
    assert (row["ttft_mean_s"], row["itl_mean_s"], row["queue_mean_s"]) == (0.05, 0.01, 0.0025)
    assert row["step_tokens_mean"] == 22.6
    assert (row["input_tokens"], row["output_tokens"], row["requests"]) == (200, 26, 4)
    assert (row["kv_capacity_tokens"], row["prefix_caching"], row["measured_at"]) == (16000, True, "server")


def test_a_metrics_page_of_sglang_is_read_by_its_own_names(tmp_path):
    text = "".join(
        f'sglang:{name}_{part}{{model_name="{LLAMA}"}} {value}\n'
        for name, values in {"time_to_first_token_seconds": (2, 10), "e2e_request_latency_seconds": (30, 10),
                             "inter_token_latency_seconds": (9, 1000)}.items()
        for part, value in zip(("sum", "count"), values, strict=True)
    )  # fmt: skip
    row = imported(tmp_path, text, "m.txt", load="concurrency", concurrency="2")
    assert (row["engine"], row["ttft_mean_s"], row["e2e_mean_s"], row["itl_mean_s"]) == ("sglang", 0.2, 3.0, 0.009)


def test_what_a_file_never_says_must_be_given(tmp_path):
    example = written("vllm-bench-latency", tmp_path)
    with pytest.raises(UsageError, match=r"no vllm-bench-latency file says requests: give it with --set requests="):
        import_file(example, tmp_path / "set", cells={"model": LLAMA, "device": "h100-sxm"})


def test_imports_add_to_a_set_and_never_replace_a_run(tmp_path):
    example = written("vllm-bench-serve", tmp_path)
    given = {"device": "h100-sxm"}
    import_file(example, tmp_path / "set", name="a", cells=given)
    before = (tmp_path / "set" / "runs.csv").read_text()
    import_file(example, tmp_path / "set", name="b", cells=given | {"max_num_seqs": "64"})
    rows = read_table(tmp_path / "set" / "runs.csv").rows
    assert [(row.name, row.get("max_num_seqs")) for row in rows] == [("a", None), ("b", 64)]
    assert rows[0].measured() == read_back(tmp_path, before).rows[0].measured()
    with pytest.raises(UsageError, match="has a run 'a' already"):
        import_file(example, tmp_path / "set", name="a", cells=given)
    assert len(read_table(tmp_path / "set" / "runs.csv").rows) == 2


def read_back(tmp_path: Path, text: str):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "runs.csv").write_text(text)
    return read_table(tmp_path / "before" / "runs.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("hello", "the content is of no known result file"),
        ('{"mean_ttft_ms": 1, "request_throughput": 1, "completed": 0}', "no request succeeded"),
        ('{"mean_ttft_ms": 1, "request_throughput": 1, "completed": 3, "input_lens": [1], "output_lens": [1, 2], '
         '"ttfts": [1], "itls": [[1], [2]]}', "lists of"),
        ('{"benchmarks": [{"metrics": {"request_totals": 3}}]}', "not shaped as GuideLLM"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_result_is_one_line(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        import_file(tmp_path / "x.json", tmp_path / "set", cells={"model": LLAMA, "device": "h100-sxm"})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_the_command_writes_a_set_that_validate_takes(tmp_path):
    example = written("vllm-bench-serve", tmp_path)
    run = CliRunner().invoke(app, ["import", str(example), "--device", "h100-sxm", "--out", str(tmp_path / "set")])
    assert run.exit_code == 0, run.output
    assert run.stdout.splitlines()[-1] == str(tmp_path / "set" / "runs.csv")
    checked = CliRunner().invoke(app, ["validate", str(tmp_path / "set"), "--workers", "1"])
    assert checked.exit_code == 0, checked.output
    assert "1 measured run in 1 set: 1 simulated, 0 skipped" in checked.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "tq=3"], "--set tq: no such column"),
        (["--set", "weights=fp9"], "weights is 'fp9'; did you mean 'fp"),
        (["--set", "load"], "--set 'load' (allowed: COLUMN=VALUE)"),
        (["--format", "vlm-bench-serve"], "unknown result format 'vlm-bench-serve'; did you mean 'vllm-bench-serve'?"),
    ],
)
def test_a_wrong_flag_of_import_is_usage(tmp_path, flags, words):
    example = written("vllm-bench-serve", tmp_path)
    run = CliRunner().invoke(app, ["import", str(example), "--out", str(tmp_path / "set"), *flags])
    assert run.exit_code == 2
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_row_that_cannot_be_simulated_yet_says_why(tmp_path):
    example = written("vllm-bench-serve", tmp_path)
    run = CliRunner().invoke(app, ["import", str(example), "--device", "h900", "--out", str(tmp_path / "set")])
    assert run.exit_code == 0
    assert "cannot be simulated as it is" in run.stderr
    assert "unknown device 'h900'" in run.stderr


@pytest.mark.parametrize("value", ["abc", -61.2])
def test_a_measured_time_that_is_none_is_an_error_not_a_gap(tmp_path, value):
    with pytest.raises(InputError, match=r"result\.json: mean_ttft_ms = .*allowed: a number, 0 or more"):
        imported(tmp_path, serve(mean_ttft_ms=value))


def test_a_time_that_a_tool_leaves_out_is_no_error(tmp_path):
    assert "tpot_mean_s" not in imported(tmp_path, serve(mean_tpot_ms=0.0, itls="absent", ttfts="absent"))


def test_cut_json_is_called_so(tmp_path):
    with pytest.raises(InputError, match=r"result\.json: not valid JSON"):
        imported(tmp_path, '{"mean_ttft_ms": ')
