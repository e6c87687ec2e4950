"""What the pools of one phase can reach at best, by the numbers of their replicas: computed once, shared by all plans.

A *phase* is what each request goes through once: it is encoded, prefilled, decoded, or served. Its pools, mostly one,
share its requests. A plan is bounded by each of its phases: whatever the others do, this one must do its part of every
request in time. So bounds belong to phases, a plan takes the tightest of its own, and what stands in two plans is
computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.search.bounds import Counted, attainment_bound, median_e2e_bound
from apexsim.search.copies import GoodputBound, GoodputLoads
from apexsim.search.part import Least, Part, Refused, part_of
from apexsim.search.problem import Problem
from apexsim.search.together import alone_together, due_together
from apexsim.spec.plan import Pool

Phase = tuple[Pool, ...]
"""One replica of each of its pools."""

Counts = tuple[int, ...]
"""Replicas of each of them."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best that so many replicas can reach: rates in requests/s, ``binds`` the resource that bounds them."""

    attainment: float
    goodput_rps: float
    binds: str


@dataclass(frozen=True, slots=True)
class Reach:
    """What a phase can reach. U lengths of requests, K pools.

    Attributes:
        best: by the numbers of replicas.
        latency_s: least median seconds of a request in this phase, with a replica to itself.
        shortest_s: the least of any request.
        served: bool[U] False where no pool serves such requests.
        surely: bool[U] False where one of the pools rejects them.
        rejected: the line that says so, where there are too many; "" otherwise.
        least: energy; None where the power of a device is not known.
        idle_w: [K] watts of a device.
        usd_per_device_hour: [K] None where nobody knows a price.
    """

    best: dict[Counts, Best]
    latency_s: float
    shortest_s: float
    served: NDArray[np.bool_]
    surely: NDArray[np.bool_]
    rejected: str
    least: Least | None
    idle_w: tuple[float | None, ...]
    usd_per_device_hour: tuple[float | None, ...]


def reach_of(problem: Problem, loads: GoodputLoads, phase: Phase, counts: Iterable[Counts]) -> Reach | Refused:
    """What ``counts`` replicas of the pools of a phase can reach."""
    parts: list[Part] = []
    for place, pool in enumerate(phase):
        part = part_of(problem, loads, pool)
        if isinstance(part, Refused):
            return replace(part, pool=place)
        parts.append(part)
    works = [part.work for part in parts]
    dues, names, weights = due_together(works, loads.lengths, problem.slo, loads.one_copy)
    goodput = GoodputBound(loads, dues, names)
    load = Counted(loads.one_copy, problem.trace.span_s, problem.rate_rps)
    servers = weights * [part.servers for part in parts]
    best = {}
    for count in counts:
        all_of_them = float(servers @ count)
        best[count] = Best(attainment_bound(dues, load, all_of_them), *goodput.of(all_of_them))
    work, surely = alone_together(works), np.logical_and.reduce([work.served for work in works])
    shortest_s = float(work.alone_s[work.served].min()) if work.served.any() else 0.0
    # where some pools reject what others serve, nobody knows here who completes
    known = bool((work.served == surely).all())
    return Reach(
        best=best,
        latency_s=median_e2e_bound(work, loads.one_copy) if known else shortest_s,
        shortest_s=shortest_s,
        served=work.served,
        surely=surely,
        rejected=parts[0].rejected if all(part.rejected for part in parts) else "",
        least=_cheapest(parts),
        idle_w=tuple(part.idle_w for part in parts),
        usd_per_device_hour=tuple(part.usd_per_device_hour for part in parts),
    )


def _cheapest(parts: Sequence[Part]) -> Least | None:
    """Joules of a request where each part of it is cheapest."""
    if len(parts) == 1:
        return parts[0].least
    each = [part.least for part in parts if part.least is not None]
    if len(each) < len(parts):
        return None
    images = [least.images_j for least in each if least.images_j is not None]
    return Least(
        min(least.prompt_j for least in each),
        min(least.step_j / least.tokens_of_a_step for least in each),
        1.0,
        np.min(images, axis=0) if len(images) == len(each) else None,
    )
