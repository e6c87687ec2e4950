"""The plans of a space: lazily, each once, within the limits (invariant 93)."""

from __future__ import annotations

from itertools import islice

import pytest

from apexsim.search.combinations import plans
from apexsim.search.problem import Problem, make_problem
from apexsim.spec import catalog
from apexsim.workload.synthetic import poisson

TRACE = poisson(2.0, 50, 500, 100, seed=0)
SLO = catalog.slo("ttft=2s,tpot=100ms@0.9")


def question(model: str, where: str, **space: object) -> Problem:
    return make_problem(model, catalog.cluster(where), TRACE, SLO, space=space or None)


def test_deepseek_on_32_devices_has_ten_thousand_candidates_of_both_kinds():
    asked = question("DeepSeek-V3", "4x8xh200-sxm")
    made = [(plan.id, len(plan.pools)) for plan in asked.plans()]
    assert len(made) >= 10_000
    assert {pools for _, pools in made} == {1, 2}


@pytest.mark.parametrize(
    ("where", "space"),
    [
        ("2x8xh200-sxm", {}),
        ("8xh100-sxm", {"disaggregated": {}, "max_devices": 6, "min_devices": 2}),
        ("8xh100-sxm+8xl40s", {"disaggregated": {}, "max_usd_per_hour": 12.0}),
        ("2x8xh100-sxm", {"disaggregated": {"prefill": {"replicas": [1]}}, "colocated": False}),
    ],
)
def test_no_plan_is_made_twice_and_all_keep_the_limits(where, space):
    asked = question("Llama-3.1-70B", where, **space)
    made = list(asked.plans())
    assert len({plan.id for plan in made}) == len(made) > 10
    for plan in made:
        assert asked.space.min_devices is None or plan.devices >= asked.space.min_devices
        assert plan.devices <= (asked.space.max_devices or asked.cluster.devices)
        limit, price = asked.space.max_usd_per_hour, asked.usd_per_hour(plan)
        assert limit is None or price is None or price <= limit
        assert asked.space.colocated or len(plan.pools) == 2
        for device in {pool.device for pool in plan.pools}:
            there = sum(pool.devices for pool in plan.pools if pool.device == device)
            assert there <= asked.cluster.only(device).devices
    if "+" in where:
        assert {pool.device for plan in made for pool in plan.pools} == {"h100-sxm", "l40s"}
        assert any(len({pool.device for pool in plan.pools}) == 2 for plan in made)


def test_plans_are_made_when_they_are_asked_for():
    """A million combinations, of which three are looked at."""
    many = {"max_num_seqs": list(range(1, 1001)), "max_num_batched_tokens": list(range(1000, 2000))}
    asked = question("Llama-3.1-8B", "8xh100-sxm", **many)
    assert len(list(islice(asked.plans(), 3))) == 3


def test_a_pool_that_cannot_fit_is_said_once_and_combined_with_nothing():
    asked = question("Llama-3.1-70B", "8xh100-sxm", disaggregated={}, colocated=False, tp=[1, 4], pp=[1])
    whole = list(plans(asked.space, asked.model_name, asked.cluster))
    made = list(asked.plans())
    short = [plan for plan in made if not all(map(asked.may_fit, plan.pools))]
    assert len(made) < len(whole)
    shapes = {pool.model_copy(update={"replicas": 1}) for plan in whole for pool in plan.pools}
    assert len(short) == len([shape for shape in shapes if not asked.may_fit(shape)]) > 0


def test_without_several_nodes_no_plan_is_disaggregated_unless_asked_for():
    assert {len(plan.pools) for plan in question("Llama-3.1-70B", "8xh100-sxm").plans()} == {1}
    assert {len(plan.pools) for plan in question("Llama-3.1-70B", "8xh100-sxm", disaggregated={}).plans()} == {1, 2}


def test_an_engine_brings_its_preset():
    assert question("Llama-3.1-70B", "8xh100-sxm", engine="sglang").space.preset == ("sglang",)
    some = next(iter(question("Llama-3.1-70B", "8xh100-sxm", engine="sglang").plans()))
    assert some.engine == "sglang"
