"""``apexsim trace`` as a user types it: answers on stdout, notes on stderr, mistakes in one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from apexsim.cli.main import app
from apexsim.workload.read import read_trace

OWN = "arrival_s,input_tokens,output_tokens,class\n0,10,1,chat\n10,20,2,code\n20,30,3,chat\n40,40,4,chat\n"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["trace", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_describe_prints_tables_or_json_on_stdout_alone(log):
    assert "0.0750 requests/s" in run("describe", log).stdout.replace("0.07500", "0.0750")
    result = run("describe", log, "--json", "-")
    assert json.loads(result.stdout)["requests"] == 4
    assert result.stderr == ""


def test_describe_writes_json_to_a_file(log, tmp_path):
    assert "there is no folder" in run("describe", log, "--json", tmp_path / "out" / "stats.json", code=2).stderr
    (tmp_path / "out").mkdir()
    result = run("describe", log, "--json", tmp_path / "out" / "stats.json")
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["rate_rps"] == 0.075
    assert "Tokens of a request" in result.stdout


def test_notes_and_progress_go_to_stderr(tmp_path):
    (tmp_path / "lengths.csv").write_text("input_tokens,output_tokens\n5,6\n7,8\n", encoding="utf-8")
    result = run("describe", tmp_path / "lengths.csv")
    assert "note: the file has no arrival times" in result.stderr
    assert "note:" not in result.stdout


def test_the_bundled_day_is_described_by_its_name():
    found = json.loads(run("describe", "burstgpt-day", "--json", "-").stdout)
    assert found["requests"] == 23_033
    assert set(found["classes"]) == {"API log", "Conversation log"}


def test_convert_applies_its_flags_in_their_order(log, tmp_path):
    out = tmp_path / "out.parquet"
    result = run("convert", log, out, "--class", "chat", "--window", "20s:1min", "--repeat", 2, "--rate", 0.5)
    assert "wrote" in result.stderr
    trace = read_trace(out)
    # chat at 20 and 40 s → 0 and 20; a copy a mean gap later → 0, 20, 40, 60; 0.05 to 0.5 requests/s → a tenth.
    assert trace.arrival_s == pytest.approx([0, 2, 4, 6])
    assert trace.input_tokens.tolist() == [30, 40, 30, 40]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_convert_to_each_ending_loses_nothing(log, tmp_path, ending):
    run("convert", log, tmp_path / f"out.{ending}")
    again, trace = read_trace(tmp_path / f"out.{ending}"), read_trace(log)
    assert again.arrival_s.tolist() == trace.arrival_s.tolist()
    assert again.classes == trace.classes


def test_convert_thins_heads_jitters_scales_and_imposes_arrivals(log, tmp_path):
    out = tmp_path / "out.csv"
    run("convert", log, out, "--sample", 2, "--seed", 3)
    assert len(read_trace(out)) == 2
    run("convert", log, out, "--head", 3, "--rate-scale", 2)
    assert read_trace(out).arrival_s.tolist() == [0, 5, 10]
    run("convert", log, out, "--jitter", "500ms")
    assert read_trace(out).arrival_s.tolist() != read_trace(log).arrival_s.tolist()
    assert "Poisson at 3 requests/s" in run("convert", log, out, "--poisson", 3).stderr
    run("convert", log, tmp_path / "out.jsonl", "--format", "apex")
    assert read_trace(tmp_path / "out.jsonl").source.endswith("(apex)")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rate", 1, "--poisson", 1), "--rate and --poisson contradict each other"),
        (("--window", "0:600"), "--window: "),
        (("--jitter", "3"), "--jitter: "),
        (("--seed", -1, "--sample", 2), "--seed -1: input"),
        (("--rate", "1e-300"), "--rate is 1e-300 (allowed: 1e-09 to 1e+09)"),
        (("--rate-scale", "nan"), "--rate-scale is nan (allowed: more than 0)"),
        (("--poisson", -1), "--poisson is -1 (allowed: more than 0)"),
        (("--repeat", 100_000_000), "(allowed: 1 to 50,000,000)"),
        (("--repeat", 0), "--repeat 0: input"),
        (("--head", -1), "--head -1: input"),
        (("--rate-scale", 1e-9, "--format", "apex"), "in nanoseconds is more than APEX+'s format holds"),
        (("--no-such-flag",), "no such option"),
        (("--window", "600s"), "FROM:TO with units"),
        (("--class", "chats"), "did you mean 'chat'"),
        (("--sample", 9), "allowed: 1 to 4"),
        (("--rate", 0), "--rate is 0"),
        (("--format", "xml"), "unknown output format 'xml'"),
        (("--from", "azur"), "did you mean 'azure'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_code_2(log, tmp_path, flags, said):
    result = run("convert", log, tmp_path / "out.csv", *flags, code=2)
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_a_bad_file_is_one_line_and_code_5(tmp_path):
    (tmp_path / "bad.csv").write_text("arrival_s,input_tokens,output_tokens\n0,5,0\n", encoding="utf-8")
    for arguments, said in (
        ((tmp_path / "bad.csv",), "row 1: output_tokens is 0"),
        ((tmp_path / "none.csv",), "no such file"),
        ((tmp_path,), "is a folder"),
    ):
        result = run("describe", *arguments, code=5)
        assert said in result.stderr
        assert result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1


def test_an_output_that_cannot_be_written_is_code_2(log, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "cannot be written" in run("convert", log, tmp_path / "file" / "out.csv", code=2).stderr


def test_synthesize_burstgpt_equals_the_library(tmp_path):
    from apexsim.workload.burstgpt import burstgpt

    out = tmp_path / "day.csv.gz"
    run("synthesize", "burstgpt", "--out", out, "--rate", 0.02, "--seed", 4)
    trace, drawn = read_trace(out), burstgpt(1, 0.02, 4)
    assert trace.arrival_s.tolist() == drawn.arrival_s.tolist()
    assert trace.session.tolist() == drawn.session.tolist()


def test_synthesize_poisson_and_gamma(tmp_path):
    out = tmp_path / "out.csv"
    lengths = ("--input", "uniform:10:20", "--output", "lognormal:30:60")
    run("synthesize", "poisson", "--rate", 2, "--requests", 200, *lengths, "--out", out)
    trace = read_trace(out)
    assert len(trace) == 200
    assert set(trace.input_tokens.tolist()) <= set(range(10, 21))
    found = run("synthesize", "gamma", "--rate", 2, "--cv", 0, "--requests", 9, "--out", out, "--json", "-")
    assert json.loads(found.stdout)["iat_cv"] == pytest.approx(0, abs=1e-9)
    assert "allowed: TOKENS" in run("synthesize", "poisson", "--rate", 2, "--input", "x", "--out", out, code=2).stderr


def test_synthesize_servegen(tmp_path):
    from apexsim.testing.trace_format import written

    table = written("servegen", tmp_path)
    run("synthesize", "servegen", table, "--duration", "5min", "--out", tmp_path / "out.parquet")
    assert 5 <= len(read_trace(tmp_path / "out.parquet")) <= 60
    assert (
        "did you mean 'm-tiny'"
        in run("synthesize", "servegen", table, "--workload", "m-tyni", "--out", tmp_path / "o.csv", code=2).stderr
    )
