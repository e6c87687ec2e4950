"""``apexsim simulate``: what it prints and writes, and one line and the right exit code for every mistake."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from numba.core import event
from typer.testing import CliRunner

from apexsim import scenario
from apexsim.cli.main import app
from tests.scenario_worlds import PLAN_YAML, TRACE_CSV, write_inputs

HEADER = "arrival_s,input_tokens,output_tokens\n"


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def simulate(folder, *flags: str, plan: str = PLAN_YAML, trace: str = TRACE_CSV):
    plan_file, trace_file = write_inputs(folder, plan, trace)
    return run("simulate", plan_file, "--trace", trace_file, *flags)


def assert_one_line_error(result, code: int, *says: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("defaults", "compiling"))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for text in says:
        assert text in lines[0]


def test_json_dash_prints_only_json_and_says_the_rest_on_stderr(tmp_path):
    result = simulate(tmp_path, "--slo", "ttft=1s,tpot=50ms@0.9", "--json", "-")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["requests"]["completed"] == 40
    assert summary["slo"]["by_limit"].keys() == {"ttft", "tpot"}
    assert result.stderr.count("defaults in force") == 1
    assert "max_num_batched_tokens=8192" in result.stderr
    assert "max_num_seqs" not in result.stderr  # it is written in the plan


def test_the_tables_say_units_percentiles_and_the_slo(tmp_path):
    result = simulate(tmp_path, "--slo", "ttft:p99<=1s")
    assert result.exit_code == 0, result.output
    for text in ("Llama-3.1-8B on 2 × h100-sxm", "TTFT", "p99", "SLO met: ttft:p99<=1s"):
        assert text in result.stdout
    for text in ("USD/M tokens", "J/token", "tokens/s", "idle"):
        assert text in result.stdout


def test_files_are_written_whole(tmp_path):
    out, table = tmp_path / "new" / "result.json", tmp_path / "requests.parquet"
    out.parent.mkdir()
    result = simulate(tmp_path, "--json", str(out), "--requests-out", str(table))
    assert result.exit_code == 0, result.output
    summary = json.loads(out.read_text())
    requests = pd.read_parquet(table)
    assert len(requests) == summary["requests"]["total"] == 40
    assert requests["ttft_s"].mean() == pytest.approx(summary["ttft_s"]["mean"])
    assert sorted(p.name for p in out.parent.iterdir()) == ["result.json"]


@pytest.mark.parametrize(
    ("flags", "rate"),
    [(["--rate", "20"], 20.0), (["--rate-scale", "2"], 8.0), (["--rate", "20", "--requests", "5"], 20.0)],
)
def test_the_load_is_what_was_asked_for(tmp_path, flags, rate):
    table = tmp_path / "requests.parquet"
    assert simulate(tmp_path, *flags, "--requests-out", str(table)).exit_code == 0
    arrivals = pd.read_parquet(table)["arrival_s"].to_numpy()
    assert len(arrivals) == (5 if "--requests" in flags else 40)
    assert (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) == pytest.approx(rate)


def test_price_carbon_and_warm_up_reach_the_figures(tmp_path):
    result = simulate(tmp_path, "--price", "9", "--carbon", "360", "--concurrency", "4", "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["cost"]["usd_per_hour"] == 18.0
    assert summary["carbon"]["g_co2e"] == pytest.approx(summary["energy"]["total_j"] / 1e4)
    cold, warm = (
        json.loads(simulate(tmp_path, "--json", "-", *flag).stdout) for flag in ([], ["--warmup"])
    )
    assert cold["requests"] == warm["requests"]
    assert cold["ttft_s"] != warm["ttft_s"]


def test_a_request_longer_than_the_context_or_the_cache_is_rejected_and_counted(tmp_path):
    long = HEADER + "0,100,10\n1,140000,10\n2,100,10\n"
    counts = json.loads(simulate(tmp_path, "--json", "-", trace=long).stdout)["requests"]
    assert (counts["total"], counts["completed"], counts["rejected"]) == (3, 2, 1)
    tight = PLAN_YAML.replace("tp: 1", "tp: 1, gpu_memory_utilization: 0.26")
    long = HEADER + "0,100,10\n1,120000,10\n"
    result = simulate(tmp_path, "--json", "-", plan=tight, trace=long)
    summary = json.loads(result.stdout)
    assert summary["memory"]["kv_capacity_tokens"] < 120_000
    assert summary["requests"]["rejected"] == 1


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ("", "empty"),
        (HEADER, "empty"),
        (HEADER + "5,10,10\n1,10,10\n", "arrival"),
        (HEADER + "0,10,0\n", "output"),
        (HEADER + "0,-3,5\n", "input"),
        (HEADER + "0,nan,5\n", "input"),
        ("who,knows\n1,2\n", "format"),
    ],
)
def test_a_bad_trace_ends_with_5(tmp_path, trace, says):
    assert_one_line_error(simulate(tmp_path, trace=trace), 5, "trace.csv", says)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("model: Llama-3.1-8B\ncluster: 8xh100-sxm\npools: [{tp: 2", "not YAML"),
        ("", "empty"),
        (PLAN_YAML.replace("replicas", "replcas"), "did you mean 'replicas'"),
        (PLAN_YAML.replace("tp: 1", "tp: 0"), "tp = 0"),
        (PLAN_YAML.replace("tp: 1", "tp: two"), "tp = 'two'"),
        (PLAN_YAML.replace("tp: 1", "tp: 3"), "does not divide the 32 attention heads"),
        (
            PLAN_YAML.replace("max_num_seqs: 64", "max_num_seqs: 64, max_num_batched_tokens: 8"),
            "pools[0].scheduler: max_num_batched_tokens 8 is below max_num_seqs 64",
        ),
        (PLAN_YAML.replace("tp: 1", "tp: 1, role: encode"), "role=encode and none that prefills or serves"),
    ],
)
def test_a_bad_plan_ends_with_5(tmp_path, plan, says):
    assert_one_line_error(simulate(tmp_path, plan=plan), 5, "plan.yaml", says)


def test_a_truncated_json_plan_ends_with_5(tmp_path):
    _, trace = write_inputs(tmp_path)
    (tmp_path / "plan.json").write_text('{"model": "Llama-3.1-8B", "cluster": ')
    result = run("simulate", str(tmp_path / "plan.json"), "--trace", trace)
    assert_one_line_error(result, 5, "plan.json", "line 1", "not JSON")


def test_a_file_that_is_not_there_ends_with_5(tmp_path):
    plan, trace = write_inputs(tmp_path)
    assert_one_line_error(run("simulate", str(tmp_path / "no.yaml"), "--trace", trace), 5, "no.yaml", "no such file")
    assert run("simulate", plan, "--trace", str(tmp_path / "no.csv")).exit_code in (2, 5)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (PLAN_YAML.replace("Llama-3.1-8B", "Llama-3.1-8"), "Llama-3.1-8B"),
        (PLAN_YAML.replace("h100-sxm", "h100-smx"), "did you mean 'h100-sxm'"),
        (
            PLAN_YAML.replace("max_num_seqs: 64", "preset: vlm"),
            "yaml: pools[0].scheduler: unknown scheduler preset 'vlm'; did you mean 'vllm'",
        ),
        (PLAN_YAML + "router: last-loaded\n", "router: unknown router 'last-loaded'; did you mean 'least-loaded'"),
    ],
)
def test_an_unknown_name_ends_with_2_and_the_nearest_one(tmp_path, plan, says):
    assert_one_line_error(simulate(tmp_path, plan=plan), 2, says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rate", "1", "--concurrency", "2"], "exclude each other"),
        (["--rate", "0"], "rate"),
        (["--rate-scale", "-1"], "--rate-scale is -1"),
        (["--seed", "-1"], "--seed -1: input"),
        (["--concurrency", "0"], "--concurrency 0: input"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--slo", "ttft=2"], "unit"),
        (["--slo", "tftt=2s"], "ttft"),
        (["--slo", ""], "SLO"),
    ],
)
def test_a_wrong_flag_ends_with_2(tmp_path, flags, says):
    assert_one_line_error(simulate(tmp_path, *flags), 2, says)


def test_an_unknown_router_is_found_before_the_trace_is_read(tmp_path):
    result = simulate(tmp_path, plan=PLAN_YAML + "router: last-loaded\n", trace="no,trace\n")
    assert_one_line_error(result, 2, "router")


def test_usage_mistakes_of_the_command_line_end_with_2(tmp_path):
    plan, _ = write_inputs(tmp_path)
    assert_one_line_error(run("simulate", plan), 2, "missing option '--trace'", "--help` says more")
    assert_one_line_error(run("simulte", plan), 2, "no such command 'simulte'")


def test_a_plan_that_does_not_fit_ends_with_3_and_says_where_it_would(tmp_path):
    plan = PLAN_YAML.replace("Llama-3.1-8B", "Llama-3.1-70B")
    assert_one_line_error(
        simulate(tmp_path, plan=plan), 3, "short by", "h100-sxm", "would fit at tp=2 with 2 replicas"
    )
    plan = PLAN_YAML.replace("Llama-3.1-8B", "Llama-3.1-405B").replace("8xh100", "4xh100")
    assert_one_line_error(simulate(tmp_path, plan=plan), 3, "short by", "fits at no larger tp on 4xh100-sxm")


@pytest.mark.parametrize("flag", ["--json", "--requests-out"])
def test_an_output_that_cannot_be_written_ends_with_2_before_the_work(tmp_path, flag, monkeypatch):
    monkeypatch.setattr("apexsim.scenario.replay", lambda *a, **k: pytest.fail("the work was done"))
    (tmp_path / "file").write_text("")
    assert_one_line_error(simulate(tmp_path, flag, str(tmp_path / "file" / "out")), 2, "cannot be written")
    assert_one_line_error(simulate(tmp_path, flag, str(tmp_path)), 2, "cannot be written")
    missing = tmp_path / "no" / "such"
    assert_one_line_error(simulate(tmp_path, flag, str(missing / "out")), 2, f"there is no folder {missing}")
    assert not missing.parent.exists()


def test_an_interrupt_ends_with_130(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("apexsim.scenario.replay", interrupted)
    result = simulate(tmp_path)
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("apexsim.scenario.replay", lambda *a, **k: 1 / 0)
    assert isinstance(simulate(tmp_path).exception, ZeroDivisionError)


def test_a_run_says_that_it_compiles_where_it_does(tmp_path, monkeypatch):
    def compiling(prepared, *arguments, real=scenario.replay, **options):
        for _ in range(2):  # several kernels are compiled, and it is said once
            event.broadcast(event.Event("numba:compile", event.EventStatus.START))
        return real(prepared, *arguments, **options)

    simulate(tmp_path)  # compiles what it needs
    assert "compiling" not in simulate(tmp_path).stderr
    monkeypatch.setattr("apexsim.scenario.replay", compiling)
    assert simulate(tmp_path).stderr.count("compiling the engine (first run only)") == 1


def test_where_others_compile_it_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr("apexsim.engine.compiling.is_compiled", lambda: False)
    assert "compiling the engine" in run("check", str(tmp_path / "none.yaml")).stderr
    monkeypatch.setattr("apexsim.engine.compiling.is_compiled", lambda: True)
    assert "compiling" not in run("check", str(tmp_path / "none.yaml")).stderr


def test_outputs_are_files_of_their_own(tmp_path):
    out = str(tmp_path / "x.json")
    assert_one_line_error(simulate(tmp_path, "--json", out, "--timeline", out), 2, "--json and by --timeline")
    assert_one_line_error(simulate(tmp_path, "--timeline", "-"), 2, "--timeline -", "a file name")
