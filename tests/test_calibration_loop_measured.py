"""The committed closed loop: what a real engine did on a real CPU, replayed with the code of today."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apexsim.cli.main import app
from tests.house import ROOT

MEASURED = ROOT / "docs" / "measured" / "cpu-closed-loop"
SETS = sorted(path.parent for path in MEASURED.glob("*/runs.csv"))


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict:
    target = tmp_path_factory.mktemp("validate") / "errors.json"
    done = CliRunner().invoke(app, ["validate", str(MEASURED), "--json", str(target)])
    assert done.exit_code == 0, done.output
    return json.loads(target.read_text())


def test_every_run_is_simulated(errors):
    assert len(errors["runs"]) == 4 * len(SETS) == 8
    assert [run["run"] for run in errors["runs"] if run["skipped"]] == []


def test_the_mean_e2e_of_every_run_stays_within_a_quarter(errors):
    """25 % is the target; a change of the cost models that leaves it must not go unseen."""
    found = {f"{run['set']}/{run['run']}": run["metrics"]["e2e_mean_s"]["error"] for run in errors["runs"]}
    assert {name: error for name, error in found.items() if abs(error) > 0.25} == {}
    assert errors["summary"]["tpot_mean_s"]["median_abs_error"] < 0.2
    assert errors["summary"]["output_tokens_per_s"]["median_abs_error"] < 0.05


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_the_table_of_errors_belongs_to_the_runs(folder: Path):
    measured = {row["run"]: row for row in csv.DictReader((folder / "runs.csv").open())}
    for row in csv.DictReader((folder / "errors.csv").open()):
        name = row["metric"].removesuffix("_s")
        assert float(row["measured_mean_s"]) == pytest.approx(float(measured[row["run"]][f"{name}_mean_s"]), rel=1e-4)
        assert float(row["mean_error"]) == pytest.approx(
            float(row["simulated_mean_s"]) / float(row["measured_mean_s"]) - 1, abs=1e-4
        )


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_the_machine_was_quiet_and_the_set_says_how_it_was_measured(folder: Path):
    for row in csv.DictReader((folder / "errors.csv").open()):
        assert float(row["waited_share"]) < 0.05
    for row in csv.DictReader((folder / "runs.csv").open()):
        assert row["engine_version"] == "5.23.0"
        assert "random weights" in row["notes"]
        assert "calibrate loop, 2026-11-21" in row["source"]
