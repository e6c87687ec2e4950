"""``apexsim search`` and ``ax.search``: the answer, the files, the exit codes, and what Ctrl-C leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import apexsim as ax
from apexsim.cli.main import app
from apexsim.search.journal import read
from apexsim.spec import catalog
from apexsim.workload.synthetic import poisson
from apexsim.workload.write import write_trace

SPACE = """
tp: [2, 4]
pp: [1]
weights: [fp8]
kv_cache: [bf16]
max_num_batched_tokens: [8192]
max_num_seqs: [256]
"""
SLO = "ttft=2s,tpot=100ms@0.9"
BASE = ("--model", "Llama-3.1-70B", "--cluster", "4xh100-sxm", "--slo", SLO, "--workers", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small trace and a small space."""
    write_trace(poisson(2.0, 300, 600, 150, seed=4), tmp_path / "trace.csv")
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def search(folder: Path, *more: str):
    files = ("--trace", str(folder / "trace.csv"), "--space", str(folder / "space.yaml"))
    out = () if "--out" in more else ("--out", str(folder / "out"))
    return CliRunner().invoke(app, ["search", *BASE, *files, *out, *more])


def test_the_answer_is_a_table_on_stdout_and_files_in_the_folder(folder):
    result = search(folder)
    assert result.exit_code == 0, result.stderr
    assert "3 of 3 feasible plans by goodput" in result.stdout
    assert "2xtp2-fp8-kvbf16" in result.stdout
    assert "defaults in force: router=least-loaded" in result.stderr
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {
        "result.json", "plans.parquet", "requests.parquet", "journal.jsonl", "pareto.png", "goodput.png", "launch",
        "report.html",
    }  # fmt: skip
    assert "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 2 --quantization fp8" in result.stdout
    launch = {path.name for path in (folder / "out" / "launch").iterdir()}
    assert launch == {"plan.yaml", "launch.sh", "router.conf", "kubernetes.yaml", "dynamo.yaml"}
    assert catalog.load_plan(folder / "out" / "launch" / "plan.yaml").id == "2xtp2-fp8-kvbf16-t8192-s256"
    data = json.loads((folder / "out" / "result.json").read_text())
    table = pd.read_parquet(folder / "out" / "plans.parquet")
    assert table["id"].tolist() == [plan["id"] for plan in data["plans"]]
    assert table["goodput_rps"].is_monotonic_decreasing
    assert len(pd.read_parquet(folder / "out" / "requests.parquet")) == 300


def test_json_goes_to_stdout_alone(folder):
    result = search(folder, "--json", "-")
    assert json.loads(result.stdout)["plans"][0]["rank"] == 1


def test_equal_searches_write_equal_bytes(folder):
    for name in ("one", "two"):
        assert search(folder, "--out", str(folder / name)).exit_code == 0
    one, two = (sorted(path for path in (folder / name).rglob("*") if path.is_file()) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        if a.name == "result.json":
            first, second = (json.loads(path.read_text()) for path in (a, b))
            assert first["simulation"].pop("wall_s") != second["simulation"].pop("wall_s")
            assert first == second
        else:
            assert a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize(
    "objective", ["goodput-per-device", "attainment", "energy", "cost", "latency", "carbon", "devices"]
)
def test_every_objective_ranks(folder, objective):
    result = search(folder, "--objective", objective, "--carbon", "400", "--json", "-")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["plans"]) == 3


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--objective", "speed"), 2, "unknown objective 'speed'"),
        (("--strategy", "gird"), 2, "did you mean 'grid'"),
        (("--pareto", "energy"), 2, "--pareto energy: one axis has no front"),
        (("--pareto", "energy,speed"), 2, "unknown axis of --pareto 'speed'"),
        (("--max-devices", "0"), 2, "--max-devices 0: must be a whole number from 1"),
        (("--max-usd-per-hour", "-3"), 2, "--max-usd-per-hour -3: must be a number of dollars above 0"),
        (("--engine", "vlm"), 2, "did you mean 'vllm'"),
        (("--max-usd-per-hour", "0.5"), 3, "within max_usd_per_hour = 0.5"),
        (("--backend", "slurm"), 2, "unknown backend 'slurm' (known: dask, process, ray)"),
        (("--objective", "carbon"), 2, "--carbon"),
        (("--cluster", "4xh1000"), 2, "h100"),
        (("--model", "Llama-3.1-71B"), 2, "Llama-3.1-70B"),
        (("--slo", "ttft=2"), 2, "ttft"),
        (("--rate", "0"), 2, "--rate 0"),
        (("--out", "/proc/nowhere/out"), 2, "cannot be written"),
        (("--slo", "ttft=1ms@0.9"), 3, "the nearest is"),
        (("--cluster", "1xh100-sxm"), 3, "holds no plan"),
    ],
)
def test_mistakes_are_one_line_with_their_exit_code(folder, flags, code, words):
    result = search(folder, *flags)
    assert result.exit_code == code, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


