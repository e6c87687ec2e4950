"""Leaves and spines: what routing policies put on the links, the anchors of collectives, and the links of transfers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.cost.fabric import Fabric, completion_s, fabric_of, link_loads, parts_of
from apexsim.cost.kvlinks import KvLinks, kv_links
from apexsim.cost.patterns import PATTERNS, leaf_spine, pattern_s
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.network import Network, Routing
from apexsim.spec.plan import Pool
from tests.worlds import drawn

MESSAGE = 64e6


def network(routing: Routing, **keys: object) -> Network:
    return Network.model_validate({"topology": "leaf-spine", "routing": routing, "hop_latency": 0.0, **keys})


def fabric(routing: Routing, leaves: int = 16, below: int = 16, **keys: object) -> Fabric:
    return leaf_spine(leaves, below, network(routing, **keys))


def over_spraying(pattern: str, routing: Routing, seed: int = 0, **keys: object) -> float:
    """Completion time over that of ideal spraying: 16 leaves of 16 hosts, 16 spines."""
    if routing == "ecmp":
        keys["seed"] = seed
    taken = pattern_s(fabric(routing, **keys), pattern, MESSAGE, seed=seed)
    return taken / pattern_s(fabric("spray"), pattern, MESSAGE, seed=seed)


# --- anchors: Addanki et al., "Challenging the need for packet spraying" (arXiv 2407.00550) ------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_splitting_is_as_good_as_spraying(pattern: str) -> None:
    assert 1.0 <= over_spraying(pattern, "split") * (1 + 1e-12) <= 1.02


@pytest.mark.parametrize("pattern", ["random-ring", "leaf-shift", "permutation"])
def test_ecmp_collides_where_few_flows_leave_a_leaf(pattern: str) -> None:
    """16 flows on 16 spines: the fullest has three or more of them."""
    found = [over_spraying(pattern, "ecmp", seed) for seed in range(8)]
    assert all(3.0 <= ratio <= 6.0 + 1e-9 for ratio in found)


def test_ecmp_of_recursive_doubling_collides_in_the_steps_that_leave_a_leaf() -> None:
    hashed, sprayed = fabric("ecmp"), fabric("spray")
    for j, (source, sink, size) in enumerate(PATTERNS["recursive-doubling"](256, 16, MESSAGE, 0)):
        ratio = completion_s(hashed, source, sink, size)[0] / completion_s(sprayed, source, sink, size)[0]
        assert ratio == 1.0 if j < 4 else 3.0 <= ratio <= 6.0 + 1e-9, j


def test_ecmp_evens_out_over_the_many_flows_of_an_all_to_all() -> None:
    assert all(1.05 <= over_spraying("all-to-all", "ecmp", seed) <= 1.25 for seed in range(4))


def test_a_ring_in_rank_order_needs_no_policy() -> None:
    """One flow leaves each leaf, and has a link of its NIC's rate to itself."""
    assert over_spraying("ring", "ecmp") == 1.0


@pytest.mark.parametrize("pattern", ["random-ring", "leaf-shift", "permutation", "all-to-all", "recursive-doubling"])
def test_four_queue_pairs_lie_strictly_between(pattern: str) -> None:
    one, four = over_spraying(pattern, "ecmp"), over_spraying(pattern, "ecmp", queue_pairs=4)
    assert 1.0 < four < one


def test_flows_are_cut_only_where_their_number_does_not_divide() -> None:
    """12 flows on 16 spines: each in four parts. 32 on 16: none is cut."""
    split = fabric("split", below=32, spines=16)
    for flows, parts in ((12, 48), (32, 32)):
        found = parts_of(split, np.arange(flows), 32 + np.arange(flows))
        assert len(found.flow) == parts
        assert np.bincount(found.spine, found.share, 16) == pytest.approx(flows / 16)


