"""A better device never serves less: more bandwidth, FLOP/s or memory, on one common draw of requests."""

from __future__ import annotations

from typing import Any

import pytest

from apexsim.cost.memory import DoesNotFit
from apexsim.scenario import prepare
from apexsim.search.measure import measure_goodput
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson

ALLOWED_LOSS = 0.02
"""Scheduling is not monotone to the last request: a faster iteration can begin just before an arrival."""

BETTER: dict[str, Any] = {
    "memory_bandwidth": lambda p: {"memory_bandwidth": p.memory_bandwidth * 1.3},
    "peak": lambda p: {"peak_flops": {dtype: flops * 1.3 for dtype, flops in p.peak_flops.items()}},
    "memory": lambda p: {"memory_bytes": p.memory_bytes * 1.3},
}


def goodput_of(profile: HardwareProfile, pool: Pool) -> float:
    plan = Plan(model="Llama-3.1-8B", cluster=Cluster(device=profile.name), pools=(pool,))
    prepared = prepare(plan, profile=profile)
    assert not isinstance(prepared, DoesNotFit)
    trace = poisson(8.0, 2000, 1500, 200, seed=1)
    found, _ = measure_goodput(prepared, trace, parse_slo("ttft=1s,tpot=60ms@0.9"), 500.0)
    assert found.rps is not None
    return found.rps


@pytest.mark.parametrize("device", ["a100-sxm-40gb", "mi300x"])
@pytest.mark.parametrize("pool", [Pool(), Pool(tp=2, scheduler=Scheduler(max_num_batched_tokens=2048))])
@pytest.mark.parametrize("change", BETTER)
def test_a_better_device_never_serves_less(device: str, pool: Pool, change: str) -> None:
    profile = catalog.device(device)
    better = profile.model_copy(update=BETTER[change](profile))
    assert goodput_of(better, pool) >= (1 - ALLOWED_LOSS) * goodput_of(profile, pool)
