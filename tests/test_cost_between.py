"""Collectives between nodes: which algorithm is the fastest where, and what leaves and spines add to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.cost.between import ALIGNED, DIRECT, DOUBLING, RING, RINGS, TREE
from apexsim.cost.collectives import KINDS, algorithm_of, all_reduce_s, collective_floor_s, collective_s, send_s
from apexsim.cost.crowding import group_link
from apexsim.errors import InputError
from apexsim.report.explanation import explain
from apexsim.search.experts import read_experts
from apexsim.search.pools import read_pools
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster, Crowding, Link
from apexsim.spec.plan import Plan
from tests.worlds import drawn

H100 = catalog.device("h100-sxm")
EXACT: dict[str, Any] = {"efficiency": 1.0, "launch_s": 0.0}


def link(ranks: int, nodes: int = 8, device: str = "h100-sxm", **network: object) -> Link:
    cluster = Cluster.model_validate({"device": device, "nodes": nodes, "network": network})
    return group_link(cluster, catalog.device(device), ranks)


def crowding(ranks: int, nodes: int = 8, **network: object) -> Crowding:
    found = link(ranks, nodes, **network).crowding
    assert found is not None
    return found


def ways(kind: str, size: float, ranks: int, found: Link) -> dict[str, float]:
    made = KINDS[kind].ways(size, ranks, found, **EXACT)
    return {name: float(seconds) for name, seconds in made.items()}


# --- algorithms -------------------------------------------------------------------------------------------------


def test_a_flat_network_knows_rings_only() -> None:
    assert link(64).crowding is None
    assert link(64, topology="leaf-spine", collectives="ring").crowding == Crowding(
        fastest=False, doubling=(1.0,) * 3, direct=pytest.approx(1.0)
    )
    message = np.geomspace(1e3, 1e9, 9)
    flat, below = (collective_s("all_reduce", message, 64, found, **EXACT) for found in (
        link(64), link(64, topology="leaf-spine", collectives="ring")
    ))  # fmt: skip
    assert below.tolist() == flat.tolist()


def test_by_hand_over_eight_nodes() -> None:
    """S = 8 MB, 8 GPUs a node: 1 MB a NIC at 50 GB/s is 20 us; 7 hops of 1 us inside, each way."""
    found = link(64, collectives="auto")
    taken = ways("all_reduce", 8e6, 64, found)
    inside, hop = 2 * 7 * 1e-6, 5e-6
    assert taken[RINGS] == pytest.approx(inside + 2 * 7 * hop + 2 * 7 / 8 * 20e-6)
    assert taken[TREE] == pytest.approx(inside + 2 * 3 * hop + 2 * 20e-6)
    assert taken[DOUBLING] == pytest.approx(inside + 3 * hop + 3 * 20e-6)
    bytes_s = 2 * 63 / 64 * max(20e-6, 7 / 8 * 8e6 / 450e9)
    assert taken[RING] == pytest.approx(2 * (7 * hop + 56e-6) + bytes_s)
    gathered = ways("all_gather", 8e6, 64, found)
    assert gathered[DOUBLING] == pytest.approx(inside / 2 + 3 * hop + max(7 / 8 * 20e-6, 7 / 8 * 8e6 / 450e9))


@pytest.mark.parametrize(("size", "name"), [(1e4, DOUBLING), (4e6, DOUBLING), (16e6, TREE), (1e9, RINGS)])
def test_the_size_chooses(size: float, name: str) -> None:
    found = link(64, collectives="auto")
    assert algorithm_of("all_reduce", size, 64, found, **EXACT) == name
    assert float(all_reduce_s(size, 64, found, **EXACT)) == min(ways("all_reduce", size, 64, found).values())


def test_nodes_that_are_no_power_of_two_do_not_double() -> None:
    assert DOUBLING not in ways("all_reduce", 1e6, 48, link(48, 6, collectives="auto"))


@given(st.sampled_from([9, 12, 16, 24, 32, 64]), st.floats(1.0, 1e10), st.sampled_from(["all_reduce", "all_gather",
       "all_to_all"]), st.sampled_from(["flat", "leaf-spine", "rails"]), st.sampled_from([1, 2, 4]))  # fmt: skip
@drawn
def test_no_way_is_below_the_floor_and_the_choice_is_never_slower(
    ranks: int, size: float, kind: str, topology: str, below: int
) -> None:
    keys = {} if topology == "flat" else {"nodes_per_leaf": below}
    found = link(ranks, topology=topology, collectives="auto", **keys)
    rings = link(ranks, topology=topology, collectives="ring", **keys)
    taken = ways(kind, size, ranks, found)
    assert min(taken.values()) >= float(collective_floor_s(kind, size, ranks, found)) * (1 - 1e-12)
    assert float(collective_s(kind, size, ranks, found, **EXACT)) <= float(
        collective_s(kind, size, ranks, rings, **EXACT)
    )


# --- leaves and spines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["split", "spray"])
def test_a_network_that_does_not_block_adds_nothing(routing: str) -> None:
    found = crowding(64, topology="leaf-spine", nodes_per_leaf=2, routing=routing)
    assert found == Crowding(doubling=(1.0,) * 3)


def test_oversubscription_lengthens_what_leaves_the_leaf() -> None:
    """Two nodes below a leaf: 48 of the 56 partners of a NIC are elsewhere. Of the ring only every other node's are."""
    found = crowding(64, topology="leaf-spine", nodes_per_leaf=2, routing="spray", oversubscription=4.0)
    assert found.direct == pytest.approx(4 * 48 / 56)
    assert found.ring == pytest.approx(4 / 2)
    assert found.doubling == pytest.approx((1.0, 4.0, 4.0))


