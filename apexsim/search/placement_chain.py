"""Groups of experts on devices, layer by layer: the second stage of MoETuner where every device holds as many experts.

What a transfer between two layers costs depends on where the groups of these two stand, so the layers are a chain and
the best placement is a shortest path through it: exact, where a layer has few orders of its groups (at most
``MOST_ORDERS``; 720 for six devices). Beyond that a forward pass and swaps give a placement, and a bound says how good
it is.

*Bound* of one transition, of the slowest transfer: each link carries the tokens of one pair of groups. Of a group's
row of pairs (or its column) one can stay on its device, so the second largest crosses a link; all but as many as a
node has devices leave the node.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_ORDERS = 1000
"""Orders of the groups of a layer up to which the chain is searched exactly."""


@dataclass(frozen=True, slots=True)
class Links:
    """Seconds that a token takes from device to device, and the node of each; ``by_node``: count what leaves a node
    instead of the slowest transfer."""

    seconds: Floats  # [devices, devices], 0 on the diagonal
    node: Integers
    by_node: bool

    def cost(self, flow: Floats, here: Integers, there: Integers) -> float:
        """Of one transition: [groups, groups] tokens, and the group on each device before and after it."""
        sent = flow[np.ix_(here, there)]
        if self.by_node:
            return float(sent[self.node[:, None] != self.node[None, :]].sum())
        return float((sent * self.seconds).max())


@dataclass(frozen=True, slots=True)
class OnDevices:
    """[layers, devices] the group on each device, its cost over all layers, and what no other placement beats."""

    held: Integers
    value: float
    bound: float
    timed_out: bool = False


def on_devices(flows: Floats, links: Links, time_limit_s: float) -> OnDevices:
    """The placement with the least sum of costs. Ties go to the order of groups that comes first."""
    count = flows.shape[1]
    orders = _orders(count, links)
    if orders is not None:
        held = _shortest_path(flows, links, orders)
        value = total(flows, links, held)
        return OnDevices(held, value, value)
    held, timed_out = _with_swaps(flows, links, _forward(flows), time_limit_s)
    value = total(flows, links, held)
    bound = sum(least(flow, links) for flow in flows)
    return OnDevices(held, value, min(bound, value), timed_out)


def total(flows: Floats, links: Links, held: Integers) -> float:
    """Σ over the transitions."""
    return sum(links.cost(flow, held[i], held[i + 1]) for i, flow in enumerate(flows))


def least(flow: Floats, links: Links) -> float:
    """What one transition costs at least, wherever the groups stand."""
    nodes, sizes = np.unique(links.node, return_counts=True)
    size = int(sizes.max())
    falling = (np.sort(flow, axis=1)[:, ::-1], np.sort(flow, axis=0)[::-1].T)
    if links.by_node:
        return float(max(rows[:, size:].sum() for rows in falling)) if len(nodes) > 1 else 0.0
    between = links.seconds[~np.eye(len(flow), dtype=bool)]
    bound = max(float(rows[:, 1].max()) for rows in falling) * float(between.min())
    if len(nodes) > 1 and size < len(flow):
        far = links.seconds[links.node[:, None] != links.node[None, :]].min()
        bound = max(bound, max(float(rows[:, size].max()) for rows in falling) * float(far))
    return bound


def _orders(count: int, links: Links) -> Integers | None:
    """Every order of the groups that the cost tells apart; None where there are too many.

    What counts by node does not depend on the order within one.
    """
    permutations = itertools.permutations(range(count))
    found: list[tuple[int, ...]] = []
    if not links.by_node:
        found = list(itertools.islice(permutations, MOST_ORDERS + 1))
    else:
        for parts in _parts(tuple(range(count)), np.bincount(links.node).tolist()):
            found.append(parts)
            if len(found) > MOST_ORDERS:
                break
    return np.array(found) if len(found) <= MOST_ORDERS else None


def _parts(rest: tuple[int, ...], sizes: Sequence[int]) -> itertools.chain[tuple[int, ...]]:
    if not sizes:
        return itertools.chain([()])
    return itertools.chain.from_iterable(
        ((*first, *more) for more in _parts(tuple(x for x in rest if x not in first), sizes[1:]))
        for first in itertools.combinations(rest, sizes[0])
    )


def _shortest_path(flows: Floats, links: Links, orders: Integers) -> Integers:
    reached = np.zeros(len(orders))
    came_from = []
    for flow in flows:
        through = reached[:, None] + _between(flow, links, orders)
        came_from.append(through.argmin(axis=0))
        reached = through.min(axis=0)
    path = [int(reached.argmin())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return orders[path[::-1]]


def _between(flow: Floats, links: Links, orders: Integers) -> Floats:
    """[orders, orders] cost of one transition from each order to each other."""
    count = len(flow)
    found = np.zeros((len(orders), len(orders)))
    for g in range(count):
        for h in range(count):
            sent = flow[orders[:, g]][:, orders[:, h]]
            if links.by_node:
                found += sent * (links.node[g] != links.node[h])
            elif g != h:
                np.maximum(found, sent * links.seconds[g, h], out=found)
    return found


def _forward(flows: Floats) -> Integers:
    """The first layer in order; each next one so that the largest flows stay on their devices.

    Where all links are equal this is the optimum: pairs above the second largest of their row and column are matched.
    """
    count = flows.shape[1]
    held = [np.arange(count)]
    for flow in flows:
        sent = flow[held[-1]]
        falling = (np.sort(sent, axis=1)[:, -2], np.sort(sent, axis=0)[-2])
        above = sent > max(float(seconds.max()) for seconds in falling)
        _, group = linear_sum_assignment(-(sent + (sent.sum() + 1.0) * above))
        held.append(group)
    return np.array(held)


def _with_swaps(flows: Floats, links: Links, held: Integers, time_limit_s: float) -> tuple[Integers, bool]:
    """Swaps of two groups of a layer, as long as one helps: (placement, whether the time ran out)."""
    began, held = time.monotonic(), held.copy()
    pairs = list(itertools.combinations(range(held.shape[1]), 2))
    improved = True
    while improved:
        improved = False
        for layer in range(len(held)):
            if time.monotonic() - began > time_limit_s:
                return held, True
            improved |= _swap_in(flows, links, held, layer, pairs)
    return held, False


def _swap_in(flows: Floats, links: Links, held: Integers, layer: int, pairs: Sequence[tuple[int, int]]) -> bool:
    def around() -> float:
        before = links.cost(flows[layer - 1], held[layer - 1], held[layer]) if layer else 0.0
        after = links.cost(flows[layer], held[layer], held[layer + 1]) if layer < len(flows) else 0.0
        return before + after

    best, improved = around(), False
    for a, b in pairs:
        held[layer, [a, b]] = held[layer, [b, a]]
        reached = around()
        if reached < best * (1 - 1e-12):
            best, improved = reached, True
        else:
            held[layer, [a, b]] = held[layer, [b, a]]
    return improved
