"""Keys of a plan that would do nothing are refused in one line: routers, transfers, cut-off mappings."""

from __future__ import annotations

from typing import Any

import pytest

from apexsim.errors import ApexsimError, InputError, UsageError
from apexsim.scenario import prepare
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan

SERVE: list[dict[str, Any]] = [{"role": "serve"}]
APART: list[dict[str, Any]] = [{"role": "prefill"}, {"role": "decode"}]
IMAGES: list[dict[str, Any]] = [{"role": "encode"}, {"role": "serve"}]


def refused(pools: list[dict[str, Any]], **keys: Any) -> ApexsimError:
    plan = {"model": "MiniCPM-V-2.6", "cluster": "8xa100-sxm-80gb", "pools": pools}
    with pytest.raises(ApexsimError) as error:
        prepare(parse(Plan, plan | keys, source="plan.yaml"), source="plan.yaml")
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize("pools", [SERVE, SERVE * 2, [{"role": "decode"}]])
@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        ({"mode": "push"}, "transfer.mode = push"),
        ({"mode": "push", "layerwise": True}, "transfer.mode = push"),
        ({"first_token": "prefill"}, "transfer.first_token = prefill"),
        ({"latency": "2ms"}, "transfer.latency = 2ms"),
    ],
)
def test_a_transfer_without_pools_between_which_kv_goes(pools, transfer, said):
    error = refused(pools, transfer=transfer)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"plan.yaml: {said}: no KV goes between pools with role={pools[0]['role']} (allowed: ")


def test_embeddings_travel_too():
    assert "transfer.first_token" in str(refused(IMAGES, transfer={"first_token": "prefill", "latency": "2ms"}))
    prepared = parse(Plan, {"model": "MiniCPM-V-2.6", "cluster": "8xa100-sxm-80gb", "pools": IMAGES,
                            "transfer": {"latency": "2ms"}}, source="plan.yaml")  # fmt: skip
    assert prepare(prepared)


@pytest.mark.parametrize(
    ("pools", "router", "said"),
    [
        (SERVE, {"encode": "random"}, "router.encode = random: no pool has role=encode (allowed: serve)"),
        (SERVE, {"decode": "random"}, "router.decode = random: no pool has role=decode (allowed: serve)"),
        (APART, {"serve": "random"}, "router.serve = random: no pool has role=serve (allowed: decode, prefill)"),
        (
            [*SERVE, *APART], {"serve": "random"},
            "router.serve = random: where pools prefill, router.prefill says where a request enters, and is least-",
        ),
        (IMAGES, {"encode": "prefix-aware"}, "router.encode = prefix-aware: units with role=encode have no prefixes"),
        (IMAGES, "prefix-aware", "router = prefix-aware: units with role=encode have no prefixes"),
    ],
)  # fmt: skip
def test_a_router_before_no_pool(pools, router, said):
    error = refused(pools, router=router)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"plan.yaml: {said}")


@pytest.mark.parametrize(
    ("pools", "router", "key"),
    [
        (SERVE, "randon", "router"), (APART, {"decode": "randon"}, "router.decode"),
        (IMAGES, {"encode": "randon"}, "router.encode"),
    ],
)  # fmt: skip
def test_a_router_that_nobody_knows(pools, router, key):
    error = refused(pools, router=router)
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"plan.yaml: {key}: unknown router 'randon'; did you mean 'random'?")


def test_a_role_that_nobody_knows():
    error = refused(IMAGES, router={"encod": "random"})
    assert str(error).startswith("plan.yaml: router.encod: unknown key; did you mean 'encode'? (allowed: serve, ")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"topology": "flat", "spines": 4}, "cluster.network.spines = 4: has an effect with topology: leaf-spine"),
        (
            {"topology": "rails", "routing": "spray", "queue_pairs": 4},
            "cluster.network.queue_pairs = 4: has an effect under routing: ecmp only, not under spray",
        ),
        ({"topology": "rails", "nodes_per_leaf": 3}, "cluster.network.nodes_per_leaf = 3 does not divide the 4 nodes"),
    ],
)
def test_keys_that_contradict_each_other_are_named_without_the_mapping(network, said):
    cluster = {"device": "a100-sxm-80gb", "nodes": 4, "network": network}
    assert str(refused(SERVE, cluster=cluster)).startswith(f"plan.yaml: {said}")
