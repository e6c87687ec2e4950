"""What a measuring run makes of a device whose rooflines are known, and how it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from apexsim.calibration.fit import fit_device
from apexsim.calibration.microbench import machine as machines
from apexsim.calibration.microbench.cases import Limits
from apexsim.calibration.microbench.run import Calibrated, Request, calibrate
from apexsim.calibration.microbench.timing import Effort
from apexsim.cli.main import app
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp
from apexsim.spec import catalog
from tests.fake_machine import BANDWIDTH, LAUNCH_S, PEAK, FakeMachine, seconds_of
from tests.fake_machine import environment as fake_environment

LIMITS = Limits(1e11, 2**28, ("bfloat16",))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Calibrated:
    """A whole run with 3 % of noise and a tenth of the samples disturbed."""
    folder = tmp_path_factory.mktemp("run")
    machine = FakeMachine(noise=0.03, disturb=0.1, limits=LIMITS)
    families = ("gemm", "attention", "memory", "elementwise")
    return calibrate(machine, Request(folder, "Known Device", families), effort=Effort(least_samples=3, most_samples=3))


@pytest.fixture(scope="module")
def kernels(done: Calibrated) -> CalibratedKernels:
    return CalibratedKernels(catalog.device(done.device), "torch")


def test_the_device_is_found_by_its_path(done):
    profile = catalog.device(done.device)
    assert profile.name == "known-device"
    assert profile.device == "Fake(R) Device 9"
    assert profile.units == 1
    assert "calibrate run" in profile.provenance.source
    assert profile.provenance.basis == "measured"
    assert "gemm.bf16.torch" in profile.kernels


def test_peaks_are_what_the_kernels_reached(done):
    profile = catalog.device(done.device)
    assert profile.peak_flops["bf16"] == pytest.approx(PEAK, rel=0.15)
    assert profile.memory_bandwidth == pytest.approx(BANDWIDTH, rel=0.15)
    assert profile.efficiency.attention == pytest.approx(0.3, rel=0.2)
    assert profile.efficiency.launch_s == pytest.approx(LAUNCH_S, rel=0.3)
    assert profile.efficiency.memory == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1024, 4096), (7, 2048, 2048), (100, 4096, 1024), (700, 1536, 3072)])
def test_matrix_products_of_other_shapes_are_priced_as_the_device_runs_them(kernels, m, n, k):
    truth = LAUNCH_S + ((2 * m * n * k / PEAK) ** 4 + (2 * (n * k + m * k + m * n) / BANDWIDTH) ** 4) ** 0.25
    price = kernels.gemm(m, n, k, "bf16")
    assert price.calibrated
    assert float(price.seconds) == pytest.approx(truth, rel=0.15)


def test_attention_of_other_shapes_is_priced_as_the_device_runs_it(kernels):
    op = AttentionOp("attention", 16, 4, 128, 128, 0, "bf16", 1)
    decode = LAUNCH_S + max(4 * 8 * 16 * 128 * 900 / (0.3 * PEAK), 8 * 2 * (900 * 4 + 16) * 128 * 2 / BANDWIDTH)
    prefill = LAUNCH_S + 2 * 16 * 128 * 700 * 701 / (0.3 * PEAK)
    assert float(kernels.decode_attention(8, 900, op).seconds) == pytest.approx(decode, rel=0.25)
    assert float(kernels.prefill_attention(1, 700, op).seconds) == pytest.approx(prefill, rel=0.25)


def test_errors_on_held_out_shapes_are_small(done):
    for file in done.files:
        for fit in file.fits:
            assert fit.held_out["median"] < 0.2, (file.name, fit.held_out)


def test_a_fit_by_hand_gives_the_same_files(done):
    again = fit_device(done.tables[0].parent, str(done.device), "2026-01-01")
    named = {file.name: [fit.held_out for fit in file.fits] for file in again}
    assert named == {file.name: [fit.held_out for fit in file.fits] for file in done.files}


def test_the_environment_is_kept_as_found(done):
    known = json.loads((done.device.parent / "environment.json").read_text())
    assert known["versions"] == {"torch": "2.13.0"}
    assert known["settings"] == {"clock": 1}


def test_a_plan_beside_the_device_names_it_by_its_path(done, tmp_path):
    plan = {"model": "Llama-3.2-1B", "cluster": {"device": done.device.name, "devices_per_node": 1}, "pools": [{}]}
    path = done.device.parent / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    assert catalog.device(catalog.load_plan(path).cluster.device).name == "known-device"


# --- the command -----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, machine: FakeMachine, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(machines, "find_machine", lambda name, **settings: machine)
    done = CliRunner().invoke(app, ["calibrate", "run", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(monkeypatch, tmp_path):
    machine = FakeMachine(interrupt_after=30)
    code, _, told = command(monkeypatch, machine, "--out", str(tmp_path), "--only", "memory,elementwise")
    assert code == 130
    assert "the same command goes on" in told
    assert "30 of" in told
    assert machine.closed
    code, _, told = command(monkeypatch, FakeMachine(), "--out", str(tmp_path), "--only", "memory,elementwise")
    assert code == 0
    assert "no device yet" in told


def test_mixed_devices_end_with_2_and_one_line(monkeypatch, tmp_path):
    command(monkeypatch, FakeMachine(interrupt_after=3), "--out", str(tmp_path), "--only", "memory")
    other = FakeMachine(environment=fake_environment(device="Another Device"))
    code, _, told = command(monkeypatch, other, "--out", str(tmp_path), "--only", "memory")
    assert code == 2
    assert told.count("\n") == 1
    assert "Another Device" in told


def test_a_bad_budget_or_family_is_one_line(monkeypatch, tmp_path):
    code, _, told = command(monkeypatch, FakeMachine(), "--out", str(tmp_path), "--budget", "60")
    assert (code, told.count("\n")) == (2, 1)
    code, _, told = command(monkeypatch, FakeMachine(), "--out", str(tmp_path), "--only", "gem")
    assert (code, told.count("\n")) == (2, 1)


def test_the_fake_machine_keeps_its_own_law():
    """The tests above are worth what this is worth: a case by hand."""
    case = next(c for c in _gemms() if c.number("m") == 1)
    n, k = case.number("n"), case.number("k")
    assert seconds_of(case) == pytest.approx(LAUNCH_S + 2 * (n * k + k + n) / BANDWIDTH, rel=1e-3)


def _gemms() -> list:
    from apexsim.calibration.microbench.cases import draw

    return draw(["gemm"], LIMITS, 0)


def test_prices_stay_above_the_floor_of_the_measured_peaks(kernels):
    m = np.array([1.0, 16.0, 256.0, 4096.0])
    profile = kernels.profile
    price = kernels.gemm(m, 4096, 4096, "bf16").seconds
    assert (price >= 0.95 * 2 * m * 4096**2 / profile.peak_flops["bf16"] * (1 - 1e-9)).all()


def test_folders_are_plain_files(done):
    names = {path.name for path in Path(done.device.parent).iterdir()}
    assert {"journal.jsonl", "environment.json", "tables", "known-device"} <= names
