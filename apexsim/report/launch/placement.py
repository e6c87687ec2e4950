"""Which devices of which node each replica of a plan takes: in the plan's order, a replica in one node if it fits.

As the simulator places them (docs/pools.md), so that links are those that were simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.errors import UsageError
from apexsim.spec.plan import Plan


@dataclass(frozen=True, slots=True)
class Seat:
    """The part of a replica that stands in one node.

    Attributes:
        pool, replica: places in the plan.
        rank: of this node among those of the replica, of ``nodes``.
        node: of the whole cluster, counted over all groups.
        devices: indices within the node.
    """

    pool: int
    replica: int
    rank: int
    nodes: int
    node: int
    devices: tuple[int, ...]


def seats(plan: Plan) -> tuple[Seat, ...]:
    """Every replica's seats, replica by replica.

    Raises:
        UsageError: the nodes have no room for whole replicas in this order.
    """
    groups = plan.cluster.groups
    first_node = [sum(group.nodes for group in groups[:index]) for index in range(len(groups))]
    taken = [0] * len(groups)
    found: list[Seat] = []
    for number, pool in enumerate(plan.pools):
        index = next((i for i, group in enumerate(groups) if group.device == pool.device), 0)
        per_node, needed = groups[index].devices_per_node, pool.devices_per_replica
        for replica in range(pool.replicas):
            start = taken[index]
            if start % per_node + min(needed, per_node) > per_node or (needed > per_node and start % per_node):
                start += per_node - start % per_node
            taken[index] = start + needed
            if taken[index] > per_node * groups[index].nodes:
                raise UsageError(
                    f"the plan's replicas of {needed} devices do not fit whole into nodes of {per_node} "
                    f"({groups[index].nodes} of {groups[index].device})"
                )
            nodes = -(-needed // per_node)
            for rank in range(nodes):
                begin = start + rank * per_node
                end = min(start + needed, begin + per_node)
                devices = tuple(range(begin % per_node, begin % per_node + end - begin))
                found.append(Seat(number, replica, rank, nodes, first_node[index] + begin // per_node, devices))
    return tuple(found)