def test_below_one_leaf_nothing_is_crowded() -> None:
    found = link(16, topology="leaf-spine", nodes_per_leaf=2, oversubscription=8.0)
    assert found.crowding == Crowding(doubling=(1.0,))
    assert found.latency_s == link(16).latency_s
    assert link(32, topology="leaf-spine", nodes_per_leaf=2).latency_s == pytest.approx(link(32).latency_s + 1e-6)


def test_a_hash_crowds_rings_more_than_exchanges() -> None:
    found = crowding(64, topology="leaf-spine", nodes_per_leaf=1)
    assert 2.0 <= found.ring <= 6.0
    assert 1.0 < found.direct < found.ring
    several = crowding(64, topology="leaf-spine", nodes_per_leaf=1, queue_pairs=8)
    assert several.ring < found.ring


def test_rails_carry_what_stays_on_its_place() -> None:
    """NVLink first, then each on its rail: nothing needs a spine. Straight to the receiver 7 in 8 do."""
    found = crowding(64, topology="rails", routing="spray", oversubscription=8.0)
    assert (found.ring, found.aligned) == (1.0, 1.0)
    assert found.direct == pytest.approx(8 * 7 / 8)
    crowded = link(64, topology="rails", routing="spray", oversubscription=8.0)
    assert algorithm_of("all_to_all", 1e8, 64, crowded, **EXACT) == ALIGNED
    assert algorithm_of("all_to_all", 1e8, 64, link(64, topology="rails", routing="spray"), **EXACT) == DIRECT


def test_stages_send_through_the_same_switches() -> None:
    found = link(16, topology="leaf-spine", nodes_per_leaf=1, routing="spray", oversubscription=4.0)
    assert float(send_s(1e6, found, efficiency=1.0)) == pytest.approx(found.latency_s + 4 * 1e6 / 50e9)


# --- plans --------------------------------------------------------------------------------------------------------


def plan(pool: dict[str, object], model: str = "Llama-3.1-405B", **network: object) -> Plan:
    cluster = {"device": "h100-sxm", "nodes": 2, "network": network}
    return Plan.model_validate({"model": model, "cluster": cluster, "pools": [pool]})


def test_explain_says_which_algorithm_is_used() -> None:
    wide = {"tp": 16, "weights": "fp8"}
    found = explain(plan(wide, topology="leaf-spine", nodes_per_leaf=1, routing="spray"), batch=8)
    used = {op.name: op.algorithm for op in found.decode.operators if op.part == "communication"}
    assert used["mlp_sum"] == DOUBLING
    assert {op.algorithm for op in found.decode.operators if op.part != "communication"} == {""}
    assert any("leaves and spines lengthen them: ring × 1.00" in n for n in found.prepared.compiled.confidence.notes)
    assert explain(plan(wide), batch=8).decode.operators[0].algorithm in ("", RINGS)


def test_what_leaves_the_leaf_slows_the_exchange_of_experts() -> None:
    """Low-latency kernels send straight to every rank, normal ones to the sender's place in each node."""

    def decode_s(**network: object) -> float:
        pool = {"dp": 16, "ep": 16, "experts": {"exchange": "deepep-low-latency"}, "max_model_len": 8192}
        return explain(plan(pool, "DeepSeek-V3", **network), batch=64, context=1024).decode.duration_s

    flat = decode_s()
    assert decode_s(topology="leaf-spine", nodes_per_leaf=1, routing="spray") == pytest.approx(flat, rel=1e-3)
    assert decode_s(topology="leaf-spine", nodes_per_leaf=1, routing="spray", oversubscription=8.0) > 1.2 * flat


def test_programs_that_know_nics_only_refuse_switches(tmp_path: Path) -> None:
    cluster = {"device": "h100-sxm", "nodes": 2, "network": {"topology": "rails"}}
    shape = {"name": "p", "role": "prefill", "devices": 8, "rate": 1.0}
    pools = {"cluster": cluster, "kv_bytes": "1GB", "shapes": [shape, shape | {"name": "d", "role": "decode"}]}
    counts = tmp_path / "counts.csv"
    counts.write_text("1,1,1,1\n")
    for read, asked in ((read_pools, pools), (read_experts, {"cluster": cluster, "counts": str(counts)})):
        with pytest.raises(InputError, match="topology = rails: links between nodes are NICs here"):
            read(asked)
