"""Percentiles over every gap between two tokens, exact, from the runs that the engine leaves behind.

A run is an arithmetic progression whose elements count ``sequences`` times each; a million requests leave
millions of runs that stand for hundreds of millions of gaps, which are never expanded. For the k-th smallest:

    1. split [min, max] into bins and count the gaps of each; a run gives whole stretches to a bin at once
    2. keep the part of each run that falls into the bin that holds rank k; take the lower bins off k
    3. few values left: sort them; else go on with 1 inside that bin, which is now ``BINS`` times narrower

A value is always evaluated as ``start + j · slope`` with the run's own start, so the answer is one of the
gaps, bit for bit. Rounding keeps that expression and the bin index monotone in j, so bisection on j finds
where a bin begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.jit import entry_kernel, exact, kernel
from apexsim.engine.result import ItlRuns
from apexsim.metrics.distribution import PERCENTILES, Distribution, linear_ranks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 1 << 16
SORTED_AT_ONCE = 1 << 16


class _Stretches(NamedTuple):
    """Part of each run: elements j = first … first + length − 1, each worth ``weight`` gaps."""

    start: Floats
    slope: Floats
    first: Ints
    length: Ints
    weight: Ints


def itl_distribution(runs: ItlRuns) -> Distribution:
    """Mean, percentiles and maximum (seconds) over all gaps that the runs stand for."""
    stretches = _stretches(runs)
    gaps, sum_s, _, largest = _survey(*stretches)
    if gaps == 0:
        return Distribution()
    p50, p90, p95, p99 = _percentiles(stretches, gaps, PERCENTILES)
    return Distribution(sum_s / gaps, p50, p90, p95, p99, largest)


def itl_percentiles(runs: ItlRuns, percentiles: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles in 0..100 over all gaps, seconds; NaN each where there is no gap."""
    stretches = _stretches(runs)
    gaps = _total(stretches)
    return _percentiles(stretches, gaps, percentiles) if gaps else (float("nan"),) * len(percentiles)


def gaps_at_most(runs: ItlRuns, limit_s: float) -> int:
    """How many gaps are no longer than ``limit_s``."""
    return int(_count_at_most(*_stretches(runs), float(limit_s)))


def total_gaps(runs: ItlRuns) -> int:
    """How many gaps the runs stand for."""
    return _total(_stretches(runs))


def _stretches(runs: ItlRuns) -> _Stretches:
    held = (runs.count > 0) & (runs.sequences > 0)
    whole = _Stretches(
        start=exact(runs.start_s, np.float64),
        slope=exact(runs.slope_s, np.float64),
        first=np.zeros(len(held), np.int64),
        length=exact(runs.count, np.int64),
        weight=exact(runs.sequences, np.int64),
    )
    return whole if held.all() else _take(whole, held)


def _take(stretches: _Stretches, chosen: NDArray[np.bool_]) -> _Stretches:
    start, slope, first, length, weight = stretches
    return _Stretches(start[chosen], slope[chosen], first[chosen], length[chosen], weight[chosen])


def _total(stretches: _Stretches) -> int:
    return int(np.dot(stretches.length, stretches.weight))


def _percentiles(stretches: _Stretches, gaps: int, percentiles: tuple[float, ...]) -> tuple[float, ...]:
    ranks, weights = linear_ranks(gaps, percentiles)
    distinct, where = np.unique(ranks, return_inverse=True)
    values = _order_statistics(stretches, distinct)[where.reshape(ranks.shape)]
    pairs = zip(values.tolist(), weights.tolist(), strict=True)
    return tuple(_between(low, high, weight) for (low, high), weight in pairs)


def _between(low: float, high: float, weight: float) -> float:
    """NumPy's interpolation, which starts from the nearer end so that it stays monotone."""
    return low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)


def _order_statistics(stretches: _Stretches, ranks: Ints) -> Floats:
    """The values at 0-based ``ranks`` (ascending) of the weighted multiset."""
    if int(stretches.length.sum()) <= SORTED_AT_ONCE:
        return _sorted_out(stretches, ranks)
    _, _, low, high = _survey(*stretches)
    if low == high:
        return np.full(len(ranks), low)
    through = np.cumsum(_histogram(*stretches, low, high))
    bin_of_rank = np.searchsorted(through, ranks, side="right")
    wanted = np.unique(bin_of_rank)
    near = _take(stretches, _touches(*stretches, low, high, wanted))
    values = np.empty(len(ranks))
    for bin_ in wanted:
        mine = bin_of_rank == bin_
        below = through[bin_ - 1] if bin_ else 0
        first, length = _clip(*near, low, high, bin_)
        inside = _Stretches(near.start, near.slope, first, length, near.weight)
        values[mine] = _order_statistics(_take(inside, inside.length > 0), ranks[mine] - below)
    return values


