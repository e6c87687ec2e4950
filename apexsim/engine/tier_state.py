"""What the KV tiers beyond the device's memory hold while a pool runs: host memory, NVMe, a remote pool.

A tier keeps units of the prefix cache (``state.Cache``), in a list by time of use. Host memory and NVMe belong to a
replica; the last tier may be shared by all replicas, and then row 0 stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tiers import TierLaw

Rows = Any
"""A record array, as in ``state.py``."""

STORE = np.dtype(
    [
        ("row", "i8"),  # replica whose row holds the tier's contents: its own, or 0 where all share it
        ("capacity", "i8"),  # blocks
        ("used", "i8"),
        ("peak", "i8"),
        ("oldest", "i8"),  # ends of the list of units: the next to be evicted,
        ("newest", "i8"),  # and the last
        ("through", "i8"),  # 1: takes every unit that is computed; 0: what the tier above it evicts
        ("carries", "i8"),  # 1: what comes from the tiers below passes through it
        ("pending", "i8"),  # blocks that the iteration being composed loads
        ("stored", "i8"),  # blocks written so far,
        ("loaded", "i8"),  # read,
        ("evicted", "i8"),  # and dropped or handed down
        ("hit_tokens", "i8"),  # tokens found by first admissions
        ("block_s", "f8"),  # seconds to load a block
        ("latency_s", "f8"),
        ("layers", "f8"),  # of one pipeline stage
    ]
)
"""A tier as one replica sees it; contents and their counts (used … newest, stored, evicted) in the row ``row``."""

KEPT = np.dtype([("older", "i4"), ("younger", "i4"), ("resident", "i4")])
"""A unit in one tier."""


class Tiers(NamedTuple):
    """T tiers of each of R replicas, from the fastest on; without tiers both arrays are empty."""

    stores: Rows  # STORE [R, T]
    kept: Rows  # KEPT [R, T, U]
    prefill_s: NDArray[np.float64]  # [K] to compute the first tokens of a prompt alone, at multiples of Limits.weigh


def new_tiers(laws: Sequence[TierLaw], replicas: int, units: int, prefill_s: NDArray[np.float64]) -> Tiers:
    """Empty tiers for ``replicas`` replicas whose prompts have ``units`` units.

    ``prefill_s``: what a load is weighed against; empty where whatever is found is loaded.
    """
    stores: Rows = np.zeros((replicas, len(laws)), STORE).view(np.recarray)
    stores.oldest = stores.newest = -1  # NONE of state.py
    for t, law in enumerate(laws):
        column = stores[:, t]
        column.row = 0 if law.shared else np.arange(replicas)
        column.capacity, column.through, column.carries = law.blocks, law.through, law.carries
        column.block_s, column.latency_s, column.layers = law.block_s, law.latency_s, law.layers
    return Tiers(stores, np.zeros((replicas, len(laws), units), KEPT).view(np.recarray), prefill_s)
