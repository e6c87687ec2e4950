"""Pictures of a search. Every function draws into the Axes that it is given, or into new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from apexsim.search.outcome import Evaluation

SHAPES = 6
"""Curves in one picture; more cannot be told apart."""

SHORT = 36
"""Letters of a name that has room for another beside it."""

AROUND = 1.15
"""The rates that are shown go so far below the least goodput and above the largest, as a factor."""

DEPTH, LEAST_ROOM = 4.0, 0.025
"""The shares that are shown go down to so many times what the target leaves to miss; of a target of 1 it is this."""


def attainment(ranked: Sequence[Evaluation], target: float, ax: Axes | None = None) -> Axes:
    """SLO attainment at each rate that was tested, a curve for the best plan of each (replicas, tp, pp) of its pools.

    It shows the rates around the goodputs and the shares around the target; what was tested far from them is outside.
    """
    own = ax is None
    ax = _axes(ax, (7, 4.8))
    shown = _best_of_each_shape(ranked)[:SHAPES]
    for evaluation in shown:
        tested = sorted(evaluation.tested)
        rates, shares = [rate for rate, _ in tested], [share for _, share in tested]
        name = f"{evaluation.id}: {'≥' if evaluation.censored else ''}{evaluation.goodput_rps:.4g}"
        (line,) = ax.plot(rates, shares, marker=".", linewidth=1.2, label=name)
        ax.plot([evaluation.goodput_rps], [target], marker="o", markersize=7, color=line.get_color())
    ax.axhline(target, color="#666666", linestyle="--", linewidth=1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    if shown:
        _look_at_the_goodputs(ax, shown, target)
        columns = 2 if max(len(evaluation.id) for evaluation in shown) <= SHORT else 1
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns} if own else {"loc": "best"}
        where = ax.figure if own else ax
        where.legend(frameon=False, fontsize=8, title="goodput, requests/s", title_fontsize=8, **place)
    ax.set_xlabel("offered rate, requests/s")
    ax.set_ylabel("SLO attainment")
    ax.set_title(f"Goodput: where attainment falls below {100 * target:g}%")
    ax.grid(alpha=0.3)
    return ax


def _look_at_the_goodputs(ax: Axes, shown: Sequence[Evaluation], target: float) -> None:
    """Limits around them: a search also tests rates far off, where attainment is 0."""
    goodputs = [evaluation.goodput_rps for evaluation in shown]
    slow, fast = min(goodputs) / AROUND, max(goodputs) * AROUND
    near = [share for evaluation in shown for rate, share in evaluation.tested if slow <= rate <= fast]
    room = max(1.0 - target, LEAST_ROOM)
    low = min(min(near, default=target) - 0.5 * room, target - room)
    ax.set_ylim(max(0.0, target - DEPTH * room, low), min(target + room, 1.0) + 0.1 * room)
    ax.set_xlim(slow, fast)


def _best_of_each_shape(ranked: Sequence[Evaluation]) -> list[Evaluation]:
    best: dict[tuple[tuple[int, int, int], ...], Evaluation] = {}
    for evaluation in ranked:
        shape = tuple((pool.replicas, pool.tp, pool.pp) for pool in evaluation.plan.pools)
        best.setdefault(shape, evaluation)
    return list(best.values())


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