@given(st.integers(1, 48), st.integers(1, 48))
@drawn
def test_splitting_any_number_of_flows_over_any_number_of_spines_is_spraying(flows: int, spines: int) -> None:
    source, sink = np.arange(flows), flows + np.arange(flows)
    split, spray = (completion_s(fabric(name, 2, flows, spines=spines), source, sink)[0] for name in ("split", "spray"))
    assert 1.0 <= split / spray * (1 + 1e-9) <= 1.02


# --- whatever is drawn --------------------------------------------------------------------------------------------


@st.composite
def traffics(draw: st.DrawFn) -> tuple[int, int, int, float, np.ndarray, np.ndarray]:
    leaves, below, spines = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    flows = draw(st.integers(1, 60))
    source, sink = random.integers(0, leaves * below, (2, flows))
    return leaves, below, spines, draw(st.sampled_from([1.0, 2.0, 3.5])), source, sink


@given(traffics(), st.integers(1, 4))
@drawn
def test_what_leaves_a_leaf_reaches_the_other(
    traffic: tuple[int, int, int, float, np.ndarray, np.ndarray], pairs: int
) -> None:
    """Bytes are conserved at every leaf and every spine, and splitting loads every link as spraying does."""
    leaves, below, spines, oversubscription, source, sink = traffic
    loads = {}
    for routing, keys in (("ecmp", {"queue_pairs": pairs}), ("split", {}), ("spray", {})):
        made = fabric(routing, leaves, below, spines=spines, oversubscription=oversubscription, **keys)  # type: ignore[arg-type]
        up, down = link_loads(made, source, sink, 3.0)
        far = made.far(source, sink)
        sent, got = (3.0 * np.bincount(made.leaf[end][far], minlength=leaves) for end in (source, sink))
        np.testing.assert_allclose(up.sum(axis=1), sent, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(down.sum(axis=1), got, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(up.sum(axis=0), down.sum(axis=0), rtol=1e-9, atol=1e-9)
        loads[routing] = up, down
    np.testing.assert_allclose(loads["split"], loads["spray"], rtol=1e-9, atol=1e-9)
    assert loads["ecmp"][0].max() >= loads["spray"][0].max() * (1 - 1e-9)


# --- a cluster's graph, and transfers over it ---------------------------------------------------------------------

PAIR = (Pool(role="prefill", tp=8), Pool(role="decode", tp=8))


def links(pools: tuple[Pool, ...] = PAIR, nodes: int = 2, **network: object) -> KvLinks:
    cluster = Cluster.model_validate({"device": "h100-sxm", "nodes": nodes, "network": network})
    return kv_links(cluster, pools, (catalog.device("h100-sxm"),) * len(pools))


def rate(found: KvLinks, a: int = 0, b: int = 1) -> float:
    """B/s of a transfer that is alone."""
    way = found.ways[a, b, 0]
    shares = found.shares[way] if found.shares else (1.0,) * len(found.paths[way])
    return min(float(found.capacity[link]) / share for link, share in zip(found.paths[way], shares, strict=True))


def test_the_graph_of_a_cluster_is_what_the_arrays_say() -> None:
    cluster = Cluster.model_validate(
        {"device": "h100-sxm", "nodes": 4,
         "network": {"topology": "leaf-spine", "nodes_per_leaf": 2, "spines": 4, "oversubscription": 2.0}}
    )  # fmt: skip
    made = fabric_of(cluster, [catalog.device("h100-sxm")])
    assert made is not None
    assert made.leaf.tolist() == [0] * 16 + [1] * 16
    assert made.spines == 4
    assert made.link == pytest.approx([16 * 50e9 / (4 * 2)] * 2)


def test_rails_hang_together_by_place_in_the_node() -> None:
    cluster = Cluster.model_validate({"device": "h100-sxm", "nodes": 4, "network": {"topology": "rails"}})
    made = fabric_of(cluster, [catalog.device("h100-sxm")])
    assert made is not None
    assert made.leaf.tolist() == list(range(8)) * 4
    assert links(topology="rails").paths == links().paths  # rank to rank: each on its rail


def test_one_node_and_a_flat_network_have_no_switches() -> None:
    assert fabric_of(Cluster(device="h100-sxm", nodes=4), [catalog.device("h100-sxm")]) is None
    one = Cluster.model_validate({"device": "h100-sxm", "network": {"topology": "leaf-spine"}})
    assert fabric_of(one, [catalog.device("h100-sxm")]) is None


def test_a_network_that_nobody_leaves_a_leaf_of_is_flat() -> None:
    """Links, ways and latencies of one leaf are those of a flat network; those of a flat one say nothing of shares."""
    flat, below = links(), links(topology="leaf-spine")
    assert flat.shares == ()
    assert below.paths == flat.paths
    assert below.latency_s.tolist() == flat.latency_s.tolist()
    assert below.capacity[: len(flat.capacity)].tolist() == flat.capacity.tolist()
    assert {share for way in below.shares for share in way} == {1.0}


def test_oversubscription_halves_what_a_leaf_sends() -> None:
    apart = {"topology": "leaf-spine", "nodes_per_leaf": 1, "routing": "spray"}
    assert rate(links(**apart)) == pytest.approx(rate(links()))
    assert rate(links(**apart, oversubscription=2.0)) == pytest.approx(rate(links()) / 2)


def test_a_hash_may_put_several_pairs_on_one_spine() -> None:
    """Eight pairs on eight spines collide; split and sprayed they do not. Equal keys give equal ways."""
    keys = {"topology": "leaf-spine", "nodes_per_leaf": 1}
    found = [rate(links()) / rate(links(**keys, seed=seed)) for seed in range(12)]
    assert all(1.0 <= slower <= 8.0 for slower in found)
    assert np.mean(found) > 2.0
    assert rate(links(**keys, routing="split")) == pytest.approx(rate(links()))
    assert links(**keys).shares == links(**keys).shares


@pytest.mark.parametrize("routing", ["ecmp", "split", "spray"])
def test_the_shares_of_a_way_cross_every_cut_once(routing: str) -> None:
    """Up and down add up to what leaves the leaf, of ends of several sizes, over one node or two."""
    pools = (Pool(role="prefill", tp=8, pp=2), Pool(role="prefill", tp=2), Pool(role="decode", tp=4, replicas=3))
    found = links(pools, nodes=4, topology="leaf-spine", nodes_per_leaf=1, routing=routing)
    units = 5
    for a in range(units):
        for b in range(units):
            way = found.ways[a, b, 0]
            switched = [share for link, share in zip(found.paths[way], found.shares[way], strict=True)
                        if link >= 6 * units]  # fmt: skip
            assert sum(switched) == pytest.approx(round(sum(switched) * 4) / 4)
            assert sum(switched) <= 2 + 1e-9


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"topology": "torus"}, "topology"),
        ({"topology": "leaf-spine", "nodes_per_leaf": 3}, "does not divide the 4 nodes"),
        ({"spines": 4}, "spines = 4: has an effect with topology"),
        ({"topology": "rails", "routing": "spray", "queue_pairs": 4}, "queue_pairs = 4: has an effect under routing"),
        ({"topology": "leaf-spine", "oversubscription": 0.0}, "oversubscription"),
        ({"topologie": "rails"}, "topologie"),
    ],
)
def test_a_wrong_network_is_refused(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cluster.model_validate({"device": "h100-sxm", "nodes": 4, "network": keys})


def test_groups_of_several_sizes_need_spines() -> None:
    groups = {"device": "h100-sxm", "nodes": 2, "other_groups": [{"device": "l40s", "devices_per_node": 4}]}
    with pytest.raises(ValueError, match=r"network.spines is needed: .* 16 and 4 NICs"):
        Cluster.model_validate({**groups, "network": {"topology": "leaf-spine"}})
    assert Cluster.model_validate({**groups, "network": {"topology": "leaf-spine", "spines": 4}}).network.spines == 4
