"""``apexsim validate`` as a user meets it: tables, JSON, pictures, exit codes, mistakes of one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from apexsim.cli.main import app
from benchmarks import validate as doc_table
from tests.validation_worlds import CLOSED, OFFLINE, write_set


def run(*arguments: object):
    return CliRunner().invoke(app, ["validate", *map(str, arguments), "--workers", "1"])


@pytest.fixture
def folder(tmp_path):
    rows = (
        CLOSED | {"regime": "light"},
        CLOSED | {"run": "b", "mode": "disagg"},
        OFFLINE | {"run": "c", "kv_capacity_tokens": 400_000},
    )
    return write_set(tmp_path / "mine", *rows)


def test_the_answer_is_measured_simulated_and_error(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    out = " ".join(result.stdout.split())
    assert "3 measured runs in 1 set: 2 simulated, 1 skipped" in out
    assert "run metric measured simulated error" in out
    assert "a ttft_mean_s 50ms" in out
    assert "set metric n median mean p90 worst bias" in out
    assert "regime metric" in out
    assert "a disaggregated run needs its workers" in out


def test_assumptions_are_said_once_with_their_runs_on_stderr(folder):
    lines = [line for line in run(folder).stderr.splitlines() if line.startswith("assumed")]
    assert "assumed in 2 runs: pp = 1" in lines
    assert "assumed in 1 run: requests = 40 (10 x concurrency)" in lines
    assert len(lines) == len(set(lines))


def test_runs_are_shown_where_they_are_few_or_asked_for(folder):
    for flags, shown in (((), True), (("--runs",), True), (("--no-runs",), False)):
        assert ("measured        simulated" in run(folder, *flags).stdout) == shown


def test_json_alone_on_stdout(folder):
    result = run(folder, "--json", "-")
    data = json.loads(result.stdout)
    assert [row["run"] for row in data["runs"]] == ["a", "b", "c"]
    assert data["summary"]["kv_capacity_tokens"]["n"] == 1


def test_json_and_picture_as_files(folder, tmp_path):
    result = run(folder, "--json", tmp_path / "v.json", "--plot", tmp_path / "v.png")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "v.json").read_text())["sets"]["mine"]["runs"] == 3
    assert (tmp_path / "v.png").read_bytes()[:4] == b"\x89PNG"
    assert f"written: {tmp_path / 'v.png'}" in result.stderr


def test_a_bound_that_holds_is_silent_and_one_that_does_not_ends_with_4(folder):
    assert run(folder, "--max-error", "ttft=1000%,tpot=10").exit_code == 0
    result = run(folder, "--max-error", "ttft=0.000001, tpot=99")
    assert result.exit_code == 4
    assert "error: ttft: median error" in result.stderr.splitlines()[-1]
    assert "is above 0.0001 %" in result.stderr
    assert "measured runs" in result.stdout  # the table is there all the same


def test_a_bound_on_what_nobody_measured_ends_with_4(folder):
    result = run(folder, "--max-error", "e2e=0.1")
    assert result.exit_code == 4
    assert "error: e2e: no simulated run measured e2e_mean_s" in result.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-error", "e2=0.1"], "--max-error: unknown metric 'e2'; did you mean 'e2e'? (known: e2e, itl, power, "),
        (["--max-error", ""], "--max-error: unknown metric ''"),
        (["--max-error", "e2e"], "--max-error: e2e= (allowed: a share, 0.1 or 10%)"),
        (["--max-error", "e2e=-1"], "--max-error: e2e=-1 (allowed: a share"),
        (["--max-error", "e2e=nan"], "--max-error: e2e=nan (allowed: a share"),
        (["--filter", "load"], "--filter 'load' (allowed: COLUMN=VALUE)"),
        (["--filter", "laod=rate"], "unknown column 'laod'; did you mean 'load'?"),
        (["--assume", "tp=none"], "tp is 'none' (allowed: a whole number, 1 to 100,000)"),
        (["--set", "mne"], "unknown set 'mne'; did you mean 'mine'?"),
        (["--plot", "v.gif"], "--plot v.gif: ending '.gif' (allowed: .png, .pdf, .svg)"),
        (["--json", "/no/such/folder/v.json"], "cannot be written"),
    ],
)
def test_a_wrong_flag_is_one_line_and_ends_with_2(folder, flags, words):
    result = run(folder, *flags)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_wrong_table_is_one_line_and_ends_with_5(tmp_path):
    result = run(write_set(tmp_path, CLOSED | {"tp": "two"}))
    assert result.exit_code == 5
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "row 1 (a): column 'tp' is 'two' (allowed: a whole number, 1 to 100,000)" in result.stderr


def test_a_folder_that_is_not_there_ends_with_5(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 5
    assert "no such folder" in result.stderr


def test_only_what_is_asked_for_is_simulated(folder):
    result = run(folder, "--filter", "load=offline", "--set", "mine")
    assert "1 measured run in 1 set: 1 simulated, 0 skipped" in result.stdout


def test_the_table_of_the_docs_is_made_of_the_run(folder, tmp_path, monkeypatch):
    """Date, version, counts and errors come from the run; a page without a mark is left as it is."""
    write_set(folder.parent / "other", CLOSED | {"notes": "part of which the prefix cache served",
                                                 "prefix_caching": "true"})  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: validation -->\nold\n<!-- end of table -->\nafter\n")
    monkeypatch.setattr(doc_table, "ROOT", tmp_path)
    monkeypatch.setattr(doc_table, "PAGES", ("page.md",))
    monkeypatch.setattr("sys.argv", ["validate.py", str(folder.parent), "--write"])
    doc_table.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- table: validation -->\n")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
    assert "4 measured runs in 2 sets: 3 simulated, 1 skipped. apexsim " in text
    assert "| mine | tpot_mean_s | 1 |" in text
    assert "| other | none of the prompt tokens cached | tpot_mean_s | 1 |" in text
    assert "| other | half of them cached | tpot_mean_s | 1 |" in text
    assert "| all sets | ttft_mean_s | 2 |" in text
