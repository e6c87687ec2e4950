"""Which plans are legal for a model: every refusal says what and why."""

from __future__ import annotations

from typing import Any

import pytest

from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.legality import check_cluster, check_plan, check_pool
from apexsim.spec.plan import Plan, Pool


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        ("Llama-3.1-70B", Pool(tp=8)),
        ("Llama-3.1-70B", Pool(tp=16)),  # 8 KV heads, each on two ranks
        ("Llama-3.1-70B", Pool(tp=2, pp=80)),
        ("Qwen2.5-7B", Pool(tp=4)),
        ("Qwen3-235B-A22B", Pool(tp=8, ep=1, moe_tp=8)),
        ("Qwen/Qwen3-235B-A22B-FP8", Pool(tp=4)),
        ("DeepSeek-V3", Pool(tp=16)),
        ("Qwen2.5-72B", Pool(tp=1, weights="w4a16")),
        ("Qwen2.5-72B", Pool(tp=8)),
        ("Llama-3.1-70B", Pool(tp=8, weights="w4a16")),
        ("gpt-oss-120b", Pool(tp=8)),
        ("Qwen/Qwen3-235B-A22B-FP8", Pool(tp=8, ep=4, moe_tp=2)),
    ],
)
def test_legal_pools(model: str, pool: Pool) -> None:
    assert check_pool(catalog.model(model), pool) is None


@pytest.mark.parametrize(
    ("model", "pool", "reason"),
    [
        ("Qwen2.5-7B", Pool(tp=8), "tp=8 does not divide the 28 attention heads of Qwen2.5-7B"),
        ("Llama-3.1-70B", Pool(tp=3), "tp=3 does not divide the 64 attention heads of Llama-3.1-70B"),
        ("Gemma-3-4B", Pool(tp=16), "tp=16 does not divide the 8 attention heads of Gemma-3-4B"),
        ("Llama-3.1-70B", Pool(pp=81), "pp=81 exceeds the 80 layers of Llama-3.1-70B"),
        ("Qwen/Qwen3-235B-A22B-FP8", Pool(tp=8), "tp=8 splits the expert width 1536"),
        (
            "Qwen2.5-72B",
            Pool(tp=2, weights="w4a16"),
            "tp=2 splits the feed-forward width 29568 into shares that cut the 128-wide blocks of w4a16 weights",
        ),
        ("Qwen2.5-72B", Pool(tp=8, weights="w4a8"), "tp=8 splits the feed-forward width 29568"),
        ("Llama-3.1-8B", Pool(max_model_len=200_000), "max_model_len=200000 exceeds the 131072 tokens"),
        ("Llama-3.1-8B", Pool(dp=2), "dp=2: Llama-3.1-8B has no experts that its ranks could share (use replicas: 2)"),
        ("Mixtral-8x7B", Pool(dp=2, ep=2, pp=2), "dp=2 with pp=2 (ranks in lockstep over several stages)"),
        ("Llama-3.1-8B", Pool(tp=2, ep=2), "ep=2: Llama-3.1-8B has no experts"),
        ("Qwen3-30B-A3B", Pool(tp=3, ep=3), "tp=3 does not divide the 32 attention heads"),
        ("Mixtral-8x7B", Pool(tp=16, ep=16), "ep=16 does not divide the 8 experts"),
        ("Llama-3.1-8B", Pool(cp=2, kv_cache="fp8", dp=2), "cp=2 with dp=2"),
        ("Llama-3.1-8B", Pool(role="encode"), "role=encode"),
        ("Llama-3.1-8B", Pool(speculative={"method": "mtp", "num_speculative_tokens": 1}), "speculative: method=mtp"),
    ],
)
def test_illegal_pools_say_why(model: str, pool: Pool, reason: str) -> None:
    found = check_pool(catalog.model(model), pool)
    assert found is not None
    assert found.startswith(reason)
    assert "\n" not in found


def test_kv_heads_that_fit_no_rank_are_refused() -> None:
    model = catalog.model("Llama-3.1-8B")
    (group,) = model.groups
    odd = group.attention.model_copy(update={"heads": 36, "kv_heads": 6})
    model = model.model_copy(update={"groups": (group.model_copy(update={"attention": odd}),)})
    assert check_pool(model, Pool(tp=4)) == (
        "tp=4 neither divides nor is a multiple of the 6 KV heads of Llama-3.1-8B (vllm gives every rank equally many)"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": "8xh100-sxm+8xa100-sxm-80gb"}, None),
        ({"techniques": ["swiftkv"]}, "techniques ['swiftkv']"),
        ({"pools": [{"tp": 4, "replicas": 3}]}, "the plan needs 12 devices, the cluster 8xh100-sxm has 8"),
        ({"pools": [{"device": "h200-sxm"}]}, "the pool asks for device h200-sxm, the cluster holds h100-sxm"),
        ({"pools": [{"tp": 3}]}, "tp=3 does not divide"),
        ({}, None),
    ],
)
def test_plans(changes: dict[str, Any], reason: str | None) -> None:
    data = {"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{}], **changes}
    found = check_plan(catalog.model("Llama-3.1-8B"), parse(Plan, data, source="p"))
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_a_node_larger_than_its_switch_is_refused_with_the_cluster_that_was_meant() -> None:
    h100 = catalog.device("h100-sxm")
    reason = check_cluster(h100, Cluster.model_validate("16xh100-sxm"))
    assert reason is not None
    assert "at most 8 devices, not 16 (2x8xh100-sxm is 2 nodes of 8)" in reason
    assert check_cluster(h100, Cluster.model_validate("2x8xh100-sxm")) is None
    assert check_cluster(catalog.device("l40s"), Cluster.model_validate("10xl40s")) is None
    assert check_cluster(catalog.device("gb200"), Cluster.model_validate("18x4xgb200")) is None


def test_activations_that_no_kernel_multiplies_are_refused() -> None:
    reason = check_pool(catalog.model("Llama-3.1-8B"), Pool(activations="fp8"))
    assert reason == "activations=fp8: no kernel multiplies bf16 weights by them (known: bf16)"
    assert check_pool(catalog.model("Llama-3.1-8B"), Pool(weights="fp8", activations="bf16")) is None



@pytest.mark.parametrize(("key", "value"), [("engine", "vlllm"), ("engine_version", "banana")])
def test_an_unknown_engine_is_one_line(key: str, value: str) -> None:
    data = {"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{}], key: value}
    with pytest.raises(InputError, match=rf"p: {key} = '{value}': (unknown value; did you mean|must be a version)"):
        parse(Plan, data, source="p")


def test_experts_of_a_dense_model_are_refused() -> None:
    reason = check_pool(catalog.model("Llama-3.1-8B"), Pool.model_validate({"experts": {"routing": "balanced"}}))
    assert reason == "experts: Llama-3.1-8B has no experts (leave the key out)"
