"""A cluster: how many devices of which kind, and the links between them.

Written as a mapping, as a list of mappings (a heterogeneous cluster) or short: ``8xh100-sxm`` is one node of
eight devices, ``4x8xh100-sxm`` four such nodes, and ``+`` joins groups. Where these are
of different devices, each pool of a plan says on which it stands.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import networkx as nx
from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from apexsim.spec.base import Strict
from apexsim.spec.hardware import HardwareProfile, Scaleup
from apexsim.spec.network import Network
from apexsim.spec.units import Bandwidth

LinkClass = Literal["scaleup", "pcie", "nic", "fabric"]
"""From the fastest to the farthest: NVLink and its kin, PCIe inside a node, device to leaf, leaf to spine."""

NAMED: dict[str, dict[str, Any]] = {
    # 48 nodes of eight packages with two dies each, all on one unified bus (arXiv 2506.12708)
    "cloudmatrix384": {"device": "ascend-910c-die", "devices_per_node": 16, "nodes": 48},
    # 18 trays of four, all on one NVLink switch (NVIDIA's datasheets)
    "gb200-nvl72": {"device": "gb200", "devices_per_node": 4, "nodes": 18},
    "gb300-nvl72": {"device": "gb300", "devices_per_node": 4, "nodes": 18},
}
"""Clusters that have a name."""

_SHORT = re.compile(r"(?:(\d+)x)?(\d+)x([a-z][a-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Link:
    """What joins the devices of one parallel group: the slowest class of link that the group needs."""

    link_class: LinkClass
    bandwidth: float  # B/s that one device can send
    latency_s: float  # of one message over one hop
    switched: bool  # every pair at full bandwidth at once, and each rank reads the others' memory
    near: Link | None = None  # between nodes: what joins the ranks of one node; None where a node holds one
    near_ranks: int = 1  # between nodes: ranks that one node holds at most
    crowding: Crowding | None = None  # between nodes: the algorithms to choose from, and what the switches add to them


@dataclass(frozen=True, slots=True)
class Crowding:
    """How much longer a pattern of traffic takes over leaves and spines than over its NICs alone; 1 = no longer."""

    fastest: bool = True  # of several algorithms the fastest counts; else rings
    ring: float = 1.0  # every NIC to the one of its place in the next node
    tree: float = 1.0  # two binary trees over the nodes, in each of which half of the bytes goes up and down
    doubling: tuple[float, ...] = ()  # step j: with the node 2^j away; empty where nodes are no power of two
    direct: float = 1.0  # every NIC to all NICs of the other nodes
    aligned: float = 1.0  # every NIC to those of its place in the other nodes


class DeviceGroup(Strict):
    """Nodes that are all alike."""

    device: str = Field(description="device profile: `apexsim list devices`")
    devices_per_node: int = Field(8, ge=1, description="devices of one node")
    nodes: int = Field(1, ge=1, description="number of nodes")
    node_link: Bandwidth | None = Field(
        None, description="network of one device, one direction, such as 50GB/s; its profile's if left out"
    )
    node_overhead_w: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="watts of a node beside its devices: host, fans, NICs, switches"
    )


class Cluster(DeviceGroup):
    """The devices that a plan may use. The first group stands in the fields themselves."""

    other_groups: tuple[DeviceGroup, ...] = Field(
        (), strict=False, description="further groups of devices, where the cluster holds more than one kind"
    )
    pue: float = Field(
        1.0, ge=1, allow_inf_nan=False, description="energy of the site over that of its nodes"
    )
    network: Network = Field(Network(), description="switches between the nodes, and how packets find their way")

    @model_validator(mode="before")
    @classmethod
    def _from_short_forms(cls, data: Any) -> Any:
        if isinstance(data, str) and data.strip().lower() in NAMED:
            data = NAMED[data.strip().lower()]
        if isinstance(data, str):
            data = [_group(part) for part in data.split("+")]
        if isinstance(data, list | tuple):
            return _joined(data)
        return data

    @model_validator(mode="after")
    def _leaves_are_even(self) -> Cluster:
        network = self.network
        if not network.switched:
            return self
        for group in self.groups:
            if network.nodes_per_leaf is not None and group.nodes % network.nodes_per_leaf:
                raise ValueError(
                    f"network.nodes_per_leaf = {network.nodes_per_leaf} does not divide the {group.nodes} nodes of "
                    f"{group.device}"
                )
        nics = [network.nics(group.nodes, group.devices_per_node) for group in self.groups]
        if network.spines is None and len(set(nics)) > 1:
            each = " and ".join(map(str, nics))
            raise ValueError(f"network.spines is needed: the leaves of the groups have {each} NICs")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The mapping, and the short forms beside it."""
        short = {"type": "string", "examples": ["8xh100-sxm", "4x8xh100-sxm"]}
        groups = {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}
        return {"anyOf": [handler(core_schema), short, groups]}

    @property
    def groups(self) -> tuple[DeviceGroup, ...]:
        """All groups, the first one included."""
        first = DeviceGroup(
            device=self.device,
            devices_per_node=self.devices_per_node,
            nodes=self.nodes,
            node_link=self.node_link,
            node_overhead_w=self.node_overhead_w,
        )
        return (first, *self.other_groups)

    @property
    def devices(self) -> int:
        """Devices of all groups together."""
        return sum(group.devices_per_node * group.nodes for group in self.groups)

    def only(self, device: str | None) -> Cluster:
        """The first group with ``device`` alone; the first of all where it is None, or no group has it."""
        group = next((group for group in self.groups if group.device == device), self.groups[0])
        return Cluster(**group.model_dump(), pue=self.pue, network=self.network)

    def __str__(self) -> str:
        return "+".join(
            f"{f'{group.nodes}x' if group.nodes > 1 else ''}{group.devices_per_node}x{group.device}"
            for group in self.groups
        )

    def link(self, profile: HardwareProfile, devices: int) -> Link:
        """The link of a parallel group of ``devices`` neighbouring devices of the first group.

        Groups are placed on consecutive devices, so one that is no larger than an island of scale-up links
        stays inside it, one that is no larger than a node stays inside the node, any other needs the network.
        Without a switch a small group reaches only the ports to its own members (a ring in a torus).
        """
        scaleup = profile.scaleup
        if scaleup is not None and devices <= island_size(self, profile):
            switched = scaleup.topology == "switch"
            share = 1.0 if switched else _share_of_ports(scaleup, devices)
            return Link("scaleup", scaleup.bandwidth * share, scaleup.latency_s, switched)
        if devices <= self.devices_per_node and profile.pcie_bandwidth is not None:
            return Link("pcie", profile.pcie_bandwidth, profile.pcie_latency_s, False)
        near = max(self.devices_per_node if profile.pcie_bandwidth is not None else 1, island_size(self, profile))
        return Link(
            "nic", self.node_link or profile.node_link_bandwidth, profile.node_link_latency_s, False,
            self.link(profile, near) if near > 1 else None, near,
        )

    def strided_link(self, profile: HardwareProfile, ranks: int, stride: int) -> Link:
        """The link of ``ranks`` devices that lie ``stride`` apart, such as equal ranks of neighbouring groups."""
        link = self.link(profile, ranks * stride)
        if link.link_class != "nic":
            return link
        in_a_node = max(link.near_ranks // stride, 1)
        return replace(link, near=link.near if in_a_node > 1 else None, near_ranks=in_a_node)

    def stage_link(self, profile: HardwareProfile, width: int, stages: int, stage: int) -> Link:
        """What joins the ``width`` devices of a pipeline stage to those of the next one, the slowest of them.

        The stages of a replica lie on consecutive devices, from the beginning of a node on where it needs several.
        """
        island, whole = island_size(self, profile), width * stages
        rack_scale = profile.scaleup is not None and profile.scaleup.rack_scale
        box = max(self.devices, island) if rack_scale else self.devices_per_node
        pairs = [(device, device + width) for device in range(stage * width, (stage + 1) * width)]
        if all(a // box == b // box and a % box // island == b % box // island for a, b in pairs):
            return self.link(profile, min(whole, island))
        if all(a // self.devices_per_node == b // self.devices_per_node for a, b in pairs):
            return self.link(profile, min(whole, self.devices_per_node))
        return self.link(profile, whole)

    def graph(self, profiles: Mapping[str, HardwareProfile]) -> nx.Graph[str]:
        """Devices, switches, hosts, NICs, leaves and the spine, with their links.

        Nodes carry ``kind`` (and devices ``device``, ``group``, ``node``); edges carry ``link_class``,
        ``bandwidth`` (B/s in one direction) and ``latency_s``. Devices are ``device0`` … in the groups' order.
        """
        graph: nx.Graph[str] = nx.Graph()
        first = 0
        for index, group in enumerate(self.groups):
            network = None if self._is_one_node else self.network
            _add_group(graph, index, group, profiles[group.device], first, network)
            first += group.devices_per_node * group.nodes
        return graph

    @property
    def _is_one_node(self) -> bool:
        return len(self.groups) == 1 and self.nodes == 1


def island_size(group: DeviceGroup, profile: HardwareProfile) -> int:
    """Devices that scale-up links join; 1 where the device has none. Only rack-scale links leave a node."""
    if profile.scaleup is None:
        return 1
    reach = group.devices_per_node * (group.nodes if profile.scaleup.rack_scale else 1)
    return min(profile.scaleup.domain, reach)


def _share_of_ports(scaleup: Scaleup, devices: int) -> float:
    """The share of a device's scale-up links that lead to the other members of a group."""
    peers = max(devices - 1, 1)
    ports = scaleup.ports or min(peers, scaleup.domain - 1)
    used = min(peers, 2) if scaleup.topology == "torus" else peers
    return min(used / ports, 1.0)


def _group(text: str) -> dict[str, Any]:
    match = _SHORT.fullmatch(text.strip().lower())
    if match is None:
        known = ", ".join(NAMED)
        raise ValueError(
            f"{text.strip()!r} is not a cluster; write 8xh100-sxm, or 4x8xh100-sxm for four nodes (named: {known})"
        )
    nodes, devices, device = match.groups()
    return {"device": device, "devices_per_node": int(devices), "nodes": int(nodes or 1)}


def _joined(groups: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    groups = [_group(group) if isinstance(group, str) else group for group in groups]
    if not groups or not all(isinstance(group, Mapping) for group in groups):
        raise ValueError("a cluster is a list of groups, each {device: …, devices_per_node: …, nodes: …}")
    return {**groups[0], "other_groups": groups[1:]}


def _add_group(
    graph: nx.Graph[str], index: int, group: DeviceGroup, profile: HardwareProfile, first: int, network: Network | None
) -> None:
    count = group.devices_per_node * group.nodes
    names = [f"device{first + i}" for i in range(count)]
    for i, name in enumerate(names):
        graph.add_node(name, kind="device", device=group.device, group=index, node=i // group.devices_per_node)
    if profile.scaleup is not None:
        for number, island in enumerate(_islands(names, group, profile)):
            _add_scaleup(graph, island, f"switch{index}.{number}", profile)
    if profile.pcie_bandwidth is not None:
        for i, name in enumerate(names):
            host = f"host{index}.{i // group.devices_per_node}"
            graph.add_node(host, kind="host", group=index)
            _connect(graph, name, host, "pcie", profile.pcie_bandwidth, profile.pcie_latency_s)
    if network is not None:
        _add_network(graph, index, group, profile, names, network)


def _islands(names: list[str], group: DeviceGroup, profile: HardwareProfile) -> Iterator[list[str]]:
    """Runs of neighbouring devices that scale-up links join. A node's last run may be shorter."""
    size = island_size(group, profile)
    rack_scale = profile.scaleup is not None and profile.scaleup.rack_scale
    box = len(names) if rack_scale else group.devices_per_node
    for start in range(0, len(names), box):
        for offset in range(0, box, size):
            yield names[start + offset : min(start + offset + size, start + box)]


def _add_scaleup(graph: nx.Graph[str], island: list[str], switch: str, profile: HardwareProfile) -> None:
    scaleup = profile.scaleup
    assert scaleup is not None
    if len(island) < 2:
        return
    if scaleup.topology == "switch":
        graph.add_node(switch, kind="switch")
        for name in island:
            _connect(graph, name, switch, "scaleup", scaleup.bandwidth, scaleup.latency_s / 2)
        return
    peers = len(island) - 1
    is_torus = scaleup.topology == "torus"
    ports = scaleup.ports or peers if is_torus else max(scaleup.ports or 1, peers)
    for a, b in _ring(island) if is_torus else itertools.combinations(island, 2):
        _connect(graph, a, b, "scaleup", scaleup.bandwidth / ports, scaleup.latency_s)


def _ring(names: list[str]) -> list[tuple[str, str]]:
    """Neighbours on a ring: the one path through a torus that every slice of it has."""
    ring = list(itertools.pairwise(names))
    return [*ring, (names[-1], names[0])] if len(names) > 2 else ring


def _add_network(
    graph: nx.Graph[str], index: int, group: DeviceGroup, profile: HardwareProfile, names: list[str], network: Network
) -> None:
    """A NIC for every device, below its leaf. A flat network has one leaf a group and one spine, and does not block."""
    bandwidth = group.node_link or profile.node_link_bandwidth
    leaves: dict[str, None] = {}
    for number, name in enumerate(names):
        nic = name.replace("device", "nic")
        leaf = f"leaf{index}"
        if network.switched:
            leaf += f".{network.leaf(group.nodes, group.devices_per_node, number)}"
        leaves[leaf] = None
        graph.add_node(nic, kind="nic", group=index)
        graph.add_node(leaf, kind="leaf", group=index)
        to_nic = profile.pcie_bandwidth or bandwidth
        _connect(graph, name, nic, "pcie", to_nic, profile.pcie_latency_s)
        _connect(graph, nic, leaf, "nic", bandwidth, profile.node_link_latency_s / 2)
    if not network.switched:
        graph.add_node("spine", kind="spine")
        _connect(graph, leaf, "spine", "fabric", bandwidth * len(names), profile.node_link_latency_s / 2)
        return
    nics = network.nics(group.nodes, group.devices_per_node)
    spines = network.spines or nics
    for spine in range(spines):
        graph.add_node(f"spine{spine}", kind="spine")
        for leaf in leaves:
            each = bandwidth * nics / (spines * network.oversubscription)
            _connect(graph, leaf, f"spine{spine}", "fabric", each, network.hop_latency)


def _connect(graph: nx.Graph[str], a: str, b: str, link_class: LinkClass, bandwidth: float, latency_s: float) -> None:
    graph.add_edge(a, b, link_class=link_class, bandwidth=bandwidth, latency_s=latency_s)