def test_chosen_axes_are_in_every_file_and_on_stdout(folder):
    (folder / "space.yaml").write_text(SPACE + "max_devices: 2\n")
    flags = ("--pareto", "latency,devices", "--objective", "goodput-per-device", "--max-devices", "4")
    result = search(folder, *flags)
    assert result.exit_code == 0, result.stderr
    assert "--max-devices 4, not max_devices = 2 of the space" in result.stderr
    said = " ".join(result.stdout.split())
    assert "3 of 3 feasible plans by goodput per device" in said
    assert "The Pareto front over median E2E and number of devices: " in said
    assert "The best plan by each figure." in said
    data = json.loads((folder / "out" / "result.json").read_text())
    table = pd.read_parquet(folder / "out" / "plans.parquet")
    assert data["pareto_axes"] == ["latency", "devices"]
    assert set(table["id"][table["on_pareto_front"]]) == set(data["pareto"])
    points = table[["e2e_p50_s", "devices"]].to_numpy()
    beaten = [any((other <= own).all() and (other < own).any() for other in points) for own in points]
    assert table["on_pareto_front"].tolist() == [not b for b in beaten]


def test_a_truncated_space_is_a_bad_input(folder):
    (folder / "space.yaml").write_text("tp: [1,")
    assert search(folder).exit_code == 5


def test_ctrl_c_leaves_the_finished_part(folder):
    """A real interrupt, in the middle of a search over two worker processes."""
    write_trace(poisson(2.0, 20_000, 600, 150, seed=4), folder / "trace.csv")
    command = [sys.executable, "-m", "apexsim.cli.main", "search", *BASE[:-1], "2", "--trace",
               str(folder / "trace.csv"), "--out", str(folder / "out")]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = folder / "out" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and b'"evaluated"' in journal.read_bytes()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    data = json.loads((folder / "out" / "result.json").read_text())
    assert data["plans"]
    assert "interrupted" in stdout
    evaluated = {entry["evaluated"]["id"] for entry in read(journal) if "evaluated" in entry}
    assert {plan["id"] for plan in data["plans"]} == evaluated


def test_the_api_returns_what_the_command_writes(folder):
    found = ax.search(
        "Llama-3.1-70B", "4xh100-sxm", folder / "trace.csv", SLO, space=folder / "space.yaml", workers=1,
        pareto=["energy", "latency", "devices"], max_devices=4,
    )  # fmt: skip
    assert found.best.id == found.to_pandas()["id"][0] == found.to_dict()["plans"][0]["id"]
    assert found.best_run.summary.slo.met
    assert "<table" in found._repr_html_()
    assert "J/tok than the most frugal one" in found._repr_html_() or "also the most frugal one" in found._repr_html_()
    assert "The Pareto front over energy at goodput, median E2E and number of devices" in found._repr_html_()
    assert found.plot_pareto().get_xlabel() == "energy at goodput, J per output token"
    assert found.plot_goodput().get_ylabel() == "SLO attainment"


def test_a_search_without_a_winner_is_an_answer_and_its_best_an_error(folder):
    found = ax.search(
        "Llama-3.1-70B", "4xh100-sxm", folder / "trace.csv", "ttft=1ms", space=folder / "space.yaml", workers=1
    )
    assert found.to_dict()["plans"] == []
    assert found.to_pandas().empty
    with pytest.raises(ax.ApexsimError, match="the nearest is"):
        _ = found.best


def test_no_command_of_an_earlier_answer_stays_beside_another_one(folder):
    here = folder / "here"

    def answer(slo: str) -> None:
        found = ax.search(
            "Llama-3.1-70B", "4xh100-sxm", folder / "trace.csv", slo, space=folder / "space.yaml", workers=1
        )
        found.save(here)

    here.mkdir()
    (here / "goodput.png").write_text("of somebody else: there is no result.json yet")
    answer("ttft=1ms")
    assert (here / "goodput.png").exists()
    answer("ttft=60s@0.5")
    assert (here / "launch" / "launch.sh").exists()
    (here / "notes.txt").write_text("mine")
    answer("ttft=1ms")
    kept = sorted(path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file())
    assert kept == ["notes.txt", "report.html", "result.json"]


def test_nothing_paid_and_nothing_emitted_are_figures(folder):
    result = search(folder, "--price", "0", "--carbon", "0", "--json", "-")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["plans"][0]["at_goodput"]["usd_per_million_output_tokens"] == 0.0
    assert data["simulation"]["interrupted"] is False


def test_names_of_plans_are_whole_in_a_file(folder):
    (folder / "space.yaml").write_text(SPACE.replace("[8192]", "[16384]").replace("[256]", "[1024]"))
    result = search(folder, "--carbon", "400")
    assert "2xtp2-fp8-kvbf16-t16384-s1024" in result.stdout
    assert "gCO2e/Mtok" in result.stdout


def test_what_the_marks_of_a_goodput_mean_stands_above_the_table(folder):
    result = search(folder, "--slo", "tpot=100ms@0.9")
    assert "≥ (" in result.stdout
    assert "the SLO does not limit the rate" in " ".join(result.stdout.split())
