"""Seconds of a collective over the ranks of one parallel group.

Analytic: latency and bandwidth by algorithm, the fastest of which an engine picks (Thakur et al., IJHPCA 2005).

    one-shot   each rank reads every message             hop + (r - 1) · bytes / link
    two-shot   reduce-scatter, then all-gather, direct   2 · hop + 2 (r - 1) / r · bytes / link
    ring       the same over neighbours                  2 (r - 1) · hop + 2 (r - 1) / r · bytes / link

The first two need every pair of ranks to be joined at full bandwidth (a switch), and read the memory of their peers:
nobody runs them between nodes. There NCCL's hierarchy is priced: a ring in each node scatters the sums, every device
exchanges its share with those of its rank in the other nodes, a ring in each node gathers. Chunks flow through the
phases, so their bytes overlap and their latencies add up; each phase starts up like a kernel.

A gather, a scatter of sums and an exchange of all with all send half of what an all-reduce does. An exchange goes
straight to its receivers: nothing of it is shared on the way, so between nodes all of it that leaves a node does.

Where the network says so, other ways between nodes compete with the ring (``between.py``).

Calibrated: a fitted law and grid for each measured number of ranks, on the links of a node that it was measured on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost import between
from apexsim.cost.floor import FLOOR
from apexsim.spec.cluster import Link

Floats = NDArray[np.float64]


Ways = dict[str, Floats]
"""Seconds by algorithm."""


def all_reduce_ways(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Ways:
    """Ways to sum ``message`` bytes over ``ranks``; every rank ends with the sum."""
    size = np.asarray(message, dtype=np.float64)
    if link.crowding is not None:
        return between.summed(size, ranks, link, link.crowding, efficiency=efficiency, launch_s=launch_s)
    if link.near is not None and ranks > link.near_ranks:
        rings = _hierarchical_s(size, ranks, link, link.near, 2, efficiency=efficiency, launch_s=launch_s)
        return {between.RINGS: rings}
    rate = link.bandwidth * efficiency
    share = 2.0 * (ranks - 1) / ranks * size / rate
    ways = {"ring": launch_s + (2 * (ranks - 1) * link.latency_s + share)}
    if link.switched:
        ways["one-shot"] = launch_s + (link.latency_s + (ranks - 1) * size / rate)
        ways["two-shot"] = launch_s + (2 * link.latency_s + share)
    return ways


def all_to_all_ways(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Ways:
    """Ways to send every other rank one its own 1 / ranks of ``message`` bytes."""
    size = np.asarray(message, dtype=np.float64)
    if link.crowding is not None:
        return between.exchanged(size, ranks, link, link.crowding, efficiency=efficiency, launch_s=launch_s)
    if link.near is None or ranks <= link.near_ranks:
        (alone,) = all_gather_ways(size, ranks, link, efficiency=efficiency, launch_s=launch_s).values()
        return {"direct": alone}
    local = link.near_ranks
    outside = (ranks - local) / ranks * size / (link.bandwidth * efficiency)
    inside = (local - 1) / ranks * size / (link.near.bandwidth * efficiency)
    return {"direct": launch_s + link.latency_s + np.maximum(inside, outside)}


def all_gather_ways(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Ways:
    """Ways to give every rank all of ``message`` bytes, of which it held 1 / ranks; backwards, to scatter sums."""
    size = np.asarray(message, dtype=np.float64)
    if link.crowding is not None:
        return between.gathered(size, ranks, link, link.crowding, efficiency=efficiency, launch_s=launch_s)
    if link.near is not None and ranks > link.near_ranks:
        rings = _hierarchical_s(size, ranks, link, link.near, 1, efficiency=efficiency, launch_s=launch_s)
        return {between.RINGS: rings}
    hops = 1 if link.switched else ranks - 1
    alone = launch_s + hops * link.latency_s + (ranks - 1) / ranks * size / (link.bandwidth * efficiency)
    return {"direct" if link.switched else "ring": alone}


def _fastest(ways: Ways) -> Floats:
    return np.asarray(np.minimum.reduce(list(ways.values())))


def all_reduce_s(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Floats:
    """Seconds to sum ``message`` bytes over ``ranks``, the fastest way."""
    return _fastest(all_reduce_ways(message, ranks, link, efficiency=efficiency, launch_s=launch_s))


def all_gather_s(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Floats:
    """Seconds until every rank has all of ``message`` bytes, of which it held 1 / ranks."""
    return _fastest(all_gather_ways(message, ranks, link, efficiency=efficiency, launch_s=launch_s))


def _hierarchical_s(
    size: Floats, ranks: int, link: Link, near: Link, passes: int, *, efficiency: float, launch_s: float
) -> Floats:
    """Rings in the nodes around a ring between them. ``passes``: 2 scatter and gather (all-reduce), 1 only gather.

    The ranks of a node share the traffic to the other nodes, each over its own NIC.
    """
    nodes, nics = _spread(ranks, link)
    local = link.near_ranks
    inside = passes * (local - 1) / local * size / (near.bandwidth * efficiency)
    between = passes * (nodes - 1) / nodes * size / nics / (link.bandwidth * efficiency)
    hops = passes * ((local - 1) * near.latency_s + (nodes - 1) * link.latency_s)
    return (passes + 1) * launch_s + hops + np.maximum(inside, between)


def _spread(ranks: int, link: Link) -> tuple[int, int]:
    """Nodes that hold a group, and the NICs of the one with the fewest ranks."""
    return ceil(ranks / link.near_ranks), ranks % link.near_ranks or link.near_ranks


def send_s(message: ArrayLike, link: Link, *, efficiency: float) -> Floats:
    """Seconds to send ``message`` bytes to one other rank, as all ranks of a stage do at once."""
    crowded = link.crowding.ring if link.crowding is not None else 1.0
    return link.latency_s + np.asarray(message, dtype=np.float64) / (link.bandwidth * efficiency) * crowded


class Kind(NamedTuple):
    """One collective."""

    ways: Callable[..., Ways]  # analytic prices by algorithm: message, ranks, link; efficiency, launch_s
    summed: bool = False  # a switch may do the sums, so that a rank sends its message once
    exchanged: bool = False  # every byte has its own receiver, so that the devices of a node do not share traffic


KINDS: dict[str, Kind] = {
    "all_reduce": Kind(all_reduce_ways, summed=True),
    "all_gather": Kind(all_gather_ways),
    "reduce_scatter": Kind(all_gather_ways),  # the same steps backwards
    "all_to_all": Kind(all_to_all_ways, exchanged=True),
}
"""Collectives by name. ``message``: bytes of the sum, or of all that one rank gathers, scatters or exchanges."""


def sent_bytes(kind: str, message: ArrayLike, ranks: int) -> Floats:
    """Bytes that a rank must at least send. All-reduce: the message once, because a switch may do the sums."""
    size = np.asarray(message, dtype=np.float64)
    return size if KINDS[kind].summed else (ranks - 1) / ranks * size


def collective_s(
    kind: str, message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float
) -> Floats:
    """Analytic seconds of a collective of ``KINDS``, the fastest way."""
    return _fastest(KINDS[kind].ways(message, ranks, link, efficiency=efficiency, launch_s=launch_s))


def algorithm_of(
    kind: str, message: float, ranks: int, link: Link, *, efficiency: float, launch_s: float
) -> str:
    """Name of the fastest way at a size; of equal ones the first."""
    ways = KINDS[kind].ways(message, ranks, link, efficiency=efficiency, launch_s=launch_s)
    return min(ways, key=lambda name: float(ways[name]))


def collective_floor_s(kind: str, message: ArrayLike, ranks: int, link: Link) -> Floats:
    """0.95 × the bytes that a rank must send over the link's bandwidth; between nodes its share of its node's."""
    size = np.asarray(message, dtype=np.float64)
    if link.near is not None and ranks > link.near_ranks:
        if KINDS[kind].exchanged:
            return FLOOR * (ranks - link.near_ranks) / ranks * size / link.bandwidth
        nodes, nics = _spread(ranks, link)
        return FLOOR * sent_bytes(kind, size, nodes) / nics / link.bandwidth
    return FLOOR * sent_bytes(kind, size, ranks) / link.bandwidth
