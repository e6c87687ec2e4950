"""The order of the plans, and those that no other plan beats on every axis of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apexsim.errors import UsageError
from apexsim.search.figures import FIGURES, Figure, figure_named, order
from apexsim.search.outcome import Bounds, Evaluation

Axes = Sequence[Figure]
"""The figures that a front weighs against one another."""

AXES: tuple[Figure, ...] = (FIGURES["goodput-per-device"], FIGURES["energy"], FIGURES["cost"])
"""Where nobody chooses others."""


def axes_named(names: str | Sequence[str], g_co2e_per_kwh: float | None = None) -> tuple[Figure, ...]:
    """The axes of these names: a sequence, or one text with commas.

    Raises:
        UsageError: an unknown name, one that comes twice, fewer than two.
    """
    split = names.split(",") if isinstance(names, str) else names
    listed = [name.strip() for name in split]
    flag = f"--pareto {','.join(listed)}"
    axes = tuple(figure_named(name, g_co2e_per_kwh, "axis of --pareto") for name in listed)
    twice = next((name for name in listed if listed.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{flag}: {twice} is named twice (allowed: each figure once)")
    if len(axes) < 2:
        raise UsageError(f"{flag}: one axis has no front (allowed: two or more of {', '.join(FIGURES)})")
    return axes


def rank(evaluations: Sequence[Evaluation], objective: Figure) -> tuple[Evaluation, ...]:
    """Best first; ties end at the plan's id, so the order never depends on who finished first."""
    return tuple(sorted(evaluations, key=lambda evaluation: order(evaluation, objective)))


def losses(evaluation: Evaluation, axes: Axes = AXES) -> tuple[float, ...]:
    """The plan's place on the axes, smaller is better on each."""
    return tuple(axis.loss(axis.value(evaluation)) for axis in axes)


def front(evaluations: Sequence[Evaluation], axes: Axes = AXES) -> tuple[str, ...]:
    """Ids of the plans that no other dominates, in the order given. Equal plans are both kept."""
    if not evaluations:
        return ()
    points = np.array([losses(evaluation, axes) for evaluation in evaluations])
    return tuple(e.id for e, beaten in zip(evaluations, dominated(points), strict=True) if not beaten)


def dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[n]: some other row of ``points`` [n, axes] is nowhere larger and somewhere smaller."""
    beaten = np.zeros(len(points), dtype=np.bool_)
    for i, point in enumerate(points):
        beaten[i] = bool(np.any(_beats(points, point)))
    return beaten


def may_join_front(bounds: Bounds, devices: int, evaluated: NDArray[np.float64], axes: Axes = AXES) -> bool:
    """False where some evaluated row [n, axes] beats the best that a plan with these bounds can reach."""
    best = np.array([axis.loss(axis.bound(bounds, devices)) for axis in axes])
    return not bool(np.any(_beats(evaluated, best)))


def _beats(points: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[n]: the row is nowhere larger than ``point`` and somewhere smaller."""
    return np.asarray(np.all(points <= point, axis=1) & np.any(points < point, axis=1))
