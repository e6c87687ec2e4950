"""Clusters: their short forms, and the graph of their links."""

from __future__ import annotations

import itertools

import networkx as nx
import pytest

from apexsim.errors import InputError, UsageError
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster, DeviceGroup, island_size


def graph(text: str) -> nx.Graph[str]:
    cluster = catalog.cluster(text)
    return cluster.graph({group.device: catalog.device(group.device) for group in cluster.groups})


def neighbours(links: nx.Graph[str], node: str, link_class: str) -> list[str]:
    return sorted(other for other, edge in links[node].items() if edge["link_class"] == link_class)


@pytest.mark.parametrize(
    ("text", "nodes", "devices"),
    [("8xh100-sxm", 1, 8), ("4x8xH100-SXM", 4, 32), ("8xmi300x", 1, 8), ("18x4xgb200", 18, 72)],
)
def test_short_forms(text: str, nodes: int, devices: int) -> None:
    cluster = catalog.cluster(text)
    assert (cluster.nodes, cluster.devices) == (nodes, devices)
    assert str(cluster) == text.lower()
    assert Cluster.model_validate(str(cluster)) == cluster


def test_a_heterogeneous_cluster_keeps_its_groups() -> None:
    cluster = catalog.cluster("8xh100-sxm+2x4xl40s")
    assert cluster.groups == (
        DeviceGroup(device="h100-sxm"),
        DeviceGroup(device="l40s", devices_per_node=4, nodes=2),
    )
    assert cluster.devices == 16
    assert Cluster.model_validate(cluster.model_dump(mode="json")) == cluster


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("h100-sxm", "write 8xh100-sxm"),
        ("0xh100-sxm", "devices_per_node = 0"),
        ("8xh1000-sxm", "did you mean 'h100-sxm'?"),
        ("eightxh100-sxm", "is not a cluster"),
        ("8xh100-sxm+", "'' is not a cluster"),
    ],
)
def test_bad_clusters_are_one_line_of_usage_error(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        catalog.cluster(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_cluster_file_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no such file"):
        catalog.cluster("cluster.yaml")


def test_one_switched_node_has_no_network() -> None:
    links = graph("8xh100-sxm")
    kinds = sorted(kind for _, kind in links.nodes(data="kind"))
    assert kinds == ["device"] * 8 + ["host", "switch"]
    edge = links["device0"]["switch0.0"]
    assert (edge["link_class"], edge["bandwidth"]) == ("scaleup", 450e9)
    assert links["device0"]["host0.0"]["bandwidth"] == 63e9


def test_scaleup_links_stay_inside_a_node_and_the_network_joins_nodes() -> None:
    links = graph("2x8xh100-sxm")
    path = nx.shortest_path(links, "device0", "device8")
    classes = [links[a][b]["link_class"] for a, b in itertools.pairwise(path)]
    assert classes == ["pcie", "nic", "nic", "pcie"]
    assert nx.shortest_path_length(links, "device0", "device7") == 2
    assert links["nic0"]["leaf0"]["bandwidth"] == 50e9
    assert links["leaf0"]["spine"]["bandwidth"] == 16 * 50e9


def test_rack_scale_links_join_nodes() -> None:
    links = graph("18x4xgb200")
    assert len(neighbours(links, "switch0.0", "scaleup")) == 72


def test_a_mesh_shares_the_bandwidth_among_the_peers() -> None:
    links = graph("8xmi300x")
    peers = neighbours(links, "device3", "scaleup")
    assert len(peers) == 7
    assert sum(links["device3"][peer]["bandwidth"] for peer in peers) == pytest.approx(448e9)


def test_a_torus_joins_neighbours() -> None:
    links = graph("8xtpu-v5e")
    assert neighbours(links, "device3", "scaleup") == ["device2", "device4"]


def test_bridges_join_pairs() -> None:
    links = graph("8xh100-nvl")
    assert neighbours(links, "device4", "scaleup") == ["device5"]


def test_devices_without_scaleup_meet_at_the_host() -> None:
    links = graph("4xl40s")
    assert nx.shortest_path(links, "device0", "device3") == ["device0", "host0.0", "device3"]


def test_groups_meet_at_the_spine() -> None:
    links = graph("8xh100-sxm+8xh200-sxm")
    assert "spine" in nx.shortest_path(links, "device0", "device8")


@pytest.mark.parametrize(
    ("text", "devices", "link_class", "bandwidth"),
    [
        ("8xh100-sxm", 8, "scaleup", 450e9),
        ("2x8xh100-sxm", 16, "nic", 50e9),
        ("18x4xgb200", 72, "scaleup", 900e9),
        ("8xh100-nvl", 2, "scaleup", 300e9),
        ("8xh100-nvl", 4, "pcie", 63e9),
        ("8xl40s", 2, "pcie", 31.5e9),
        ("8xmi300x", 2, "scaleup", 64e9),
        ("8xmi300x", 8, "scaleup", 448e9),
        ("8xtpu-v5e", 8, "scaleup", 100e9),
    ],
)
def test_the_link_of_a_parallel_group(text: str, devices: int, link_class: str, bandwidth: float) -> None:
    cluster = catalog.cluster(text)
    link = cluster.link(catalog.device(cluster.device), devices)
    assert (link.link_class, link.bandwidth) == (link_class, pytest.approx(bandwidth))


def test_the_cluster_may_override_the_network() -> None:
    cluster = Cluster(device="h100-sxm", nodes=2, node_link=25e9)
    assert cluster.link(catalog.device("h100-sxm"), 16).bandwidth == 25e9


def test_a_half_filled_box_has_a_smaller_island() -> None:
    assert island_size(DeviceGroup(device="h100-sxm", devices_per_node=4), catalog.device("h100-sxm")) == 4
