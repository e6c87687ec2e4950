"""Laws of KV tiers and swaps: published numbers, and the plans that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.swap import API_S, SwapLaw, swap_law
from apexsim.cost.tiers import PCIE_SHARE, TierLaw, tier_laws
from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool
from apexsim.workload.trace import Trace


def pool(scheduler: dict[str, Any] | None = None, **keys: Any) -> Pool:
    return parse(Pool, {"scheduler": scheduler or {"prefix_caching": True}, **keys}, source="pool")


def laws(model: str, device: str, devices: int = 1, **keys: Any) -> tuple[TierLaw, ...]:
    cluster = Cluster.model_validate(f"{devices}x{device}")
    return tier_laws(catalog.model(model), catalog.device(device), cluster, pool(**keys))


def swap(model: str, device: str, **scheduler: Any) -> SwapLaw:
    law = swap_law(catalog.model(model), catalog.device(device), pool({"preemption": "swap", **scheduler}))
    assert law is not None
    return law


def test_fastswitch_a_swap_block_by_block_is_bound_by_calls() -> None:
    """An 8B model, 1,024 tokens over PCIe 4: 4,096 calls of 8 us; the bytes alone would take 5.4 ms."""
    block_by_block = swap("Llama-3.1-8B", "a10").seconds(1024 // 16)
    assert block_by_block == pytest.approx(4096 * API_S)
    assert block_by_block == pytest.approx(32.8e-3, rel=0.01)
    ideal = 1024 * 131_072 / (PCIE_SHARE * catalog.device("a10").pcie_bandwidth)
    assert ideal == pytest.approx(5.4e-3, rel=0.05)
    assert 4.0 <= block_by_block / ideal <= 8.0
    grouped = [swap("Llama-3.1-8B", "a10", swap_group=g).seconds(1024 // 16) / ideal for g in (4, 16)]
    assert grouped == pytest.approx([1.5, 1.0], abs=0.05)


@pytest.mark.parametrize(("model", "published_s"), [("Llama-2-7B", 16e-3), ("Llama-2-70B", 4e-3)])
def test_cacheblend_the_load_of_a_layer_from_nvme(model: str, published_s: float) -> None:
    """4K tokens from a drive of 4.8 GB/s, the default: within 20 % of the paper's milliseconds a layer."""
    (law,) = laws(model, "a40", 4, tp=1, kv_tiers=[{"tier": "nvme", "capacity": "1TB"}])
    assert 4096 / 16 * law.block_s / law.layers == pytest.approx(published_s, rel=0.2)


def test_devices_load_their_shares_and_the_pool_holds_all_of_them() -> None:
    tiers = [{"tier": "host", "capacity": "100GB", "bandwidth": "50GB/s"}, {"tier": "remote", "capacity": "100GB"}]
    one, two = (laws("Llama-3.1-8B", "h100-sxm", 2, tp=tp, kv_tiers=tiers) for tp in (1, 2))
    assert one[0].block_s == pytest.approx(16 * 131_072 / 50e9)
    assert two[0].block_s == pytest.approx(one[0].block_s / 2)
    assert two[0].blocks == pytest.approx(2 * one[0].blocks, abs=1)
    assert two[1].blocks == one[1].blocks  # whatever its devices, a block of the pool is a whole one
    assert one[0].block_bytes == two[0].block_bytes == 16 * 131_072
    assert (one[0].carries, one[0].shared, one[1].carries, one[1].shared) == (True, False, False, True)


def test_stages_have_their_own_layers() -> None:
    (law,) = laws("Llama-3.1-8B", "h100-sxm", 2, pp=2, kv_tiers=[{"tier": "host", "capacity": "1GB"}])
    assert law.layers == 16
    assert law.block_s == pytest.approx(16 * 131_072 / 2 / (PCIE_SHARE * 63e9))


HOST = {"tier": "host", "capacity": "64GB"}


