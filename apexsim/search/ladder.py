"""Rates that trials climb, the same rungs for all plans, and the rate that a plan sustains by what it did on them."""

from __future__ import annotations

from math import ceil, floor, log

import numpy as np

from apexsim.search.trial import Floats, Trial

RUNG, LADDER = 1.08, 1.5
"""Trials climb rates by this ratio, up to this multiple of the best goodput so far."""

NEAR = 1.3
"""A trial of a whole plan climbs from this much below what its pools do apart, or in a shorter trial."""


def rungs(lowest_rps: float, highest_rps: float) -> tuple[float, ...]:
    """Rates of one ladder, the same for all plans: from just below the lowest to just above the highest."""
    first, last = floor(log(lowest_rps) / log(RUNG)), ceil(log(highest_rps) / log(RUNG))
    return tuple(RUNG**k for k in range(first, last + 1))


def near(lowest_rps: float, about_rps: float) -> tuple[float, ...]:
    """The rung below the lowest rate, and those from somewhat below the rate that is expected."""
    around = rungs(about_rps / NEAR, about_rps * LADDER)
    return (rungs(lowest_rps, lowest_rps)[0], *(rate for rate in around if rate > lowest_rps))


def sustained(trial: Trial, target: float) -> float:
    """The rate (requests/s) at which attainment falls below the target, by a line between the rungs around it."""
    kept = {rate: float(worst(trial.at[rate].attainment).mean()) for rate in sorted(trial.at)}
    last = None
    for rate, now in kept.items():
        if now < target:
            if last is None:
                return rate * now / target
            return last + (rate - last) * (kept[last] - target) / (kept[last] - now)
        last = rate
    return last or 0.0


def worst(attainment: Floats) -> Floats:
    """Of the clause that is kept least."""
    return np.asarray(attainment[int(attainment.mean(axis=1).argmin())])
