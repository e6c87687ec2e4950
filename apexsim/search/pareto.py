"""The order of the plans, and those that no other plan beats on every count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.search.objectives import Objective, loss, order
from apexsim.search.outcome import Bounds, Evaluation


@dataclass(frozen=True, slots=True)
class Axis:
    """One count of the Pareto comparison, written so that smaller is better."""

    label: str
    unit: str
    highest_wins: bool
    value: Callable[[Evaluation], float | None]
    bound: Callable[[Bounds, int], float | None]  # the best value that a plan of so many devices can reach

    def loss(self, value: float | None) -> float:
        """What to make small."""
        return loss(value, self.highest_wins)


AXES: tuple[Axis, ...] = (
    Axis("goodput per device", "req/s", True,
         lambda e: e.goodput_rps_per_device, lambda b, devices: b.goodput_rps / devices),
    Axis("energy at goodput", "J/output token", False,
         lambda e: e.at_goodput["j_per_output_token"], lambda b, devices: b.j_per_output_token),
    Axis("cost at goodput", "USD/M output tokens", False,
         lambda e: e.at_goodput["usd_per_million_output_tokens"],
         lambda b, devices: b.usd_per_million_output_tokens),
)


def rank(evaluations: Sequence[Evaluation], objective: Objective) -> tuple[Evaluation, ...]:
    """Best first; ties end at the plan's id, so the order never depends on who finished first."""
    return tuple(sorted(evaluations, key=lambda evaluation: order(evaluation, objective)))


def losses(evaluation: Evaluation) -> tuple[float, ...]:
    """The plan's place on the axes, smaller is better on each."""
    return tuple(axis.loss(axis.value(evaluation)) for axis in AXES)


def front(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Ids of the plans that no other dominates, in the order given. Equal plans are both kept."""
    if not evaluations:
        return ()
    points = np.array([losses(evaluation) for evaluation in evaluations])
    return tuple(e.id for e, beaten in zip(evaluations, dominated(points), strict=True) if not beaten)


def dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[n]: some other row of ``points`` [n, axes] is nowhere larger and somewhere smaller."""
    beaten = np.zeros(len(points), dtype=np.bool_)
    for i, point in enumerate(points):
        beaten[i] = bool(np.any(_beats(points, point)))
    return beaten


def may_join_front(bounds: Bounds, devices: int, evaluated: NDArray[np.float64]) -> bool:
    """False where some evaluated row [n, axes] beats the best that a plan with these bounds can reach."""
    best = np.array([axis.loss(axis.bound(bounds, devices)) for axis in AXES])
    return not bool(np.any(_beats(evaluated, best)))


def _beats(points: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[n]: the row is nowhere larger than ``point`` and somewhere smaller."""
    return np.asarray(np.all(points <= point, axis=1) & np.any(points < point, axis=1))


def best_by(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The best plan by each figure that is known, whatever the objective; equal ones by goodput, then id."""
    figures: dict[str, Callable[[Evaluation], float | None]] = {
        "goodput per device": lambda e: -e.goodput_rps_per_device,
        "energy": lambda e: e.at_goodput["j_per_output_token"],
        "cost": lambda e: e.at_goodput["usd_per_million_output_tokens"],
        "latency": lambda e: e.summary["e2e_s"]["p50"],
    }
    found = {}
    for name, figure in figures.items():
        known = [(value, -e.goodput_rps, e.id, e) for e in evaluations if (value := figure(e)) is not None]
        if known:
            found[name] = min(known, key=lambda item: item[:3])[3]
    return found
