"""Requests/s whose prefill, or whose decode, one replica serves within the SLO: a goodput of its role alone."""

from __future__ import annotations

import numpy as np

from apexsim.cost.memory import DoesNotFit
from apexsim.engine.result import COMPLETED
from apexsim.errors import NoFeasiblePlan
from apexsim.scenario import prepare, replay
from apexsim.search.measure import measure_goodput
from apexsim.spec.plan import Plan
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace
from apexsim.workload.transform import offline

HIGHEST = 2.0
"""Times what the replica serves when all requests are there at once: the highest rate that is tried."""


def phase_rate(plan: Plan, trace: Trace, slo: SLO, source: str) -> float:
    """Goodput (docs/concepts.md) of a plan of one pool of one role, requests/s; ``source`` is what errors call it.

    A prefill replica has no TPOT, so its limit is met; the TTFT of a decode replica is its queue and one iteration.

    Raises:
        NoFeasiblePlan: it does not fit, or keeps the SLO at no rate.
    """
    prepared = prepare(plan, source=source)
    if isinstance(prepared, DoesNotFit):
        raise NoFeasiblePlan(f"{source}: {prepared.reason}")
    done = replay(prepared, offline(trace))
    completed = int(np.count_nonzero(done.requests.status == COMPLETED))
    if not completed:
        raise NoFeasiblePlan(f"{source}: no request of {trace.name} can be served")
    found, _ = measure_goodput(prepared, trace, slo, HIGHEST * completed / done.duration_s)
    if found.rps is None:
        raise NoFeasiblePlan(f"{source}: keeps the SLO {slo} at no rate (attainment {found.attainment:.3f} at best)")
    return found.rps