def _sorted_out(stretches: _Stretches, ranks: Ints) -> Floats:
    """Order statistics of few values: evaluate each, sort, and count the weights."""
    owner = np.repeat(np.arange(len(stretches.length)), stretches.length)
    before = np.cumsum(stretches.length) - stretches.length
    j = np.arange(len(owner)) - before[owner] + stretches.first[owner]
    values = stretches.start[owner] + j * stretches.slope[owner]
    order = np.argsort(values, kind="stable")
    through = np.cumsum(stretches.weight[owner][order])
    result: Floats = values[order][np.searchsorted(through, ranks, side="right")]
    return result


@kernel
def _bin(value: float, low: float, high: float) -> int:
    return min(BINS - 1, int((value - low) / (high - low) * BINS))


@kernel
def _element(start: float, slope: float, first: int, length: int, i: int) -> float:
    """The i-th smallest value of a stretch."""
    return start + (first + (i if slope >= 0 else length - 1 - i)) * slope


@entry_kernel
def _survey(
    start: Floats, slope: Floats, first: Ints, length: Ints, weight: Ints
) -> tuple[int, float, float, float]:
    """Gaps, their sum, the smallest and the largest, in one pass."""
    gaps, sum_s, low, high = 0, 0.0, np.inf, -np.inf
    for r in range(len(start)):
        smallest = _element(start[r], slope[r], first[r], length[r], 0)
        largest = _element(start[r], slope[r], first[r], length[r], length[r] - 1)
        gaps += length[r] * weight[r]
        middle = start[r] + (first[r] + (length[r] - 1) / 2) * slope[r]
        sum_s += length[r] * weight[r] * middle
        low, high = min(low, smallest), max(high, largest)
    return gaps, sum_s, low, high


@kernel
def _first_beyond(
    start: float, slope: float, first: int, length: int, low: float, high: float, bin_: int
) -> int:
    """Index, by size, of the first element of a stretch in a bin above ``bin_``; ``length`` where none is."""
    begin, end = 0, length
    while begin < end:
        middle = (begin + end) // 2
        if _bin(_element(start, slope, first, length, middle), low, high) > bin_:
            end = middle
        else:
            begin = middle + 1
    return begin


@entry_kernel
def _histogram(
    start: Floats, slope: Floats, first: Ints, length: Ints, weight: Ints, low: float, high: float
) -> Ints:
    gaps = np.zeros(BINS, np.int64)
    for r in range(len(start)):
        last_bin = _bin(_element(start[r], slope[r], first[r], length[r], length[r] - 1), low, high)
        i = 0
        while i < length[r]:
            bin_ = _bin(_element(start[r], slope[r], first[r], length[r], i), low, high)
            beyond = length[r]
            if bin_ < last_bin:
                beyond = _first_beyond(start[r], slope[r], first[r], length[r], low, high, bin_)
            gaps[bin_] += (beyond - i) * weight[r]
            i = beyond
    return gaps


@entry_kernel
def _touches(
    start: Floats, slope: Floats, first: Ints, length: Ints, weight: Ints, low: float, high: float,
    wanted: Ints,
) -> NDArray[np.bool_]:
    """Which stretches span one of the ``wanted`` bins."""
    wanted_below = np.zeros(BINS + 1, np.int64)
    for bin_ in wanted:
        wanted_below[bin_ + 1] = 1
    wanted_below = np.cumsum(wanted_below)
    touched = np.empty(len(start), np.bool_)
    for r in range(len(start)):
        smallest = _bin(_element(start[r], slope[r], first[r], length[r], 0), low, high)
        largest = _bin(_element(start[r], slope[r], first[r], length[r], length[r] - 1), low, high)
        touched[r] = wanted_below[largest + 1] > wanted_below[smallest]
    return touched


@entry_kernel
def _clip(
    start: Floats, slope: Floats, first: Ints, length: Ints, weight: Ints, low: float, high: float,
    bin_: int,
) -> tuple[Ints, Ints]:
    """``first`` and ``length`` of the part of each stretch that lies in ``bin_`` (length 0: nothing does)."""
    clipped_first = np.empty(len(start), np.int64)
    clipped_length = np.empty(len(start), np.int64)
    for r in range(len(start)):
        begin = _first_beyond(start[r], slope[r], first[r], length[r], low, high, bin_ - 1)
        end = _first_beyond(start[r], slope[r], first[r], length[r], low, high, bin_)
        clipped_first[r] = first[r] + (begin if slope[r] >= 0 else length[r] - end)
        clipped_length[r] = end - begin
    return clipped_first, clipped_length


@entry_kernel
def _count_at_most(
    start: Floats, slope: Floats, first: Ints, length: Ints, weight: Ints, limit: float
) -> int:
    gaps = 0
    for r in range(len(start)):
        begin, end = 0, length[r]
        while begin < end:
            middle = (begin + end) // 2
            if _element(start[r], slope[r], first[r], length[r], middle) > limit:
                end = middle
            else:
                begin = middle + 1
        gaps += begin * weight[r]
    return gaps
