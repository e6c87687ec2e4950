"""Up to which rate a plan's goodput is looked for, and what it means if the SLO is still met there.

    the proven bound       where the SLO bounds the rate
    SATURATED × capacity   where it does not: limits on TPOT, ITL or queueing alone prove no bound, and attainment may
                           never fall. Capacity is what the plan serves when all requests are there at once.
    MOST_REQUESTS          in any case: a higher rate would need a larger replay
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from apexsim.engine.result import COMPLETED
from apexsim.scenario import Prepared, replay
from apexsim.search.copies import MOST_REQUESTS
from apexsim.search.prune import Context
from apexsim.workload.transform import offline, repeat

SATURATED = 2.0
"""Times the capacity: there a queue grows all the time, and every batch is as large as it can be."""

WAVES = 4
"""Capacity is measured on so many full batches of every replica, so that the last, partial ones weigh little."""


class Ceiling(NamedTuple):
    """No rate above ``rps`` is tried; ``note`` says why where a goodput ends there, ``requests`` it took to know."""

    rps: float
    note: str
    requests: int = 0


def ceiling(context: Context, prepared: Prepared, bound_rps: float) -> Ceiling:
    """The highest rate (requests/s) to try, for a plan whose goodput is proven to be at most ``bound_rps``."""
    highest_rps = context.loads.highest_rps
    too_large = f"a replay would have more than {MOST_REQUESTS:,} requests"
    too_many = f"goodput is not looked for above {highest_rps:,.0f} req/s: {too_large}"
    if math.isfinite(bound_rps):
        proven = "the SLO is still met at the highest rate that the plan can prove to reach"
        return Ceiling(bound_rps, proven) if bound_rps < highest_rps else Ceiling(highest_rps, too_many)
    capacity_rps, requests = _capacity(context, prepared)
    rps = max(SATURATED * capacity_rps, context.problem.rate_rps)
    if rps >= highest_rps:
        return Ceiling(highest_rps, too_many, requests)
    unlimited = (
        f"the SLO does not limit the rate: it still holds at {rps:.4g} req/s, "
        f"where the plan serves {capacity_rps:.4g} req/s at most"
    )
    return Ceiling(rps, unlimited, requests)


def _capacity(context: Context, prepared: Prepared) -> tuple[float, int]:
    """(requests/s that the plan completes when all are there at once, requests of that replay)."""
    parts = prepared.parts or (prepared,)
    running = sum(part.pool.replicas * part.pool.dp * part.policy.max_num_seqs for part in parts)
    trace = offline(repeat(context.pilot, min_requests=WAVES * running))
    result = replay(prepared, trace, seed=context.problem.seed)
    completed = int(np.count_nonzero(result.requests.status == COMPLETED))
    return (completed / result.duration_s if result.duration_s > 0 else 0.0), len(trace)
