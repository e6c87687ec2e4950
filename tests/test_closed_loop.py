"""The closed loop on this CPU: calibrate it, serve a small random Llama with a real engine, replay, compare.

Two minutes on two cores at most. How far measured and simulated may lie apart is asserted loosely; the exact errors are
printed by ``apexsim calibrate loop`` and kept in docs/measured/cpu-closed-loop.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from apexsim.testing.machine import MachineContract

missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed: apexsim[calibrate]")

BUSY = 0.3
"""Where other programs take more of the processor than this, nothing is measured but them."""


class TestRegisteredMachines(MachineContract):
    """cpu and cuda; skipped where PyTorch or the device is not here."""


def apexsim(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: thread counts and kernel caches of PyTorch are those of a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "apexsim", *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def loop(tmp_path_factory) -> tuple[Path, dict]:
    """(validation set, errors) of a device calibrated for half a minute and a model of 4 layers."""
    folder = tmp_path_factory.mktemp("loop")
    done = apexsim("calibrate", "run", "--out", str(folder), "--device-name", "this-cpu", "--budget", "30s")
    assert done.returncode == 0, done.stderr
    small = ("--hidden-size", "512", "--layers", "4", "--requests", "32", "--load", "0.5")
    arguments = ("--device", str(folder / "this-cpu"), "--out", str(folder / "set"), "--json", str(folder / "e.json"))
    done = apexsim("calibrate", "loop", *arguments, *small)
    assert done.returncode == 0, done.stderr
    return folder / "set", json.loads((folder / "e.json").read_text())


@needs_extra
def test_the_simulation_is_within_a_factor_of_two_of_the_real_engine(loop):
    _, errors = loop
    (run,) = errors["runs"]
    if run["waited_share"] > BUSY:
        pytest.skip(f"other programs took {run['waited_share']:.0%} of the processor")
    assert 0.5 <= 1 + run["metrics"]["e2e_s"]["mean_error"] <= 2
    assert 0.5 <= 1 + run["metrics"]["tpot_s"]["mean_error"] <= 2
    assert errors["median_e2e_error"] <= 0.5


@needs_extra
def test_the_engine_served_what_was_asked(loop):
    folder, _ = loop
    (row,) = csv.DictReader((folder / "runs.csv").open())
    requests = list(csv.DictReader((folder / "requests" / row["trace"]).open()))
    trace = list(csv.DictReader((folder / "traces" / row["trace"]).open()))
    assert len(requests) == len(trace) == 32
    assert [r["output_tokens"] for r in requests] == [t["output_tokens"] for t in trace]
    for request in requests:
        arrival, scheduled, first, last = (
            float(request[name]) for name in ("arrival_s", "scheduled_s", "first_token_s", "last_token_s")
        )
        assert arrival <= scheduled <= first <= last


@needs_extra
def test_most_of_the_time_is_priced_by_measured_kernels(loop):
    folder, _ = loop
    done = apexsim("validate", str(folder), "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["skipped"] is None


@needs_extra
def test_attention_sequence_by_sequence_is_attention():
    """Prompts, tokens and a chunk after cached tokens, against the formula written out."""
    torch = pytest.importorskip("torch")
    from apexsim.calibration.microbench.torch_attention import attend

    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, width = 4, 2, 8
    new, seen = [5, 1, 3, 1], [5, 7, 9, 1]
    q = torch.randn(1, heads, sum(new), width, generator=generator)
    k, v = (torch.randn(1, kv_heads, sum(seen), width, generator=generator) for _ in range(2))
    ends = [[sum(counts[:i]) for i in range(len(counts) + 1)] for counts in (new, seen)]
    found = attend(q, k, v, *ends)
    q0 = k0 = 0
    for n, s in zip(new, seen, strict=True):
        for i in range(n):
            visible = slice(k0, k0 + s - n + i + 1)
            for head in range(heads):
                keys, values = (x[0, head // (heads // kv_heads), visible] for x in (k, v))
                weights = torch.softmax(keys @ q[0, head, q0 + i] / width**0.5, dim=0)
                torch.testing.assert_close(found[0, head, q0 + i], weights @ values)
        q0, k0 = q0 + n, k0 + s
