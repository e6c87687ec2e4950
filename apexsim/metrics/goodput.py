"""Goodput: the largest offered rate at which the SLO attainment reaches its target (design §8).

Attainment falls with the rate, but not at every step: a batch that happens to form differently can turn it a
little. The convention: rates are tested on a fixed ladder whose rungs are 1 % apart, the same for every plan;
bracket from a first guess by growing steps, then narrow the bracket down to two neighbouring rungs. The answer is
the lower one, a rate that was tested and met the target, while one 1 % higher was tested and did not. So where
attainment falls steadily the guess changes nothing, and plans that serve alike have equal goodput. All rates of
a search are tested on the same requests in the same order (one common draw), so two plans differ by themselves,
not by luck.

Near the target the share of misses grows about exponentially with the rate, so both the steps and the rungs inside
the bracket are chosen where its logarithm, drawn straight, comes to that of the target. Every third time the bracket
is halved, whatever the curve looks like.
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
STEEPNESS = 12.0
"""By so many per cent does the share of misses grow with each per cent of the rate, as a first guess."""

LARGEST_STEP = 64
"""Rungs between two rates on the way to a bracket, at most: a factor of 1.9."""

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
        guess_rps: where to begin; a good guess saves evaluations.
    """
    search = _Ladder(attainment_at, target, upper_bound_rps, tolerance)
    lowest = search.rung(upper_bound_rps * LOWEST_SHARE)
    first = min(max(search.rung(guess_rps or upper_bound_rps / 2), lowest), search.top)
    passed, failed = _bracket(search, first, lowest)
    turn = 0
    while passed is not None and failed is not None and failed > passed + 1:
        turn += 1
        middle = search.between(passed, failed) if turn % 3 else (passed + failed) // 2
        if search.meets(middle):
            passed = middle
        else:
            failed = middle
    rps = None if passed is None else search.rate_rps(passed)
    attained = search.tested[search.rate_rps(lowest) if rps is None else rps]
    return Goodput(rps, failed is None, attained, tuple(search.tested.items()))


class _Ladder:
    """Rung i is the rate (1 + tolerance)^i; the top one is the upper bound itself. Remembers what was tested."""

    def __init__(
        self, attainment_at: Callable[[float], float], target: float, upper_bound_rps: float, tolerance: float
    ) -> None:
        self._attainment_at = attainment_at
        self._target = target
        self._upper_rps = upper_bound_rps
        self._log_step = math.log1p(tolerance)
        self.top = math.ceil(math.log(upper_bound_rps) / self._log_step)
        self.tested: dict[float, float] = {}

    def rung(self, rate_rps: float) -> int:
        """The rung nearest to a rate."""
        return round(math.log(rate_rps) / self._log_step)

    def rate_rps(self, rung: int) -> float:
        return self._upper_rps if rung >= self.top else math.exp(rung * self._log_step)

    def meets(self, rung: int) -> bool:
        """Whether the target is reached at the rung's rate."""
        rate_rps = self.rate_rps(rung)
        if rate_rps not in self.tested:
            self.tested[rate_rps] = self._attainment_at(rate_rps)
        return reaches(self.tested[rate_rps], self._target)

    def steps_to_target(self, rung: int, steepness: float) -> int:
        """How far from a tested rung the target may be, in rungs."""
        return min(max(1, round(abs(self._misses(rung)) / (steepness * self._log_step))), LARGEST_STEP)

    def between(self, passed: int, failed: int) -> int:
        """An untested rung between two, where the target is expected."""
        below, above = self._misses(passed), self._misses(failed)
        share = -below / (above - below) if above > below else 0.5
        return min(max(round(passed + share * (failed - passed)), passed + 1), failed - 1)

    def _misses(self, rung: int) -> float:
        """Logarithm of the share of misses at a tested rung, over that of the target."""
        allowed = 1 - self._target
        least = 0.1 * allowed + 1e-4  # no misses at all have no logarithm
        return math.log((1 - self.tested[self.rate_rps(rung)] + least) / (allowed + least))


def _bracket(search: _Ladder, first: int, lowest: int) -> tuple[int | None, int | None]:
    """A rung that meets the target (None: not even the lowest), and a higher one that fails (None: none)."""
    meets = search.meets(first)
    at, end, steepness = first, search.top if meets else lowest, STEEPNESS
    while at != end:
        step = search.steps_to_target(at, steepness)
        beyond = min(at + step, end) if meets else max(at - step, end)
        if search.meets(beyond) != meets:
            return (at, beyond) if meets else (beyond, at)
        at, steepness = beyond, steepness / 2
    return (at, None) if meets else (None, at)


def goodput_requests(rate_rps: float) -> int:
    """So many requests at least are offered at ``rate_rps``: 2,000, and 300 s of arrivals."""
    return max(MIN_REQUESTS, math.ceil(MIN_SPAN_S * rate_rps) + 1)


def goodput_trace(trace: Trace, rate_rps: float) -> Trace:
    """``trace`` at ``rate_rps``, repeated until it has ``goodput_requests``."""
    return at_rate(repeat(trace, min_requests=goodput_requests(rate_rps)), rate_rps)