@pytest.mark.parametrize(
    ("keys", "scheduler", "reason"),
    [
        ({"kv_tiers": [{"tier": "nvme", "capacity": "1TB"}, HOST]}, {"prefix_caching": True},
         "kv_tiers nvme, host: the order is host, nvme, remote"),
        ({"kv_load": "cheapest"}, {}, "kv_load: only with kv_tiers"),
        ({"kv_tiers": [HOST, HOST]}, {"prefix_caching": True}, "kv_tiers host, host: the order is"),
        ({"kv_tiers": [HOST]}, {}, "they need scheduler.prefix_caching = true"),
        ({"kv_tiers": [HOST | {"write": "back"}]}, {"prefix_caching": True}, "kv_tiers[0].write = back"),
        ({"kv_tiers": [HOST | {"size": "1GB"}]}, {"prefix_caching": True}, "kv_tiers[0].size: unknown key"),
        ({"kv_tiers": [HOST | {"capacity": 64}]}, {"prefix_caching": True}, "capacity = 64: 64 has no unit"),
        ({}, {"swap_space": "8GB"}, "scheduler.swap_space: only with preemption = swap"),
        ({}, {"swap_async": True}, "scheduler.swap_async: only with preemption = swap"),
    ],
)  # fmt: skip
def test_impossible_tiers_and_swaps_say_why(keys: dict[str, Any], scheduler: dict[str, Any], reason: str) -> None:
    data = {"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{"scheduler": scheduler, **keys}]}
    with pytest.raises(InputError) as problem:
        scenario.prepare(parse(Plan, data, source="p.yaml"), source="p.yaml")
    assert reason in str(problem.value)
    assert str(problem.value).startswith("p.yaml: ")
    assert "\n" not in str(problem.value)


def test_a_block_of_ranks_that_share_a_context_has_tokens_on_each_of_them() -> None:
    tiers = [{"tier": "host", "capacity": "100GB"}, {"tier": "remote", "capacity": "100GB"}]
    one, two = (laws("Llama-3.1-8B", "h100-sxm", 2, cp=cp, kv_tiers=tiers) for cp in (1, 2))
    assert two[0].block_s == one[0].block_s  # each device loads its own block_size tokens
    assert two[0].block_bytes == 2 * one[0].block_bytes
    assert two[0].blocks == one[0].blocks
    assert two[1].blocks == pytest.approx(one[1].blocks / 2, abs=1)


CHAT = Trace(
    "chat", np.arange(8) * 0.2, np.full(8, 96), np.full(8, 3), hash_ids=np.tile(np.arange(6), 8),
    hash_offsets=np.arange(0, 54, 6), hash_block_tokens=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("DeepSeek-V2-Lite", {"dp": 2, "ep": 2}), ("Llama-3.1-8B", {"cp": 2}),
        ("Llama-3.1-8B", {"speculative": {"method": "ngram", "num_speculative_tokens": 2}}),
    ],
)  # fmt: skip
def test_tiers_beside_ranks_and_drafts_are_booked_in_full(model: str, keys: dict[str, Any]) -> None:
    """What one rank or replica stored in the pool the other loads; the breakdown is the time of all replicas."""
    tiers = [{"tier": "remote", "capacity": "100GB", "bandwidth": "1GB/s"}]
    replicas = 1 if keys.get("dp") else 2
    one = {"replicas": replicas, "kv_tiers": tiers, "scheduler": {"prefix_caching": True}, **keys}
    data = {"model": model, "cluster": "8xh100-sxm", "pools": [one], "router": "round-robin"}
    prepared = scenario.prepare(parse(Plan, data, source="p.yaml"))
    assert isinstance(prepared, scenario.Prepared)
    summary = scenario.run(prepared, CHAT).summary
    assert summary.kv_tiers[0].loaded_bytes > 0
    assert sum(summary.breakdown_s.values()) == pytest.approx(replicas * summary.duration_s)
    assert summary.breakdown_s["communication"] > 0


def test_ids_tell_plans_apart() -> None:
    def id_of(**keys: Any) -> str:
        return Plan(model="m", cluster=Cluster.model_validate("8xh100-sxm"), pools=(pool(**keys),)).id

    tiers = [
        [HOST], [HOST | {"bandwidth": "50GB/s"}], [HOST | {"latency": "5us"}],
        [HOST, {"tier": "remote", "capacity": "1TB"}], [HOST, {"tier": "remote", "capacity": "1TB", "write": "back"}],
    ]  # fmt: skip
    swaps = [{"preemption": "swap", **more} for more in ({}, {"swap_space": "8GB"}, {"swap_group": 4})]
    ids = [id_of(kv_tiers=tier) for tier in tiers] + [id_of(kv_tiers=tiers[0], kv_load="cheapest")]
    ids += [id_of(scheduler=scheduler) for scheduler in swaps]
    assert len(set(ids)) == len(ids)


def test_layers_of_several_kinds_refuse_swaps() -> None:
    pool = {"scheduler": {"preemption": "swap"}}
    data = {"model": "Gemma-3-12B", "cluster": "1xh100-sxm", "pools": [pool]}
    with pytest.raises(InputError, match="layers of several kinds share a pool of pages"):
        scenario.prepare(parse(Plan, data, source="p.yaml"), source="p.yaml")
    data["pools"] = [pool | {"disable_hybrid_kv_cache_manager": True}]
    assert isinstance(scenario.prepare(parse(Plan, data, source="p.yaml")), scenario.Prepared)
