"""How many requests of each window of a trace keep an SLO: what a bootstrap draws again and again.

A window is a run of neighbouring requests of the trace. Where a run offers copies of the trace, the copies of a window
count together, because a copy says nothing that the first one did not. So the windows are the same for every plan,
however high the rate at which it runs.

The counts are taken for several *factors* c of all times at once, without another replay. A plan whose times are all c
times as long, offered R requests/s, is the plan as it is, offered c · R, on a clock that runs c times slower
(invariant 6): it keeps limits L where the plan as it is keeps L / c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.metrics.attainment import keeps, share_of_gaps
from apexsim.metrics.latency import Latencies, counted_requests, latencies
from apexsim.spec.slo import SLO, Limit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """One replay. M factors, W windows, L shares that an SLO asks for (one if it is joint, one a clause else).

    Attributes:
        counted: [W] requests after the warm-up.
        kept: [M, W, L] of them within the limits; of a clause on ``itl`` as many as its pooled share says.
    """

    counted: Floats
    kept: Floats


def windows_of(requests: int, windows: int) -> Ints:
    """[requests] the window of each request of a trace: equally many neighbours each; a short trace has fewer."""
    windows = min(windows, requests)
    return np.arange(requests, dtype=np.int64) * windows // requests


def shortened(slo: SLO, factor: float) -> SLO:
    """The SLO with every limit divided by ``factor``."""
    limits = tuple(limit.model_copy(update={"seconds": limit.seconds / factor}) for limit in slo.limits)
    return slo.model_copy(update={"limits": limits})


def shares_needed(slo: SLO) -> Floats:
    """[L] the shares that the SLO asks for."""
    if slo.mode == "joint":
        return np.array([slo.target])
    return np.array([limit.share or 1.0 for limit in slo.limits])


def count_by_window(
    result: SimulationResult, slo: SLO, windows: Ints, factors: Sequence[float] | Floats, warmup: float
) -> WindowCounts:
    """How a replay of copies of a trace keeps ``slo``, window by window and factor by factor.

    Args:
        windows: [n] the window of each request of one copy.
    """
    counted = counted_requests(result.requests.arrival_s, warmup)
    place = np.tile(windows, len(counted) // len(windows))[counted]
    number = int(windows[-1]) + 1
    each = np.bincount(place, minlength=number).astype(np.float64)
    completed = result.requests.status == COMPLETED
    values = latencies(result.requests)
    kept = np.empty((len(factors), number, len(shares_needed(slo))))
    for m, factor in enumerate(factors):
        limits = shortened(slo, factor).limits
        if slo.mode == "joint":
            within = np.logical_and.reduce([keeps(limit, values, completed) for limit in limits])[counted]
            kept[m, :, 0] = np.bincount(place[within], minlength=number)
        else:
            for clause, limit in enumerate(limits):
                kept[m, :, clause] = _of_clause(result, limit, values, completed, counted, place, each)
    return WindowCounts(each, kept)


def _of_clause(
    result: SimulationResult, limit: Limit, values: Latencies, completed: Bools, counted: Bools, place: Ints,
    each: Floats,
) -> Floats:  # fmt: skip
    """[W] of one clause. Runs of gaps carry no instant: every window has the share of the whole run."""
    if limit.metric == "itl":
        done = float(np.count_nonzero(completed & counted) / np.count_nonzero(counted))
        return each * share_of_gaps(result, limit.seconds, done)
    within = keeps(limit, values, completed)[counted]
    return np.bincount(place[within], minlength=len(each)).astype(np.float64)
