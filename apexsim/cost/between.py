"""Collectives between nodes, over leaves and spines: the ways that compete, by size and place.

    ring                         over all ranks, each NIC with a share of the channels (NCCL's ring)
    rings in and between nodes   scatter in each node, ring between nodes, gather in each node
    tree between nodes           the same around two binary trees (Sanders, Speck and Träff, Parallel Computing 2009)
    doubling between nodes       the same around recursive doubling, for a power of two of nodes (Thakur et al., 2005)
    direct                       every rank to every other one
    aligned in nodes first       in the node to the device of the receiver's place, then over NICs of equal place

Of n nodes with l ranks each a NIC sends, of a message of S bytes: 2 (n - 1) / n · S / l in a ring, 2 S / l in trees,
log2(n) · S / l in doubling, which takes the fewest hops. ``Crowding`` says how much longer each takes over the
switches than over its NICs alone: the load of its fullest link, worked out once when a plan is compiled.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from apexsim.spec.cluster import Crowding, Link

Floats = NDArray[np.float64]

RING, RINGS = "ring", "rings in and between nodes"
TREE, DOUBLING = "tree between nodes", "doubling between nodes"
DIRECT, ALIGNED = "direct", "aligned in nodes first"


class _Group:
    """Ranks on their nodes: what each phase of a hierarchy takes."""

    def __init__(self, size: Floats, ranks: int, link: Link, efficiency: float, launch_s: float) -> None:
        self.size, self.ranks, self.link, self.launch_s = size, ranks, link, launch_s
        self.local = link.near_ranks if link.near is not None else 1
        self.nodes = ceil(ranks / self.local)
        self.nics = ranks % self.local or self.local  # of the node with the fewest ranks
        self.rate = link.bandwidth * efficiency
        self.near_rate = link.near.bandwidth * efficiency if link.near is not None else np.inf
        self.near_s = link.near.latency_s if link.near is not None else 0.0

    def around(self, passes: int, hops: int, sent: Floats) -> Floats:
        """Rings in the nodes around what takes ``hops`` between them and sends ``sent`` bytes over each NIC."""
        inside = passes * (self.local - 1) / self.local * self.size / self.near_rate
        phases = passes + 1 if self.local > 1 else 1
        hops_s = passes * (self.local - 1) * self.near_s + hops * self.link.latency_s
        return phases * self.launch_s + hops_s + np.maximum(inside, sent / self.rate)

    def ring(self, passes: int, crowding: Crowding) -> Floats:
        sent = passes * (self.nodes - 1) / self.nodes * self.size / self.nics
        return self.around(passes, passes * (self.nodes - 1), sent * crowding.ring)


def summed(
    size: Floats, ranks: int, link: Link, crowding: Crowding, *, efficiency: float, launch_s: float
) -> dict[str, Floats]:
    """Ways of an all-reduce."""
    group = _Group(size, ranks, link, efficiency, launch_s)
    ways = {RINGS: group.ring(2, crowding)}
    if not crowding.fastest:
        return ways
    share = size / group.nics
    depth = ceil(log2(group.nodes))
    ways[TREE] = group.around(2, 2 * depth, 2.0 * share * crowding.tree)
    if crowding.doubling:
        ways[DOUBLING] = group.around(2, len(crowding.doubling), share * sum(crowding.doubling))
    if group.local > 1:
        ways[RING] = _one_ring(group, crowding)
    return ways


def _one_ring(group: _Group, crowding: Crowding) -> Floats:
    """One ring over all ranks, each channel of which enters and leaves a node over another NIC."""
    around = 2.0 * (group.ranks - 1) / group.ranks * group.size
    inside = around * (group.local - 1) / group.local / group.near_rate
    between = around / group.nics / group.rate * crowding.ring
    hops_s = (group.nodes - 1) * group.link.latency_s + (group.ranks - group.nodes) * group.near_s
    return group.launch_s + 2 * hops_s + np.maximum(inside, between)


def gathered(
    size: Floats, ranks: int, link: Link, crowding: Crowding, *, efficiency: float, launch_s: float
) -> dict[str, Floats]:
    """Ways of an all-gather, or backwards of a reduce-scatter. Step j of doubling sends 2^j shares of a node."""
    group = _Group(size, ranks, link, efficiency, launch_s)
    ways = {RINGS: group.ring(1, crowding)}
    if crowding.fastest and crowding.doubling:
        steps = sum(2.0**j / group.nodes * crowded for j, crowded in enumerate(crowding.doubling))
        ways[DOUBLING] = group.around(1, len(crowding.doubling), size / group.nics * steps)
    return ways


def exchanged(
    size: Floats, ranks: int, link: Link, crowding: Crowding, *, efficiency: float, launch_s: float
) -> dict[str, Floats]:
    """Ways of an exchange of all with all, every byte of which has its own receiver."""
    group = _Group(size, ranks, link, efficiency, launch_s)
    outside = (ranks - group.local) / ranks * size / group.rate
    inside = (group.local - 1) / ranks * size / group.near_rate
    ways = {DIRECT: launch_s + link.latency_s + np.maximum(inside, outside * crowding.direct)}
    if crowding.fastest and group.local > 1:
        first = (group.local - 1) / group.local * size / group.near_rate
        hops_s = group.near_s + link.latency_s
        ways[ALIGNED] = 2 * launch_s + hops_s + np.maximum(first, outside * crowding.aligned)
    return ways
