"""What the KV of one replica travels over to another: where replicas stand, and the links between them.

Pools take the devices of their group in the order of the plan, replicas one after the other, none across a node that it
could stand in, and those of several nodes from the beginning of one. A replica sends and receives with all of its
devices at once: its link out has the bandwidth of them all, and so has its link in.

    in one island of scale-up links      out and in over these
    in one node                          out and in over PCIe
    between nodes                        out and in over the NICs; between leaves over their links to the spines, too

Bandwidth is what the profile says that links reach of their datasheet. Attention ranks in lockstep are units of their
own, each with the links of its share of the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.fabric import fabric_of
from apexsim.cost.graph import cut_of
from apexsim.cost.kvroutes import Routes
from apexsim.cost.memory import MemoryPlan, stage_kv_token_bytes
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster, DeviceGroup, island_size
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

SCALEUP, PCIE, NIC = 0, 1, 2
CLASSES = 3
"""Classes of links that a unit has, each out and in."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A replica, or a rank of one: its devices, by number within their group of the cluster."""

    group: int
    first: int
    devices: int


@dataclass(frozen=True, slots=True)
class KvLinks:
    """Links and ways between U units, as ``engine.disaggregated.Links`` takes them.

    Attributes:
        capacity: [L] B/s.
        paths: links of each way.
        latency_s: [paths].
        ways: [U, U, 1] way from unit to unit.
        shares: of each way's bytes on each of its links; empty where all go over every one.
    """

    capacity: NDArray[np.float64]
    paths: tuple[tuple[int, ...], ...]
    latency_s: NDArray[np.float64]
    ways: NDArray[np.int64]
    shares: tuple[tuple[float, ...], ...] = ()


def place(cluster: Cluster, pools: Sequence[Pool]) -> list[Unit]:
    """Where every unit of every pool stands, in the order of the pools."""
    names = [group.device for group in cluster.groups]
    free = [0] * len(names)
    units: list[Unit] = []
    for pool in pools:
        group = names.index(pool.device or names[0])
        node = cluster.groups[group].devices_per_node
        for _ in range(pool.replicas):
            first = free[group]
            left = node - first % node
            if pool.devices_per_replica > left:
                first += left % node
            each = pool.devices_per_replica // pool.dp
            units += [Unit(group, first + rank * each, each) for rank in range(pool.dp)]
            free[group] = first + pool.devices_per_replica
    return units


def crowded(cluster: Cluster, pools: Sequence[Pool]) -> str | None:
    """Why the pools have no room on the cluster's groups, or None."""
    names = [group.device for group in cluster.groups]
    for index, pool in enumerate(pools):
        if pool.device is not None and pool.device not in names:
            return f"pools[{index}].device = {pool.device}: the cluster {cluster} holds {', '.join(names)}"
    for number, group in enumerate(cluster.groups):
        needed = max((unit.first + unit.devices for unit in place(cluster, pools) if unit.group == number), default=0)
        there = group.devices_per_node * group.nodes
        if needed > there:
            return f"pools: they need {needed} devices of {group.device}, the cluster {cluster} has {there}"
    return None


def kv_links(
    cluster: Cluster, pools: Sequence[Pool], profiles: Sequence[HardwareProfile], latency_s: float = 0.0
) -> KvLinks:
    """The links between all units; ``profiles`` by pool, ``latency_s`` of each transfer beside its links."""
    units = place(cluster, pools)
    owners = [p for p, pool in enumerate(pools) for _ in range(pool.replicas * pool.dp)]
    capacity = np.concatenate([_capacity(profiles[p], cluster, unit) for unit, p in zip(units, owners, strict=True)])
    routes = _routes(cluster, pools, profiles, len(capacity))
    paths: list[tuple[int, ...]] = []
    shares: list[tuple[float, ...]] = []
    latencies: list[float] = []
    ways = np.zeros((len(units), len(units), 1), np.int64)
    for a, here in enumerate(units):
        for b, there in enumerate(units):
            kind = _class_between(cluster, here, there, profiles[owners[a]])
            between: tuple[tuple[int, ...], tuple[float, ...]] = (), ()
            if routes is not None and kind == NIC and a != b:  # a replica may change its role: all may send
                between = routes.between(_ends(cluster, here), _ends(cluster, there))
            ways[a, b, 0] = len(paths)
            paths.append((2 * (a * CLASSES + kind), 2 * (b * CLASSES + kind) + 1, *between[0]))
            shares.append((1.0, 1.0, *between[1]))
            hops_s = 2 * cluster.network.hop_latency if between[0] else 0.0
            latencies.append(latency_s + _latency(profiles[owners[a]], kind) + hops_s)
    if routes is None:
        return KvLinks(capacity, tuple(paths), np.array(latencies), ways)
    links = np.concatenate([capacity, routes.capacity])
    return KvLinks(links, tuple(paths), np.array(latencies), ways, tuple(shares))


