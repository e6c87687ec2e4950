"""Mean, percentiles and maximum of a sample: the shape in which every latency is reported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
"""The percentiles of every table and file, NumPy's linear definition."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Seconds; every field is None where there is nothing to describe."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


def distribution(values: NDArray[np.float64]) -> Distribution:
    """Describe a sample; NaN (an undefined value, say the TPOT of one output token) is left out."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return Distribution()
    p50, p90, p95, p99 = (float(value) for value in np.percentile(defined, PERCENTILES))
    return Distribution(float(defined.mean()), p50, p90, p95, p99, float(defined.max()))


def linear_ranks(n: int, percentiles: tuple[float, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two neighbouring 0-based ranks of each percentile of n values, and the weight of the upper one.

    Returns:
        ranks int64[P, 2] and weights float64[P], as ``numpy.percentile(..., method="linear")`` defines them.
    """
    position = (n - 1) * (np.asarray(percentiles) / 100)
    lower = np.floor(position).astype(np.int64)
    ranks = np.stack([lower, np.minimum(lower + 1, n - 1)], axis=1)
    return ranks, position - lower
