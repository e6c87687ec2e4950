"""Errors of many runs as a few figures: by metric, by regime, by set and over all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from apexsim.validation.simulate import Outcome

ALL = "all"
"""The name of the regime, and of the set, that stands for every one of them."""


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """Of relative errors (0.05 = 5 %): of their sizes, but for ``bias``, which is the mean error with its sign."""

    n: int
    median_abs_error: float
    mean_abs_error: float
    p90_abs_error: float
    worst_abs_error: float
    bias: float


def statistics(errors: Iterable[float]) -> ErrorStatistics | None:
    """Figures of relative errors; None where there is none."""
    values = np.fromiter(errors, dtype=np.float64)
    if len(values) == 0:
        return None
    sizes = np.abs(values)
    return ErrorStatistics(
        len(values), float(np.median(sizes)), float(sizes.mean()), float(np.percentile(sizes, 90)), float(sizes.max()),
        float(values.mean()),
    )  # fmt: skip


def by_metric(outcomes: Iterable[Outcome]) -> dict[str, ErrorStatistics]:
    """Column -> figures over the runs that measured it, in the order in which columns first appear."""
    errors: dict[str, list[float]] = {}
    for outcome in outcomes:
        for column, compared in outcome.metrics.items():
            if compared.error is not None:
                errors.setdefault(column, []).append(compared.error)
    return _figures(errors)


def by_request(outcomes: Iterable[Outcome]) -> dict[str, ErrorStatistics]:
    """Column -> figures over every single request that was measured."""
    errors: dict[str, list[float]] = {}
    for outcome in outcomes:
        for column, values in outcome.per_request.items():
            errors.setdefault(column, []).extend(values.tolist())
    return _figures(errors)


def _figures(errors: Mapping[str, list[float]]) -> dict[str, ErrorStatistics]:
    found = {column: statistics(values) for column, values in errors.items()}
    return {column: figures for column, figures in found.items() if figures is not None}


def by_regime(outcomes: Iterable[Outcome]) -> dict[str, dict[str, ErrorStatistics]]:
    """Regime -> column -> figures, for the regimes that rows name: light, moderate, overload."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.regime is not None:
            groups.setdefault(outcome.regime, []).append(outcome)
    found = {regime: by_metric(groups[regime]) for regime in sorted(groups)}
    return {regime: figures for regime, figures in found.items() if figures}
