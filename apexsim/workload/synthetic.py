"""Arrivals drawn from renewal processes, with lengths from a law or from another trace.

CV is the coefficient of variation of the gaps between arrivals: 1 is Poisson, 0 is a clock, above 1 is
bursty. Gaps are Gamma with shape 1 / CV² (Treat BurstGPT's windows the same way, see ``burstgpt.py``).
"""

from __future__ import annotations

import numpy as np

from apexsim.errors import UsageError
from apexsim.workload.lengths import Fixed, LengthLaw
from apexsim.workload.limits import check_rate, check_requests, generator, generators, within_time
from apexsim.workload.trace import Floats, Trace

LEAST_CV, MOST_CV = 1e-3, 1e3
"""Below, the gaps are a clock's; above, nearly all are 0."""

DECIMALS = 6
"""Arrivals are rounded to microseconds: finer than any log, and short to write."""


def poisson(rate_rps: float, requests: int, input: LengthLaw | int, output: LengthLaw | int, seed: int = 0) -> Trace:
    """``requests`` independent requests at ``rate_rps``; lengths independent of each other.

    Raises:
        UsageError: a rate or a number of requests that is not positive.
    """
    trace = gamma(rate_rps, 1.0, requests, input, output, seed)
    return trace.with_columns(name="poisson", source=f"poisson, {rate_rps:g} requests/s, seed {seed}")


def gamma(
    rate_rps: float,
    cv: float,
    requests: int,
    input: LengthLaw | int,
    output: LengthLaw | int,
    seed: int = 0,
) -> Trace:
    """``requests`` requests whose gaps are Gamma with mean 1 / ``rate_rps`` and coefficient of variation
    ``cv``.

    Raises:
        UsageError: a rate or a number of requests that is not positive, or a negative CV.
    """
    check_requests("requests", requests)
    arrivals, inputs, outputs = generators(seed, 3)
    return Trace(
        name="gamma",
        arrival_s=renewal(rate_rps, cv, requests, arrivals),
        input_tokens=_law(input).at(inputs.random(requests)),
        output_tokens=_law(output).at(outputs.random(requests)),
        source=f"gamma, {rate_rps:g} requests/s, CV {cv:g}, seed {seed}",
    )


def with_arrivals(trace: Trace, rate_rps: float, cv: float = 1.0, seed: int = 0) -> Trace:
    """The requests of a trace, in their order, at new arrivals: Poisson, or Gamma where ``cv`` is not 1.

    For files of lengths without arrivals (ShareGPT), or to take the burstiness out of a log.
    """
    arrival_s = renewal(rate_rps, cv, len(trace), generator(seed))
    kind = "Poisson" if cv == 1.0 else f"Gamma (CV {cv:g})"
    return trace.with_columns(arrival_s=arrival_s).noted(
        f"arrivals are synthetic: {kind} at {rate_rps:g} requests/s, seed {seed}"
    )


def renewal(rate_rps: float, cv: float, n: int, rng: np.random.Generator) -> Floats:
    """float64[n] arrivals in seconds, the first at 0.

    Raises:
        UsageError: the rate or the CV is out of range.
    """
    check_rate("rate", rate_rps)
    if not (cv == 0 or LEAST_CV <= cv <= MOST_CV):
        raise UsageError(f"cv is {cv:g} (allowed: 0, or {LEAST_CV:g} to {MOST_CV:g})")
    gaps = np.ones(n) if cv == 0 else rng.standard_gamma(cv**-2, n) * cv**2
    gaps[0] = 0.0
    return within_time(np.round(np.cumsum(gaps) / rate_rps, DECIMALS), f"rate {rate_rps:g}")


def _law(law: LengthLaw | int) -> LengthLaw:
    if not isinstance(law, int):
        return law
    if law < 1:
        raise UsageError(f"{law} tokens (allowed: 1 or more)")
    return Fixed(law)
