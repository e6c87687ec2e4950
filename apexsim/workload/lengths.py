"""Laws of token lengths as quantile functions: what comes out at u in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from apexsim.errors import UsageError
from apexsim.workload.limits import MOST_TOKENS
from apexsim.workload.trace import Floats, Ints


class LengthLaw(Protocol):
    """Tokens of a request, drawn by the quantile function of a law."""

    def at(self, u: Floats) -> Ints:
        """int64[n] tokens, at least 1, at the quantiles ``u`` float64[n] in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    tokens: int

    def at(self, u: Floats) -> Ints:
        return np.full(len(u), self.tokens, np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int

    def at(self, u: Floats) -> Ints:
        return (self.low + np.floor(u * (self.high - self.low + 1))).astype(np.int64)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """exp(mu + sigma · z), rounded, within 1 … ``most``."""

    mu: float
    sigma: float
    most: int

    @classmethod
    def of(cls, median: float, mean: float, most: int) -> LogNormal:
        """By median and mean: mu = ln median, sigma² = 2 ln(mean / median)."""
        return cls(math.log(median), math.sqrt(2.0 * math.log(mean / median)), most)

    def at(self, u: Floats) -> Ints:
        # u = 0 would be minus infinity.
        z: Floats = ndtri(np.clip(u, 1e-12, 1.0 - 1e-12))
        return np.clip(np.rint(np.exp(self.mu + self.sigma * z)), 1, self.most).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Linear between knots (u, tokens), rounded down; u ascends from 0 to 1 and tokens never fall."""

    u: tuple[float, ...]
    tokens: tuple[float, ...]

    def at(self, u: Floats) -> Ints:
        return np.maximum(np.floor(np.interp(u, self.u, self.tokens)), 1).astype(np.int64)


def parse_lengths(text: str) -> LengthLaw:
    """``512``, ``uniform:LOW:HIGH`` or ``lognormal:MEDIAN:MEAN[:MOST]`` (MOST 131072 where left out).

    MEAN is that of the law before it is cut at MOST.

    Raises:
        UsageError: anything else, or numbers that no law has.
    """
    kind, *numbers = text.split(":")
    try:
        if not numbers:
            kind, numbers = "fixed", [kind]
        values = [int(number) if kind != "lognormal" else float(number) for number in numbers]
        law = _law(kind, values) if max(values) <= MOST_TOKENS else None
    except ValueError:
        law = None
    if law is None:
        raise UsageError(
            f"lengths {text!r} (allowed: TOKENS, uniform:LOW:HIGH with 1 <= LOW <= HIGH, "
            "or lognormal:MEDIAN:MEAN[:MOST] with 1 <= MEDIAN < MEAN <= MOST; all 2^53 or less)"
        )
    return law


def _law(kind: str, values: list[int] | list[float]) -> LengthLaw | None:
    if kind == "fixed" and len(values) == 1 and values[0] >= 1:
        return Fixed(int(values[0]))
    if kind == "uniform" and len(values) == 2 and 1 <= values[0] <= values[1]:
        return Uniform(int(values[0]), int(values[1]))
    if kind == "lognormal" and len(values) in (2, 3):
        median, mean, most = (*values, 131072)[:3]
        if 1 <= median < mean <= most:
            return LogNormal.of(median, mean, int(most))
    return None


TAIL_U = np.array([0.0, 0.5, 0.9, 0.99, 1.0])
"""Quantiles at which a row of published percentiles is known, and the two ends."""


def knots_of_percentiles(mean: Floats, p50: Floats, p90: Floats, p99: Floats) -> NDArray[np.float64]:
    """float64[rows, 5]: tokens at ``TAIL_U`` of laws that have these percentiles, and the mean where they
    allow it.

    Between knots log(tokens) is linear in u. The two ends are free: the lower one, in [1, p50], is set so
    that the mean fits; where it is too small even then, the upper one, in [p99, 100 · p99], is. All arguments
    are float64[rows].
    """
    p50 = np.maximum(p50, 1.0)
    p90 = np.maximum(p90, p50)
    p99 = np.maximum(p99, p90)
    low, high = np.ones_like(p50), p99.copy()
    middle = 0.4 * _log_mean(p50, p90) + 0.09 * _log_mean(p90, p99)
    low = _bisect(lambda end: middle + 0.5 * _log_mean(end, p50) + 0.01 * _log_mean(p99, high), mean, low, p50)
    rest = middle + 0.5 * _log_mean(low, p50)
    high = _bisect(lambda end: rest + 0.01 * _log_mean(p99, end), mean, p99, 100.0 * p99)
    return np.stack([low, p50, p90, p99, high], axis=1)


def at_knots(knots: NDArray[np.float64], row: Ints, u: Floats) -> Ints:
    """int64[n] tokens: request i at ``u[i]`` of the law ``knots[row[i]]`` (see ``knots_of_percentiles``)."""
    segment = np.searchsorted(TAIL_U, u, side="right") - 1
    share = (u - TAIL_U[segment]) / (TAIL_U[segment + 1] - TAIL_U[segment])
    logs = np.log(knots)
    value = np.exp((1.0 - share) * logs[row, segment] + share * logs[row, segment + 1])
    return np.asarray(np.maximum(np.rint(value), 1), np.int64)


def _bisect(rising: Callable[[Floats], Floats], target: Floats, low: Floats, high: Floats) -> Floats:
    """Element by element where ``rising`` meets ``target`` within [low, high]; an end where it does not."""
    low, high = low.copy(), high.copy()
    for _ in range(60):
        centre = 0.5 * (low + high)
        below = rising(centre) < target
        low, high = np.where(below, centre, low), np.where(below, high, centre)
    return 0.5 * (low + high)


def _log_mean(a: Floats, b: Floats) -> Floats:
    """Mean of a quantity that goes from a to b with a linear logarithm: (b - a) / ln(b / a)."""
    ratio = np.log(b / a)
    flat = np.abs(ratio) < 1e-9
    return np.where(flat, (a + b) / 2.0, (b - a) / np.where(flat, 1.0, ratio))
