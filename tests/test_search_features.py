"""Bounds stay bounds with every feature of a plan: real plans near their capacity against what their screening says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.metrics.summary import Summary
from apexsim.scenario import Prepared
from apexsim.search.outcome import Candidate
from apexsim.search.problem import make_problem
from apexsim.search.prune import Context, screen
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, offline

SLO = parse_slo("ttft=8s,tpot=400ms@0.5")
NEAR = 0.7
"""Of what a plan serves where all requests are there at once."""

MTP = {"method": "mtp", "num_speculative_tokens": 1, "acceptance": 1.0}
POOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "tensor parallel": ("DeepSeek-V3", {"tp": 8}),
    "attention ranks": ("DeepSeek-V3", {"dp": 8, "ep": 8}),
    "ranks of two devices": ("DeepSeek-V3", {"dp": 4, "tp": 2, "ep": 8}),
    "drafts": ("DeepSeek-V3", {"tp": 8, "ep": 8, "speculative": MTP}),
    "a shared context": ("Llama-3.1-70B", {"tp": 4, "cp": 2, "weights": "fp8"}),
    "stages": ("Llama-3.1-70B", {"tp": 4, "pp": 2, "weights": "fp8"}),
    "windows": ("Gemma-3-27B", {"tp": 2, "max_model_len": 8192}),
    "states": ("Nemotron-H-8B", {}),
    "a prefix cache": ("Llama-3.1-8B", {"scheduler": {"prefix_caching": True}}),
}  # fmt: skip


def prompts(input_tokens: int, output_tokens: int) -> Trace:
    """500 requests; most prompts begin as one of three do."""
    trace = poisson(10.0, 500, input_tokens, output_tokens, seed=1)
    blocks = trace.input_tokens // 16
    own = np.random.default_rng(1).integers(0, 3, len(trace))
    ids = [1000 * (k if j < 0.8 * n else 3 + i) + j for i, (n, k) in enumerate(zip(blocks, own, strict=True))
           for j in range(n)]  # fmt: skip
    offsets = np.concatenate([[0], np.cumsum(blocks)])
    return trace.with_columns(hash_ids=np.array(ids), hash_offsets=offsets, hash_block_tokens=16)


def served(prepared: Prepared, trace: Trace) -> Summary:
    return scenario.run(prepared, trace, slo=SLO, with_itl=False).summary


@pytest.mark.parametrize("lengths", [(2000, 20), (200, 200)], ids=["prefill", "decode"])
@pytest.mark.parametrize("feature", POOLS)
def test_a_plan_near_its_capacity_is_within_its_bounds(feature: str, lengths: tuple[int, int]) -> None:
    model, pool = POOLS[feature]
    plan = parse(Plan, {"model": model, "cluster": "8xh200-sxm", "pools": [pool]}, source="test")
    prepared = scenario.prepare(plan)
    assert isinstance(prepared, Prepared)
    trace = prompts(*lengths)
    capacity_rps = len(trace) / served(prepared, offline(trace)).duration_s
    trace = at_rate(trace, NEAR * capacity_rps)
    reached = served(prepared, trace)
    assert reached.slo.met, "or the bound below says nothing"
    problem = make_problem(model, catalog.cluster("8xh200-sxm"), trace, SLO)
    (found,) = screen(Context.of(problem), [plan])
    assert isinstance(found, Candidate), found
    assert found.bounds.goodput_rps > trace.rate_rps
    assert found.bounds.attainment >= (reached.slo.attainment or 0.0)
    assert found.bounds.latency_s <= (reached.e2e_s.p50 or 0.0)
    # At the goodput that is possible at best; below it idle power weighs more on each token.
    joules = found.bounds.j_per_output_token
    assert joules is not None
    assert joules <= (reached.energy.j_per_output_token or 0.0)
