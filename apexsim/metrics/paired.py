"""How sure the differences of two runs of the same requests are: both are drawn anew by the same windows.

A window is a run of neighbouring requests (``by_window.py``). In each draw both runs have the same windows, so that
what is due to the requests, a burst say, is in both and cancels out of the difference. A statistic of a draw counts a
request as often as its window was drawn, with the latency that it has in the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.metrics.distribution import PERCENTILES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EDGES = np.unique(np.concatenate([np.linspace(0.0, 1.0, 201), np.linspace(0.97, 1.0, 61)]))
"""Latencies are counted up to these quantiles of theirs: finer where the last percentiles are."""


@dataclass(frozen=True, slots=True)
class Served:
    """What one run did with each of its requests, in the order of the trace: [n] each.

    Attributes:
        seconds: tag of a metric -> latency; NaN where it is undefined, or not counted.
        kept: 1 where the SLO was kept, 0 where not, NaN where not counted; None where nobody asked for a joint one.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    completed: NDArray[np.bool_]
    preemptions: Ints
    cached_tokens: Ints
    seconds: Mapping[str, Floats]
    kept: Floats | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    def counted(self, mask: NDArray[np.bool_]) -> Served:
        """Latencies and SLO of some requests only: those after a warm-up."""
        seconds = {tag: np.where(mask, values, np.nan) for tag, values in self.seconds.items()}
        return replace(self, seconds=seconds, kept=None if self.kept is None else np.where(mask, self.kept, np.nan))


def unlike(base: Served, other: Served) -> str:
    """Why two runs are not of the same requests; "" where they are. When they arrived does not matter."""
    if len(base) != len(other):
        return f"A has {len(base):,} of them, B {len(other):,}"
    for name in ("input_tokens", "output_tokens"):
        one, two = getattr(base, name), getattr(other, name)
        differ = np.flatnonzero(one != two)
        if len(differ):
            k = int(differ[0])
            return f"the {k + 1:,}. has {one[k]:,} {name.replace('_', ' ')} in A, {two[k]:,} in B"
    return ""


def difference_intervals(
    base: Served, other: Served, windows: Ints, weights: Floats, level: float
) -> dict[str, tuple[float, float]]:
    """Tag of each statistic of requests -> the interval of ``other`` − ``base``.

    Args:
        windows: [n] of each request. weights: [draws, W] how often each window is drawn.
        level: share of the draws that lies within an interval.
    """
    found = {}
    drawn_of_base = dict(_statistics(base, windows, weights))
    for tag, drawn in _statistics(other, windows, weights):
        if tag in drawn_of_base:
            apart = drawn - drawn_of_base[tag]
            if np.isfinite(apart).all():
                low, high = np.quantile(apart, [(1 - level) / 2, (1 + level) / 2])
                found[tag] = (float(low), float(high))
    return found


def _statistics(run: Served, windows: Ints, weights: Floats) -> Iterator[tuple[str, Floats]]:
    """(tag, [draws]) of all that is a statistic of single requests."""

    def total(values: Floats | Ints | NDArray[np.bool_]) -> Floats:
        return np.asarray(weights @ np.bincount(windows, np.nan_to_num(values), weights.shape[1]))

    with np.errstate(divide="ignore", invalid="ignore"):
        for tag, seconds in run.seconds.items():
            defined = np.isfinite(seconds)
            yield f"{tag}_mean", total(seconds) / total(defined)
            if defined.any():
                yield from _percentiles(tag, seconds[defined], windows[defined], weights)
        if run.kept is not None:
            yield "attainment", total(run.kept) / total(np.isfinite(run.kept))
        yield "preemptions", total(run.preemptions)
        done = run.completed
        yield "prefix_hit_rate", total(run.cached_tokens * done) / total(run.input_tokens * done)


def _percentiles(tag: str, seconds: Floats, windows: Ints, weights: Floats) -> Iterator[tuple[str, Floats]]:
    """On lines between the edges; moved so that all windows, once each, give the percentile of the run."""
    edges = np.unique(np.quantile(seconds, EDGES))
    each = [np.sort(seconds[windows == window]) for window in range(weights.shape[1])]
    up_to = np.stack([np.searchsorted(values, edges, side="right") for values in each]).astype(np.float64)
    drawn = np.concatenate([np.ones((1, weights.shape[1])), weights]) @ up_to  # [1 + draws, Q]
    for percentile in PERCENTILES:
        wanted = drawn[:, -1:] * (percentile / 100)
        high = np.clip(np.sum(drawn < wanted, axis=1), 1, max(len(edges) - 1, 1))
        if len(edges) == 1:
            values = np.full(len(drawn), edges[0])
        else:
            at_high, at_low = (np.take_along_axis(drawn, q[:, None], axis=1)[:, 0] for q in (high, high - 1))
            share = np.clip((wanted[:, 0] - at_low) / np.maximum(at_high - at_low, 1e-300), 0.0, 1.0)
            values = edges[high - 1] + share * (edges[high] - edges[high - 1])
        values = np.where(drawn[:, -1] > 0, values, np.nan)
        yield f"{tag}_p{percentile:g}", np.percentile(seconds, percentile) + values[1:] - values[0]
