"""What no trace can be, so that sums and clocks never overflow in silence; and generators of checked seeds."""

from __future__ import annotations

import math

import numpy as np

from apexsim.errors import UsageError
from apexsim.workload.trace import Floats

MOST_TOKENS = 2**53
"""Numbers of a file are read as float64: above this they are no longer exact."""

MOST_SECONDS = 1e12
"""Some 30,000 years: a clock of float64 still tells tenths of milliseconds there."""

LEAST_RATE, MOST_RATE = 1e-9, 1e9
"""Requests/s: one in 30 years, one a nanosecond."""

MOST_REQUESTS = 50_000_000
"""More than this would not fit in the memory of a laptop."""


def check_rate(what: str, value: float) -> None:
    """Raise where ``value`` is no rate (or factor of one)."""
    check_positive(what, value)
    if not LEAST_RATE <= value <= MOST_RATE:
        raise UsageError(f"{what} is {value:g} (allowed: {LEAST_RATE:g} to {MOST_RATE:g})")


def check_positive(what: str, value: float) -> None:
    """Raise where ``value`` is not finite or not more than 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{what} is {value:g} (allowed: more than 0)")


def check_requests(what: str, count: int) -> None:
    """Raise where ``count`` requests are none or too many to hold."""
    if not 1 <= count <= MOST_REQUESTS:
        raise UsageError(f"{what} is {count} (allowed: 1 to {MOST_REQUESTS:,})")


def within_time(arrival_s: Floats, what: str) -> Floats:
    """The arrivals themselves; raises where ``what`` moved the last of them beyond ``MOST_SECONDS``."""
    last_s = float(arrival_s[-1])
    if not last_s <= MOST_SECONDS:
        raise UsageError(f"{what}: the last request would arrive at {last_s:g} s (allowed: {MOST_SECONDS:g} s or less)")
    return arrival_s


def generators(seed: int, count: int) -> list[np.random.Generator]:
    """``count`` independent streams of one seed."""
    _check_seed(seed)
    return [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(count)]


def generator(seed: int) -> np.random.Generator:
    """The stream of one seed."""
    _check_seed(seed)
    return np.random.default_rng(seed)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed is {seed} (allowed: 0 or more)")