def _routes(
    cluster: Cluster, pools: Sequence[Pool], profiles: Sequence[HardwareProfile], first: int
) -> Routes | None:
    """The switches between the nodes; None where there are none that could limit."""
    known = {pool.device or cluster.device: profile for pool, profile in zip(pools, profiles, strict=True)}
    of_groups = [known.get(group.device) or catalog.device(group.device) for group in cluster.groups]
    fabric = fabric_of(cluster, of_groups)
    if fabric is None:
        return None
    devices = [group.devices_per_node * group.nodes for group in cluster.groups]
    return Routes(fabric, np.repeat([profile.efficiency.link for profile in of_groups], devices), first)


def _ends(cluster: Cluster, unit: Unit) -> tuple[int, int]:
    before = sum(group.devices_per_node * group.nodes for group in cluster.groups[: unit.group])
    return before + unit.first, unit.devices


def _capacity(profile: HardwareProfile, cluster: Cluster, unit: Unit) -> NDArray[np.float64]:
    """[2 · CLASSES] B/s of a unit, out and in by class; a class that it has not gets a byte, and no path."""
    scaleup = profile.scaleup.bandwidth if profile.scaleup is not None else 0.0
    nic = cluster.groups[unit.group].node_link or profile.node_link_bandwidth
    one = np.array([scaleup, profile.pcie_bandwidth or 0.0, nic]) * profile.efficiency.link
    return np.repeat(np.maximum(one * unit.devices, 1.0), 2)


def most_bandwidth(profile: HardwareProfile, cluster: Cluster) -> float:
    """B/s of one device of the first group over its fastest links, whatever the way."""
    return float(_capacity(profile, cluster, Unit(0, 0, 1)).max())


def _latency(profile: HardwareProfile, kind: int) -> float:
    if kind == SCALEUP and profile.scaleup is not None:
        return profile.scaleup.latency_s
    return profile.pcie_latency_s if kind == PCIE else profile.node_link_latency_s


def _class_between(cluster: Cluster, a: Unit, b: Unit, profile: HardwareProfile) -> int:
    """The nearest class of links that joins all devices of both units."""
    if a.group != b.group:
        return NIC
    group = cluster.groups[a.group]
    low, high = min(a.first, b.first), max(a.first + a.devices, b.first + b.devices) - 1
    if _island(group, profile, low) == _island(group, profile, high) and island_size(group, profile) > 1:
        return SCALEUP
    same_node = low // group.devices_per_node == high // group.devices_per_node
    return PCIE if same_node and profile.pcie_bandwidth is not None else NIC


def _island(group: DeviceGroup, profile: HardwareProfile, device: int) -> tuple[int, int]:
    """(box, island in it) of a device; a box is a node, or all of the group where scale-up links leave nodes."""
    rack_scale = profile.scaleup is not None and profile.scaleup.rack_scale
    box = group.devices_per_node * (group.nodes if rack_scale else 1)
    return device // box, device % box // island_size(group, profile)


def kv_sizes(
    model: ModelSpec, sink: Pool, memory: MemoryPlan, prompts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[n] bytes of the KV of ``prompts`` tokens, as the ranks where it will decode hold it: what each of them must get.

    Where windowed layers give back what has left their window, only the window of them travels.
    """
    cut = cut_of(model, sink)
    whole = sum(stage_kv_token_bytes(model, cut, stage) for stage in range(cut.pp)) * cut.tp * cut.cp
    tokens = prompts.astype(np.float64)
    if memory.pages is None or memory.pages.windowed_groups == 0:
        return np.asarray(whole * tokens)
    elements = model.kv_elements_per_token(windowed=False) + model.kv_elements_per_token(windowed=True)
    share = model.kv_elements_per_token(windowed=True) / elements
    return np.asarray(whole * ((1 - share) * tokens + share * np.minimum(tokens, memory.pages.window)))
