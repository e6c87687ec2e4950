"""A search whose cluster has switches between its nodes: plans are compared over them, and no bound is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apexsim.report.search_results import SearchReport
from apexsim.search.combinations import families
from apexsim.search.evaluate import evaluate
from apexsim.search.executors import Serial
from apexsim.search.outcome import Candidate, Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import Context, screen
from apexsim.search.run import search
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson

LEAVES = {"topology": "leaf-spine", "nodes_per_leaf": 1, "oversubscription": 16, "routing": "ecmp"}
SPACE = {
    "tp": [2, 4], "pp": [1, 2], "replicas": [1, 2], "weights": ["fp8"], "kv_cache": ["bf16"],
    "max_num_batched_tokens": [8192], "max_num_seqs": [128],
    "disaggregated": {"prefill": {"tp": [2], "replicas": [1]}, "decode": {"tp": [2], "replicas": [1]}},
}  # fmt: skip


def question(network: dict[str, Any]) -> Problem:
    cluster = {"device": "h100-sxm", "devices_per_node": 2, "nodes": 2, "network": network}
    return make_problem(
        "Llama-3.1-70B", parse(Cluster, cluster, source="cluster"), poisson(1.0, 150, 2000, 60, seed=2),
        parse_slo("ttft=2s,tpot=100ms@0.9"), space=SPACE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def leaves() -> SearchReport:
    return SearchReport(search(question(LEAVES), Serial()))


def test_no_plan_is_better_than_its_bound_over_switches():
    problem = question(LEAVES)
    context = Context.of(problem)
    screened = [outcome for family in families(problem.plans()) for outcome in screen(context, family)]
    candidates = [outcome for outcome in screened if isinstance(outcome, Candidate)]
    assert {len(candidate.plan.pools) for candidate in candidates} == {1, 2}
    for candidate in candidates:
        found = evaluate(context, candidate)
        if isinstance(found, Evaluation):
            assert found.goodput_rps <= candidate.bounds.goodput_rps * (1 + 1e-9)
            assert found.summary["e2e_s"]["p50"] >= candidate.bounds.latency_s * (1 - 1e-9)


def test_what_crosses_the_leaves_is_slower_and_what_does_not_is_not(leaves):
    flat = {e.id: e for e in search(question({}), Serial()).ranked}
    over = {e.id: e for e in leaves.result.ranked}
    inside = next(name for name in flat if name.startswith("2xtp2"))
    assert over[inside].goodput_rps == flat[inside].goodput_rps
    across = next(name for name in flat if name.startswith("1xtp4"))
    assert across not in over or over[across].goodput_rps < 0.9 * flat[across].goodput_rps
    apart = next(name for name in flat if " + " in name)
    took = [side[apart].summary["transfers"]["transfer_s"]["mean"] for side in (flat, over)]
    assert took[0] < took[1]


def test_another_network_is_another_question():
    assert question(LEAVES).fingerprint != question({}).fingerprint


def test_the_plan_that_is_saved_has_its_network(leaves, tmp_path: Path):
    leaves.save(tmp_path)
    plan = catalog.load_plan(tmp_path / "launch" / "plan.yaml")
    assert plan.cluster == leaves.result.problem.cluster
    assert plan.cluster.network.topology == "leaf-spine"
    assert plan.id == leaves.best.id
