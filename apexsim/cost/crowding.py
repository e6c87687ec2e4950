"""How leaves and spines lengthen the collectives of a parallel group: the load of each pattern on the cluster's graph.

Worked out once when a plan is compiled, for a group that begins at the first device of the cluster. Other replicas,
and KV between pools, are taken as being elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.fabric import Fabric, completion_s, fabric_of
from apexsim.spec.cluster import Cluster, Crowding, Link
from apexsim.spec.hardware import HardwareProfile

Ints = NDArray[np.int64]
Flows = tuple[Ints, Ints]
"""NICs that send, NICs that receive."""


def group_link(cluster: Cluster, profile: HardwareProfile, ranks: int, stride: int = 1) -> Link:
    """``Cluster.strided_link`` with what the network between the nodes adds to it."""
    link = cluster.strided_link(profile, ranks, stride) if stride > 1 else cluster.link(profile, ranks)
    return switched(cluster, profile, link, ranks, stride)


def switched(cluster: Cluster, profile: HardwareProfile, link: Link, ranks: int, stride: int = 1) -> Link:
    """A link with the crowding of a group of ``ranks`` devices that lie ``stride`` apart; as it is inside a node."""
    network = cluster.network
    if link.link_class != "nic" or not (network.switched or network.fastest):
        return link
    far, crowding = _crowding(cluster, profile, link.near_ranks if link.near is not None else 1, ranks, stride)
    hops_s = 2 * network.hop_latency if far else 0.0
    return replace(link, latency_s=link.latency_s + hops_s, crowding=crowding)


@lru_cache(maxsize=256)
def _crowding(
    cluster: Cluster, profile: HardwareProfile, local: int, ranks: int, stride: int
) -> tuple[bool, Crowding]:
    """(whether some neighbour in the ring is below another leaf, the crowding)."""
    nodes, nics = ceil(ranks / local), ranks % local or local
    grid = (np.arange(nodes)[:, None] * local + np.arange(nics)[None, :]) * stride
    fabric = fabric_of(cluster, [profile])
    fastest, steps = cluster.network.fastest, tuple(_doubling(grid))
    if fabric is None:
        return False, Crowding(fastest=fastest, doubling=(1.0,) * len(steps))
    around = _ring(grid)
    return bool(fabric.far(*around).any()), Crowding(
        fastest, _longer(fabric, around), _longer(fabric, _trees(grid)), tuple(_longer(fabric, step) for step in steps),
        _longer(fabric, _direct(grid)), _longer(fabric, _aligned(grid)),
    )  # fmt: skip


def _longer(fabric: Fabric, flows: Flows) -> float:
    """Time over the switches over that over the NICs alone."""
    taken, alone = completion_s(fabric, *flows)
    return taken / alone if alone else 1.0


def _ring(grid: Ints) -> Flows:
    return grid.ravel(), np.roll(grid, -1, axis=0).ravel()


def _trees(grid: Ints) -> Flows:
    """Up and down the edges of two binary trees; the inner nodes of the one are leaves of the other, or nearly so."""
    nodes = len(grid)
    child = np.arange(1, nodes)
    bit = child & -child
    up = (child ^ bit) | (bit << 1)
    parent = np.where(up < nodes, up, child ^ bit)
    mirrored = [(nodes - 1 - end) if nodes % 2 == 0 else (end + 1) % nodes for end in (child, parent)]
    below, above = np.concatenate([child, mirrored[0]]), np.concatenate([parent, mirrored[1]])
    ends = grid[below].ravel(), grid[above].ravel()
    return np.concatenate(ends), np.concatenate(ends[::-1])


def _doubling(grid: Ints) -> Iterator[Flows]:
    """A step each; none where the nodes are no power of two."""
    nodes = len(grid)
    if nodes & (nodes - 1):
        return
    for step in range(nodes.bit_length() - 1):
        yield grid.ravel(), grid[np.arange(nodes) ^ (1 << step)].ravel()


def _direct(grid: Ints) -> Flows:
    devices = grid.ravel()
    node = np.repeat(np.arange(len(grid)), grid.shape[1])
    source, sink = np.divmod(np.arange(len(devices) ** 2), len(devices))
    apart = node[source] != node[sink]
    return devices[source[apart]], devices[sink[apart]]


def _aligned(grid: Ints) -> Flows:
    source, sink = np.divmod(np.arange(len(grid) ** 2), len(grid))
    apart = source != sink
    return grid[source[apart]].ravel(), grid[sink[apart]].ravel()


def crowding_note(link: Link) -> str:
    """What a reader should know of the collectives over a link between nodes."""
    known = link.crowding
    if known is None:
        return "collectives between nodes are estimated: a ring in each node and one between them, by datasheet"
    how = "the fastest of rings, trees and doubling" if known.fastest else "a ring in each node and one between them"
    longer = f"ring × {known.ring:.2f}, all to all × {known.direct:.2f}, rank to rank × {known.aligned:.2f}"
    return f"collectives between nodes are estimated: {how}, by datasheet; leaves and spines lengthen them: {longer}"
