"""Goodput: the largest offered rate at which the SLO attainment reaches its target (design §8).

Attainment falls with the rate, but not at every step: a batch that happens to form differently can turn it a
little. The convention: bracket from a first guess by factors of two, then halve the bracket (geometrically)
until it is narrower than 1 %; the answer is the lower end, a rate that was tested and met the target, while a
rate at most 1 % higher was tested and did not. All rates of a search are tested on the same requests in the
same order (one common draw), so two plans differ by themselves, not by luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from apexsim.metrics.attainment import reaches
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, repeat

MIN_REQUESTS = 2000
MIN_SPAN_S = 300.0
WARMUP = 0.1
"""The first share of the time of arrivals, simulated but not counted."""

TOLERANCE = 0.01
LOWEST_SHARE = 1e-4
"""The search for a rate that meets the SLO ends at this share of the upper bound."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """What the search for the goodput found.

    Attributes:
        rps: requests/s; None where the SLO is missed even at the lowest rate that was tried.
        censored: the SLO was still met at the upper bound, so the goodput is at least ``rps``.
        attainment: at ``rps``; at the lowest rate where ``rps`` is None.
        tested: (rate in requests/s, attainment) of every evaluation, in order.
    """

    rps: float | None
    censored: bool
    attainment: float
    tested: tuple[tuple[float, float], ...]

    @property
    def evaluations(self) -> int:
        return len(self.tested)


def goodput(
    attainment_at: Callable[[float], float],
    target: float,
    upper_bound_rps: float,
    guess_rps: float | None = None,
    tolerance: float = TOLERANCE,
) -> Goodput:
    """The largest rate (requests/s) up to ``upper_bound_rps`` at which ``attainment_at(rate)`` reaches
    ``target``.

    Args:
        attainment_at: share in 0..1 at an offered rate; equal rates must give equal shares.
        guess_rps: where to begin; a good guess saves evaluations and changes the answer by less than the
            tolerance.
    """
    search = _Bisection(attainment_at, target)
    lowest = upper_bound_rps * LOWEST_SHARE
    first = min(max(guess_rps or upper_bound_rps / 2, lowest), upper_bound_rps)
    passed, failed = _bracket(search, first, lowest, upper_bound_rps)
    while passed is not None and failed is not None and failed > passed * (1 + tolerance):
        middle = math.sqrt(passed * failed)
        if search.meets(middle):
            passed = middle
        else:
            failed = middle
    tested = tuple(search.tested.items())
    return Goodput(passed, failed is None, search.tested[lowest if passed is None else passed], tested)


class _Bisection:
    """Remembers what was tested."""

    def __init__(self, attainment_at: Callable[[float], float], target: float) -> None:
        self._attainment_at = attainment_at
        self._target = target
        self.tested: dict[float, float] = {}

    def meets(self, rate_rps: float) -> bool:
        if rate_rps not in self.tested:
            self.tested[rate_rps] = self._attainment_at(rate_rps)
        return reaches(self.tested[rate_rps], self._target)


def _bracket(
    search: _Bisection, rate_rps: float, lowest_rps: float, highest_rps: float
) -> tuple[float | None, float | None]:
    """A rate that meets the target (None: not even the lowest), and a higher one that fails (None: none)."""
    if search.meets(rate_rps):
        passed = rate_rps
        while passed < highest_rps:
            higher = min(2 * passed, highest_rps)
            if not search.meets(higher):
                return passed, higher
            passed = higher
        return passed, None
    failed = rate_rps
    while failed > lowest_rps:
        lower = max(failed / 2, lowest_rps)
        if search.meets(lower):
            return lower, failed
        failed = lower
    return None, failed


def goodput_trace(trace: Trace, rate_rps: float) -> Trace:
    """``trace`` at ``rate_rps``, repeated to at least 2,000 requests and 300 s of arrivals at that rate."""
    enough = max(MIN_REQUESTS, math.ceil(MIN_SPAN_S * rate_rps) + 1)
    return at_rate(repeat(trace, min_requests=enough), rate_rps)
