"""Which device holds which experts: copies of the popular ones, and a packing that evens the load out.

What the field calls EPLB (expert-parallel load balancing; DeepSeek-V3, arXiv 2412.19437 §3.4): ``redundant`` slots go
one by one to the expert whose copies carry most each; then the copies, heaviest first, go to the lightest device that
has a slot left. Where the router's groups of experts divide among the nodes, groups are packed on nodes first, and
copies and packing stay inside a node, so that a token's group is in one place. ``contiguous``: experts in their order,
and the redundant slots hold the first ones again, as engines do without statistics.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from apexsim.spec.experts import Placement

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def placed(
    loads: Floats, ranks: int, redundant: int = 0, placement: Placement = "contiguous", nodes: int = 1, groups: int = 1
) -> Integers:
    """[ranks, slots] the expert that each slot holds.

    Args:
        loads: [experts] tokens of each expert, in any unit.
        redundant: slots beyond one for each expert; together they must divide evenly over the ranks.
        nodes: of equally many ranks. groups: of equally many neighbouring experts, to one of which a router sends.
    """
    slots = loads.size + redundant
    in_order = (np.arange(slots) % loads.size).reshape(ranks, -1)
    if placement == "contiguous":
        return in_order
    if nodes > 1 and groups % nodes == 0 and ranks % nodes == 0:
        packed = _by_node(loads, ranks, slots, nodes, groups)
    else:
        packed = _packed(loads, np.arange(loads.size), ranks, slots)
    return packed if heaviest(loads, packed) < heaviest(loads, in_order) else in_order


def slot_shares(loads: Floats, held: Integers) -> Floats:
    """[ranks, slots] of each expert's load an equal part to each of its copies."""
    return np.asarray((loads / np.bincount(held.ravel(), minlength=loads.size))[held])


def heaviest(loads: Floats, held: Integers) -> float:
    """Load of the fullest rank."""
    return float(slot_shares(loads, held).sum(axis=1).max())


def copies(loads: Floats, slots: int) -> Integers:
    """[experts] copies of each, ``slots`` in all: the next one always where a copy carries most."""
    count = np.ones(loads.size, dtype=np.int64)
    heap = [(-load, expert) for expert, load in enumerate(loads.tolist())]
    heapq.heapify(heap)
    for _ in range(slots - loads.size):
        _, expert = heap[0]
        count[expert] += 1
        heapq.heapreplace(heap, (-float(loads[expert]) / int(count[expert]), expert))
    return count


def packed_evenly(weights: Floats, packs: int) -> Integers:
    """[items] the pack of each: heaviest first, into the lightest pack that holds fewer than its equal number."""
    room = weights.size // packs
    pack = np.empty(weights.size, dtype=np.int64)
    heap = [(0.0, 0, index) for index in range(packs)]
    for item in np.argsort(-weights, kind="stable").tolist():
        load, held, index = heapq.heappop(heap)
        pack[item] = index
        if held + 1 < room:
            heapq.heappush(heap, (load + float(weights[item]), held + 1, index))
    return pack


def _packed(loads: Floats, experts: Integers, ranks: int, slots: int) -> Integers:
    """[ranks, slots a rank] of some experts, which have these loads."""
    count = copies(loads, slots)
    each = np.repeat(experts, count)
    pack = packed_evenly(np.repeat(loads / count, count), ranks)
    return np.asarray(each[np.argsort(pack, kind="stable")].reshape(ranks, -1))


def _by_node(loads: Floats, ranks: int, slots: int, nodes: int, groups: int) -> Integers:
    members = np.arange(loads.size).reshape(groups, -1)
    node = packed_evenly(loads[members].sum(axis=1), nodes)
    parts = [members[node == index].ravel() for index in range(nodes)]
    return np.concatenate([_packed(loads[part], part, ranks // nodes, slots // nodes) for part in parts])
