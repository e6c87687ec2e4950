"""Patterns of collectives over hosts, step by step, and how long they take over leaves and spines.

The anchors of Addanki et al. (arXiv 2407.00550): flows of a collective start together and have equal sizes, and only
the last one matters. Splitting flows as little as balances the links then equals ideal spraying; ECMP does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from apexsim.cost.fabric import Fabric, completion_s, read_graph
from apexsim.spec.network import Network

Ints = NDArray[np.int64]
Step = tuple[Ints, Ints, float]
"""Hosts that send, hosts that receive, bytes of each flow."""


def ring(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """Ring all-reduce in the order of the hosts: 2 (N - 1) equal steps of an N-th to the next one."""
    ranks = np.arange(hosts)
    for _ in range(2 * (hosts - 1)):
        yield ranks, (ranks + 1) % hosts, size / hosts


def random_ring(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """The same over hosts in a random order."""
    order = np.random.default_rng(seed).permutation(hosts)
    for _ in range(2 * (hosts - 1)):
        yield order, np.roll(order, -1), size / hosts


def leaf_shift(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """Every host to the one of its place below the next leaf."""
    ranks = np.arange(hosts)
    yield ranks, (ranks + below) % hosts, size


def recursive_doubling(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """Step j: with the host 2^j away, all of the message."""
    ranks = np.arange(hosts)
    for step in range(hosts.bit_length() - 1):
        yield ranks, ranks ^ (1 << step), size


def all_to_all(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """Every host an N-th to each other one, all at once."""
    source, sink = np.divmod(np.arange(hosts * hosts), hosts)
    apart = source != sink
    yield source[apart], sink[apart], size / hosts


def permutation(hosts: int, below: int, size: float, seed: int) -> Iterator[Step]:
    """Every host to one other, drawn."""
    sink = np.random.default_rng(seed).permutation(hosts)
    ranks = np.arange(hosts)
    yield ranks[sink != ranks], sink[sink != ranks], size


Pattern = Callable[[int, int, float, int], Iterator[Step]]

PATTERNS: dict[str, Pattern] = {
    "ring": ring, "random-ring": random_ring, "leaf-shift": leaf_shift, "recursive-doubling": recursive_doubling,
    "all-to-all": all_to_all, "permutation": permutation,
}  # fmt: skip
"""By name; each takes hosts, hosts below a leaf, bytes of the message and a seed. Powers of two for doubling."""


def leaf_spine(leaves: int, below: int, network: Network, bandwidth: float = 50e9) -> Fabric:
    """Leaves with ``below`` hosts each, of one NIC; spines and oversubscription as the network says."""
    spines = network.spines or below
    graph: nx.Graph[str] = nx.Graph()
    each = bandwidth * below / (spines * network.oversubscription)
    for leaf in range(leaves):
        graph.add_node(f"leaf{leaf}", kind="leaf")
        for host in range(leaf * below, (leaf + 1) * below):
            graph.add_edge(f"nic{host}", f"leaf{leaf}", link_class="nic", bandwidth=bandwidth)
        for spine in range(spines):
            graph.add_node(f"spine{spine}", kind="spine")
            graph.add_edge(f"leaf{leaf}", f"spine{spine}", link_class="fabric", bandwidth=each)
    return read_graph(graph, leaves * below, network)


def pattern_s(fabric: Fabric, name: str, size: float, *, latency_s: float = 0.0, seed: int = 0) -> float:
    """Seconds of a pattern: each step begins when the one before has ended, and two hops more where it needs a spine.

    ``size``: bytes of the message of a host. ``latency_s``: of a message below one leaf.
    """
    hosts, below = len(fabric.leaf), int(np.bincount(fabric.leaf).max())
    total, known = 0.0, (np.zeros(0, np.int64), 0.0)
    for source, sink, bytes_ in PATTERNS[name](hosts, below, size, seed):
        if len(sink) != len(known[0]) or (sink != known[0]).any():
            hops_s = 2 * fabric.network.hop_latency if fabric.far(source, sink).any() else 0.0
            known = sink, completion_s(fabric, source, sink, bytes_)[0] + latency_s + hops_s
        total += known[1]
    return total
