"""Leaves and spines as arrays, read off a cluster's graph, and the load that flows put on their links.

A flow goes from a NIC to another one. Below one leaf it needs nothing but the leaf; else it goes up to a spine and
down from there, and the routing policy says to which:

    ecmp    a hash of its two ends and of each queue pair: several flows may meet on one link while others are idle
    split   of r equal flows from leaf to leaf over s spines, g = gcd(r, s): each is cut into s / g equal parts, and
            every spine gets r / g of these (Addanki et al., arXiv 2407.00550: as little as makes all links alike)
    spray   every spine gets an s-th of every flow

Splitting loads links exactly as spraying does, with s / g queue pairs a flow in place of reordered packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from apexsim.spec.cluster import Cluster
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.network import Network

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Fabric(NamedTuple):
    """D NICs, one a device, below L leaves that S spines join."""

    network: Network
    leaf: Ints  # [D] of each NIC
    nic: Floats  # [D] B/s, out as in
    link: Floats  # [L] B/s of one link to a spine, up as down

    @property
    def spines(self) -> int:
        assert self.network.spines is not None
        return self.network.spines

    def far(self, source: Ints, sink: Ints) -> NDArray[np.bool_]:
        """Which flows need a spine."""
        return np.asarray(self.leaf[source] != self.leaf[sink])


class Parts(NamedTuple):
    """What flows are cut into: each part goes over one spine."""

    flow: Ints  # number of its flow,
    spine: Ints
    share: Floats  # and how much of it this is


def fabric_of(cluster: Cluster, profiles: Sequence[HardwareProfile]) -> Fabric | None:
    """The switches of a cluster, ``profiles`` by group; None where nothing but NICs limits."""
    if not cluster.network.switched or (len(cluster.groups) == 1 and cluster.nodes == 1):
        return None
    return _read(cluster, tuple(profiles))


@lru_cache(maxsize=8)
def _read(cluster: Cluster, profiles: tuple[HardwareProfile, ...]) -> Fabric:
    known = {group.device: profile for group, profile in zip(cluster.groups, profiles, strict=True)}
    return read_graph(cluster.graph(known), cluster.devices, cluster.network)


def read_graph(graph: nx.Graph[str], devices: int, network: Network) -> Fabric:
    """The leaves and links of a graph with nodes ``nic0`` …, leaves and spines."""
    kinds = {name: str(about.get("kind")) for name, about in graph.nodes.items()}
    leaves = {name: number for number, name in enumerate(name for name, kind in kinds.items() if kind == "leaf")}
    above = [next(near for near in graph[f"nic{d}"] if near in leaves) for d in range(devices)]
    to_spine = [min(edge["bandwidth"] for edge in graph[leaf].values() if edge["link_class"] == "fabric")
                for leaf in leaves]  # fmt: skip
    spines = sum(kind == "spine" for kind in kinds.values())
    return Fabric(
        network.model_copy(update={"spines": spines}), np.array([leaves[name] for name in above], np.int64),
        np.array([graph[f"nic{d}"][above[d]]["bandwidth"] for d in range(devices)]), np.array(to_spine),
    )  # fmt: skip


def parts_of(fabric: Fabric, source: Ints, sink: Ints) -> Parts:
    """Where equal flows from NIC to NIC go, all of which need a spine."""
    cut = {"ecmp": _hashed, "split": _split, "spray": _sprayed}[fabric.network.routing]
    return cut(fabric, np.asarray(source, np.int64), np.asarray(sink, np.int64))


def _hashed(fabric: Fabric, source: Ints, sink: Ints) -> Parts:
    pairs = fabric.network.queue_pairs
    flow = np.repeat(np.arange(len(source)), pairs)
    words = (np.uint64(fabric.network.seed), source[flow], sink[flow], np.tile(np.arange(pairs), len(source)))
    mixed = np.zeros(len(flow), np.uint64)
    for word in words:
        mixed = _mix(mixed ^ np.asarray(word).astype(np.uint64))
    spine = (mixed >> np.uint64(33)) % np.uint64(fabric.spines)
    return Parts(flow, spine.astype(np.int64), np.full(len(flow), 1.0 / pairs))


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of the word decides about every bit of the result."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(word ^ (word >> np.uint64(31)))


def _split(fabric: Fabric, source: Ints, sink: Ints) -> Parts:
    """The flows from one leaf to another in their order, cut and dealt to the spines in theirs."""
    spines, leaves = fabric.spines, len(fabric.link)
    between = fabric.leaf[source] * leaves + fabric.leaf[sink]
    order = np.argsort(between, kind="stable")
    _, first, members = np.unique(between[order], return_index=True, return_counts=True)
    equal = np.gcd(members, spines)
    cuts, dealt = np.repeat(spines // equal, members), np.repeat(members // equal, members)
    place = np.arange(len(order)) - np.repeat(first, members)
    flow = np.repeat(np.arange(len(order)), cuts)
    part = np.arange(len(flow)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + (place * cuts)[flow]
    return Parts(order[flow], part // dealt[flow], 1.0 / cuts[flow])


def _sprayed(fabric: Fabric, source: Ints, sink: Ints) -> Parts:
    flow = np.repeat(np.arange(len(source)), fabric.spines)
    spine = np.tile(np.arange(fabric.spines), len(source))
    return Parts(flow, spine, np.full(len(flow), 1.0 / fabric.spines))


def link_loads(fabric: Fabric, source: Ints, sink: Ints, size: float = 1.0) -> tuple[Floats, Floats]:
    """([L, S] bytes up, [L, S] bytes down) of flows of ``size`` bytes each."""
    far = fabric.far(source, sink)
    source, sink = np.asarray(source)[far], np.asarray(sink)[far]
    shape = (len(fabric.link), fabric.spines)
    if fabric.network.routing == "spray":
        each = size / fabric.spines
        alike = [np.bincount(fabric.leaf[end], minlength=shape[0])[:, None] * each for end in (source, sink)]
        return np.repeat(alike[0], shape[1], 1), np.repeat(alike[1], shape[1], 1)
    flow, spine, share = parts_of(fabric, source, sink)
    found = [
        np.bincount(fabric.leaf[end][flow] * shape[1] + spine, share * size, shape[0] * shape[1]).reshape(shape)
        for end in (source, sink)
    ]
    return np.asarray(found[0], np.float64), np.asarray(found[1], np.float64)


def completion_s(fabric: Fabric, source: Ints, sink: Ints, size: float = 1.0) -> tuple[float, float]:
    """(seconds over leaves and spines, seconds over the NICs alone) of flows of ``size`` bytes that begin together.

    Each link takes as long as its bytes over its bandwidth, and the last one ends it.
    """
    nics = len(fabric.nic)
    out, into = (np.bincount(end, minlength=nics) * size / fabric.nic for end in (source, sink))
    alone = float(max(out.max(initial=0.0), into.max(initial=0.0)))
    up, down = link_loads(fabric, source, sink, size)
    switched = np.maximum(up, down) / fabric.link[:, None]
    return max(alone, float(switched.max(initial=0.0))), alone
