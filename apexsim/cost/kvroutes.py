"""Which leaves and spines the KV of one unit passes on its way to another, and with what share of its bytes.

The devices of the two ends are paired in their order, each pair with an equal share; a side with fewer devices has
several pairs on each. Connections live long: where a hash decides, a pair of NICs keeps its spines for the whole run.
Splitting and spraying load the links of a leaf to its spines alike, so these are one wide link to a transfer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.fabric import Fabric, Parts, parts_of

Ends = tuple[int, int]
"""First device of a unit, by its number in the cluster, and how many there are."""


class Routes:
    """Links of a fabric as transfers see them: up of every leaf, then down."""

    def __init__(self, fabric: Fabric, reached: NDArray[np.float64], first: int) -> None:
        """``reached``: [D] share of a link's datasheet, by device; ``first``: number of the first link."""
        self.fabric, self.first = fabric, first
        hashed = fabric.network.routing == "ecmp"
        self.lanes = fabric.spines if hashed else 1
        share = np.ones(len(fabric.link))
        share[fabric.leaf] = reached
        each = fabric.link * share * (1 if hashed else fabric.spines)
        self.capacity = np.tile(np.repeat(each, self.lanes), 2)

    def between(self, here: Ends, there: Ends) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """(links, shares of the bytes on each) of the way from unit to unit; nothing where no spine is needed."""
        fabric, lanes = self.fabric, self.lanes
        pairs = max(here[1], there[1])
        source, sink = (end[0] + np.arange(pairs) * end[1] // pairs for end in (here, there))
        far = fabric.far(source, sink)
        if not far.any():
            return (), ()
        source, sink = source[far], sink[far]
        each = np.arange(len(source))
        whole = Parts(each, np.zeros_like(each), np.ones(len(each)))
        flow, lane, share = whole if lanes == 1 else parts_of(fabric, source, sink)
        up = fabric.leaf[source][flow] * lanes + lane
        down = (len(fabric.link) + fabric.leaf[sink][flow]) * lanes + lane
        load = np.bincount(np.concatenate([up, down]), np.tile(share, 2) / pairs, len(self.capacity))
        used = np.flatnonzero(load)
        return tuple((self.first + used).tolist()), tuple(load[used].tolist())
