"""Reports of plans with a pool that encodes: pools have their number in the plan, and prompts their images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import apexsim as ax
from apexsim.errors import UsageError
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace

SCHEDULER = {"preset": "vllm-v0", "max_num_batched_tokens": 49152}
POOLS: list[dict[str, Any]] = [
    {"role": "encode", "replicas": 4, "encode_batch": 8},
    {"role": "prefill", "replicas": 2, "scheduler": SCHEDULER},
    {"role": "decode", "replicas": 1, "scheduler": SCHEDULER},
]
PLAN = {"model": "MiniCPM-V-2.6", "cluster": "8xa100-sxm-80gb", "engine_version": "0.6.1", "pools": POOLS}


def images(count: int = 2) -> Trace:
    return poisson(1.0, 20, 22, 10, 0).with_columns(images=np.arange(20) % (count + 1))


@pytest.fixture(scope="module")
def report() -> ax.SimulationReport:
    return ax.simulate(PLAN, images(), timeline=True)


def test_the_heading_lists_devices_in_the_order_of_the_pools(report):
    names = "4 × a100-sxm-80gb and 2 × a100-sxm-80gb and 1 × a100-sxm-80gb"
    assert report.heading.startswith(f"MiniCPM-V-2.6 on {names} (")


def test_the_load_says_which_input_tokens_are_images(report):
    mean = report.result.requests.input_tokens.mean()
    visual = float((images().images * report.result.requests.input_tokens.max() // 2).mean())
    assert 0 < mean - 22 < visual
    slices = images().images.mean()
    said = f"mean {mean:,.0f} input ({mean - 22:,.0f} of them of {slices:.3g} image slices) and 10 output tokens"
    assert report.offered.endswith(said)
    text = poisson(1.0, 20, 22, 10, 0)
    assert ax.simulate(PLAN, text).offered.endswith("mean 22 input and 10 output tokens")


def test_pools_have_their_number_in_the_plan(report, tmp_path):
    table = report.to_pandas()
    assert set(table["decode_pool"]) == {2}
    report.write_timeline(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    named = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert named[1:] == ["pool 1: prefill", "pool 2: decode"]


def test_explain_counts_pools_as_the_plan_does():
    for number, role in ((1, "prefill"), (2, "decode")):
        assert ax.explain(PLAN, pool=number).prepared.pool.role == role
    assert ax.explain(PLAN).prepared.pool.role == "prefill", "the first that has iterations"
    with pytest.raises(UsageError, match=r"--pool 0: it encodes images, and has no decode .* \(allowed: 1, 2\)"):
        ax.explain(PLAN, pool=0)
    with pytest.raises(UsageError, match=r"--pool 3 \(allowed: 1, 2\)"):
        ax.explain(PLAN, pool=3)
