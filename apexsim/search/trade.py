"""What the best plan by one figure gives up in the others: the quickest plan and the most frugal one, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apexsim.search.figures import FIGURES, Figure, order
from apexsim.search.outcome import Evaluation

ALWAYS = tuple(FIGURES[name] for name in ("goodput-per-device", "energy", "cost", "latency"))
"""Shown beside every ranking, whatever its objective; a race has them among its goals."""


@dataclass(frozen=True, slots=True)
class Trade:
    """The best plan by one figure, among those of which it is known; equal ones by goodput.

    Attributes:
        best: None where the figure is known of no plan.
        known: plans of which it is known.
        change: figure name -> the plan's value over that of the best plan by that figure, minus 1: +0.3 is 30 % more
            (worse where less is better), -0.3 is 30 % less. None where one of the two is unknown or the best is 0.
    """

    figure: Figure
    best: Evaluation | None
    known: int
    change: dict[str, float | None]

    def to_dict(self, figures: Sequence[Figure]) -> dict[str, Any] | None:
        """``id`` and ``figures``: ``{name: {"value":, "change":}}``, values in the figure's unit."""
        if self.best is None:
            return None
        values = {figure.name: scaled(figure, self.best) for figure in figures}
        return {
            "id": self.best.id,
            "figures": {name: {"value": value, "change": self.change[name]} for name, value in values.items()},
        }


def compared(objective: Figure, axes: Sequence[Figure]) -> tuple[Figure, ...]:
    """The figures whose best plans are shown: those that always are, the objective, the axes of the front."""
    return tuple({figure.name: figure for figure in (*ALWAYS, objective, *axes)}.values())


def trades(evaluations: Sequence[Evaluation], figures: Sequence[Figure]) -> tuple[Trade, ...]:
    """Of each figure its best plan, with what that plan gives up in the others."""
    known = {f.name: [e for e in evaluations if f.value(e) is not None] for f in figures}
    best = {f.name: min(known[f.name], key=lambda e: order(e, f), default=None) for f in figures}
    return tuple(
        Trade(f, best[f.name], len(known[f.name]), {g.name: _change(g, best[f.name], best[g.name]) for g in figures})
        for f in figures
    )


def scaled(figure: Figure, evaluation: Evaluation) -> float | None:
    """The value in the figure's unit."""
    value = figure.value(evaluation)
    return None if value is None else figure.scale * value


def _change(figure: Figure, plan: Evaluation | None, best: Evaluation | None) -> float | None:
    own, other = (None if e is None else figure.value(e) for e in (plan, best))
    return None if own is None or not other else own / other - 1.0
