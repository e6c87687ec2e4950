"""The closed loop with an engine that is the simulator itself: what it finds must be what was put in."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from apexsim import scenario
from apexsim.calibration.closed_loop.engine import EngineLimits
from apexsim.calibration.closed_loop.files import write_set
from apexsim.calibration.closed_loop.host import HostPoint, fastest, fit_line, steady_gap_s
from apexsim.calibration.closed_loop.plan import llama_config, no_host, prepare, with_times
from apexsim.calibration.closed_loop.run import closed_loop, draw_requests, loads_of
from apexsim.calibration.closed_loop.served import Served
from apexsim.cli.main import app
from apexsim.cost.host import host_model
from apexsim.errors import NoFeasiblePlan, UsageError
from apexsim.spec import catalog
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.huggingface import model_from_config
from apexsim.workload.trace import Trace

CONFIG = llama_config(512, 4)
MODEL = model_from_config(CONFIG, "random-llama", "test")
LIMITS = EngineLimits()
ITERATION_S, SEQUENCE_S, ENTRY_S = 4e-3, 50e-6, 1e-3


class SimulatedEngine:
    """Serves by simulating with known host terms; ``slower``: everything takes that much longer."""

    name = "transformers"
    versions: ClassVar[dict[str, str]] = {"transformers": "5.23.0", "torch": "2.13.0"}
    limits = LIMITS

    def __init__(self, profile: HardwareProfile, slower: float = 1.0) -> None:
        host = with_times(no_host(self.name), ITERATION_S, SEQUENCE_S, ENTRY_S, "truth")
        self.prepared = prepare(MODEL, profile, LIMITS, self.name, host)
        self.slower = slower
        self.warm = 0

    def warm_up(self) -> None:
        self.warm += 1

    def serve(self, trace: Trace, seed: int) -> Served:
        """Tokens evenly between the first and the last."""
        done = scenario.replay(self.prepared, trace).requests
        tokens = tuple(
            self.slower * np.linspace(first, last, count)
            for first, last, count in zip(done.first_token_s, done.finish_s, trace.output_tokens, strict=True)
        )
        return Served(trace.arrival_s, self.slower * done.start_s, tokens, trace.input_tokens, 0.0)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def profile() -> HardwareProfile:
    return catalog.device("l4")


@pytest.fixture(scope="module")
def result(profile):
    return closed_loop(SimulatedEngine(profile), MODEL, profile, draw_requests(48, 0), (0.3, 0.9))


def test_the_engines_own_time_is_found(result):
    assert result.host.model.iteration_s == pytest.approx(ITERATION_S, rel=0.01)
    assert result.host.model.sequence_s == pytest.approx(SEQUENCE_S, rel=0.02)
    assert result.host.model.entry_s == pytest.approx(ENTRY_S, rel=0.01)
    assert "batches of" in result.host.model.source


def test_the_replay_agrees_request_by_request(result):
    assert result.median_e2e_error < 0.01
    for run in result.runs:
        for compared in run.compared.values():
            assert compared.median_abs_error < 0.01
            assert abs(compared.mean_error) < 0.01


def test_a_slower_machine_shows_as_an_error(profile):
    """The comparison can fail: the loads take 1.5 times as long as what the terms were measured on."""

    class Slowing(SimulatedEngine):
        def serve(self, trace: Trace, seed: int) -> Served:
            self.slower = 1.5 if trace.name != "batch" else 1.0
            return super().serve(trace, seed)

    slowed = closed_loop(Slowing(profile), MODEL, profile, draw_requests(24, 0), (0.3,))
    assert slowed.runs[0].compared["tpot_s"].mean_error == pytest.approx(1 / 1.5 - 1, abs=0.02)
    assert slowed.median_e2e_error > 0.25


def test_the_engine_is_warmed_up_before_anything_is_measured(profile):
    engine = SimulatedEngine(profile)
    steps: list[tuple[str, int]] = []
    closed_loop(
        engine, MODEL, profile, draw_requests(4, 0), (0.3,), on_step=lambda step: steps.append((step, engine.warm))
    )
    assert [warm for _, warm in steps] == [0, 1, 1]


def test_a_disturbed_load_is_served_again_and_the_least_disturbed_counts(profile):
    shares = iter([0.4, 0.2, 0.3])

    class Disturbed(SimulatedEngine):
        def serve(self, trace: Trace, seed: int) -> Served:
            served = super().serve(trace, seed)
            return served if trace.name == "batch" else replace(served, waited_share=next(shares))

    requests = draw_requests(4, 0)
    (run,) = closed_loop(Disturbed(profile), MODEL, profile, requests, (0.3,), attempts=3).runs
    assert (run.attempts, run.served.waited_share) == (3, 0.2)
    (quiet,) = closed_loop(SimulatedEngine(profile), MODEL, profile, requests, (0.3,), attempts=3).runs
    assert quiet.attempts == 1


def test_loads_are_shares_of_what_the_simulation_sustains(result):
    light, busy = result.runs
    assert busy.load.rate_rps == pytest.approx(3 * light.load.rate_rps)
    assert (light.load.regime, busy.load.regime) == ("light", "moderate")
    assert busy.compared["ttft_s"].measured.mean() > light.compared["ttft_s"].measured.mean()


@pytest.mark.parametrize("share", [0.0, -1.0, 11.0, float("nan")])
def test_absurd_loads_are_refused(profile, share):
    with pytest.raises(UsageError, match="--load"):
        loads_of(SimulatedEngine(profile).prepared, draw_requests(4, 0), [share])


def test_the_fastest_round_of_a_batch_counts():
    points = [HostPoint(1, 20, 0.03, 0.01), HostPoint(1, 20, 0.02, 0.01), HostPoint(1, 28, 0.04, 0.01)]
    assert fastest(points) == [points[1], points[2]]


def test_the_line_through_the_batches_by_hand():
    points = [HostPoint(n, 20, 0.010 + 0.003 + 0.0005 * n, 0.010) for n in (1, 4, 16)]
    assert fit_line(points) == (pytest.approx(0.003), pytest.approx(0.0005))


def test_terms_are_never_negative():
    points = [HostPoint(n, 20, 0.008, 0.010) for n in (1, 4, 16)]
    assert fit_line(points) == (0.0, 0.0)


def test_the_steady_gap_leaves_out_the_start_of_the_others():
    late = np.array([0.5, 0.6, 0.7, 0.8])
    early = np.array([0.1, 0.5, 0.6, 0.7, 0.8, 0.9])  # waited 0.4 s for the other's prompt
    served = Served(np.zeros(2), np.zeros(2), (early, late), np.array([8, 8]), 0.0)
    assert steady_gap_s(served) == pytest.approx(0.1)


def test_latencies_of_what_was_served_by_hand():
    served = Served(np.array([0.0, 1.0]), np.zeros(2), (np.array([0.5, 0.7, 0.9]), np.array([2.0])), np.ones(2), 0.0)
    assert served.ttft_s.tolist() == [0.5, 1.0]
    assert served.e2e_s == pytest.approx([0.9, 1.0])
    assert served.tpot_s[0] == pytest.approx(0.2)
    assert np.isnan(served.tpot_s[1])
    assert served.makespan_s == 2.0


# --- as a validation set -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(result, profile, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("set")
    write_set(target, result, SimulatedEngine(profile), CONFIG, profile, date(2026, 11, 21))
    return target


def test_the_set_holds_everything_that_a_replay_needs(folder, result):
    rows = list(csv.DictReader((folder / "runs.csv").open()))
    assert [row["run"] for row in rows] == ["load-0.30", "load-0.90"]
    assert float(rows[0]["e2e_mean_s"]) == pytest.approx(result.runs[0].served.e2e_s.mean(), rel=1e-5)
    assert (folder / rows[0]["model"]).is_file()
    assert (folder / rows[0]["device"] / "profile.yaml").is_file()
    measured = list(csv.DictReader((folder / "requests" / rows[0]["trace"]).open()))
    assert len(measured) == 48
    assert len(list(csv.DictReader((folder / "host.csv").open()))) == len(result.host.points)


def test_host_terms_lie_with_the_device_and_go_before_the_engines_own(folder, result, profile):
    found = host_model("transformers", "5.23.0", folder / profile.name)
    assert found.iteration_s == pytest.approx(result.host.model.iteration_s, rel=1e-3)
    assert found.entry_s == pytest.approx(result.host.model.entry_s, rel=1e-3)
    assert host_model("vllm", None, folder / profile.name) == host_model("vllm", None)


def test_apexsim_validate_shows_the_set_again(folder, result, tmp_path):
    target = tmp_path / "errors.json"
    done = CliRunner().invoke(app, ["validate", str(folder), "--json", str(target)])
    assert done.exit_code == 0, done.output
    errors = json.loads(target.read_text())
    first = errors["runs"][0]
    assert first["skipped"] is None
    assert first["metrics"]["e2e_mean_s"]["error"] == pytest.approx(
        result.runs[0].compared["e2e_s"].mean_error, abs=2e-3
    )


def test_equal_results_give_equal_bytes(folder, result, profile, tmp_path):
    write_set(tmp_path, result, SimulatedEngine(profile), CONFIG, profile, date(2026, 11, 21))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_a_model_that_does_not_fit_is_told(profile):
    small = profile.model_copy(update={"memory_bytes": 1e8})
    with pytest.raises(NoFeasiblePlan, match="short by"):
        prepare(MODEL, small, LIMITS, "transformers", no_host("transformers"))
