"""Functions that end the process which they run in: a file of their own, since workers import what they are sent."""

from __future__ import annotations

import os
import signal

from apexsim.search.learn import learn
from apexsim.search.outcome import Dropped

KILLER = "2xtp2-fp8-kvbf16-t2048-s256"


def one_kills(context, candidates, **more):
    """In the place of ``evaluate_all``: a plan that ends its process, others that are done at once."""
    if any(candidate.id == KILLER for candidate in candidates):
        os.kill(os.getpid(), signal.SIGKILL)
    return [Dropped(candidate.plan, "slo", "looked at", 0.1, 1) for candidate in candidates]


def one_shape_kills(context, wanted, **more):
    """In the place of ``learn``: a shape that ends its process when it is compiled."""
    if any(pool.tp == 2 and pool.scheduler.max_num_seqs == 16 for phase, _ in wanted for pool in phase):
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(context, wanted, **more)
