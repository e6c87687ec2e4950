"""A search over number formats: what a space may list, which plans of it are dropped, and that bounds stay bounds."""

from __future__ import annotations

import pytest

from apexsim.errors import UsageError
from apexsim.search.combinations import families, plans
from apexsim.search.evaluate import evaluate
from apexsim.search.outcome import Candidate, Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import Context, screen
from apexsim.search.space import default_space, load_space
from apexsim.spec import catalog
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson

LISTS = {
    "tp": [1], "pp": [1], "replicas": [1], "weights": ["w4a8", "fp8"], "activations": [None, "bf16"],
    "kv_cache": ["bf16", "int4"], "max_num_batched_tokens": [2048], "max_num_seqs": [64],
}  # fmt: skip


def question() -> Problem:
    return make_problem(
        model="Llama-2-7B", cluster=catalog.cluster("1xa100-sxm-80gb"), trace=poisson(6.0, 300, 700, 120, seed=3),
        slo=parse_slo("ttft=2s,tpot=80ms@0.9"), space=LISTS,
    )  # fmt: skip


def test_the_default_space_asks_for_no_formats_of_its_own() -> None:
    a100 = catalog.cluster("8xa100-sxm-80gb")
    space = default_space(catalog.model("Llama-3.1-8B"), catalog.device(a100.device), a100)
    assert (space.weights, space.activations, space.kv_cache) == (("bf16",), (None,), ("bf16",))
    with pytest.raises(UsageError, match=r"space: .*did you mean 'int8'"):
        load_space({"activations": ["int9"]}, space)


def test_pairs_without_a_kernel_or_without_units_are_dropped_with_the_reason() -> None:
    context = Context.of(question())
    everything = plans(context.problem.space, "Llama-2-7B", context.problem.cluster)
    screened = {each.plan.id: each for family in families(everything) for each in screen(context, family)}
    assert len(screened) == 8
    reasons = {name: each.reason for name, each in screened.items() if not isinstance(each, Candidate)}
    kept = [each for each in screened.values() if isinstance(each, Candidate)]
    assert {(c.plan.pools[0].weights, c.plan.pools[0].activations) for c in kept} == {("w4a8", None), ("fp8", "bf16")}
    assert sum("no kernel multiplies w4a8 weights by them" in reason for reason in reasons.values()) == 2
    assert sum("has no matrix units for fp8 weights" in reason for reason in reasons.values()) == 2


def test_no_replay_is_better_than_its_bound() -> None:
    context = Context.of(question())
    everything = plans(context.problem.space, "Llama-2-7B", context.problem.cluster)
    for family in families(everything):
        for candidate in screen(context, family):
            if isinstance(candidate, Candidate):
                found = evaluate(context, candidate)
                assert isinstance(found, Evaluation), found
                assert found.goodput_rps <= candidate.bounds.goodput_rps * (1 + 1e-9)
