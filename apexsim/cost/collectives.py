"""Seconds of a collective over the ranks of one parallel group.

Analytic: latency and bandwidth by algorithm, the fastest of which an engine picks (Thakur et al., IJHPCA 2005).

    one-shot   each rank reads every message             hop + (r - 1) · bytes / link
    two-shot   reduce-scatter, then all-gather, direct   2 · hop + 2 (r - 1) / r · bytes / link
    ring       the same over neighbours                  2 (r - 1) · hop + 2 (r - 1) / r · bytes / link

The first two need every pair of ranks to be joined at full bandwidth (a switch). Calibrated: a fitted law and grid
for each measured number of ranks, on the scale-up links it was measured on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.floor import FLOOR
from apexsim.spec.cluster import Link

Floats = NDArray[np.float64]


def all_reduce_s(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Floats:
    """Seconds to sum ``message`` bytes over ``ranks``; every rank ends with the sum."""
    size = np.asarray(message, dtype=np.float64)
    rate = link.bandwidth * efficiency
    share = 2.0 * (ranks - 1) / ranks * size / rate
    ring = 2 * (ranks - 1) * link.latency_s + share
    if not link.switched:
        return launch_s + ring
    one_shot = link.latency_s + (ranks - 1) * size / rate
    two_shot = 2 * link.latency_s + share
    return launch_s + np.minimum(np.minimum(one_shot, two_shot), ring)


def all_gather_s(message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float) -> Floats:
    """Seconds until every rank has all of ``message`` bytes, of which it held 1 / ranks."""
    size = np.asarray(message, dtype=np.float64)
    hops = 1 if link.switched else ranks - 1
    return launch_s + hops * link.latency_s + (ranks - 1) / ranks * size / (link.bandwidth * efficiency)


def send_s(message: ArrayLike, link: Link, *, efficiency: float) -> Floats:
    """Seconds to send ``message`` bytes to one other rank."""
    return link.latency_s + np.asarray(message, dtype=np.float64) / (link.bandwidth * efficiency)


def sent_bytes(kind: str, message: ArrayLike, ranks: int) -> Floats:
    """Bytes that a rank must at least send. All-reduce: the message once, because a switch may do the sums."""
    size = np.asarray(message, dtype=np.float64)
    return size if kind == "all_reduce" else (ranks - 1) / ranks * size


def collective_s(
    kind: str, message: ArrayLike, ranks: int, link: Link, *, efficiency: float, launch_s: float
) -> Floats:
    """Analytic seconds of an ``all_reduce`` or ``all_gather``."""
    price = {"all_reduce": all_reduce_s, "all_gather": all_gather_s}[kind]
    return price(message, ranks, link, efficiency=efficiency, launch_s=launch_s)


def collective_floor_s(kind: str, message: ArrayLike, ranks: int, link: Link) -> Floats:
    """0.95 × the bytes that a rank must send over the link's bandwidth."""
    return FLOOR * sent_bytes(kind, message, ranks) / link.bandwidth
