"""Pictures of a search. Every function draws into the Axes that it is given, or into new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, ScalarFormatter

from apexsim.search.outcome import Evaluation

FRONT = "#d95f02"
WIDE = 5
"""Energies that differ by more than this factor are drawn on a logarithmic axis."""

SHAPES = 6
"""Curves in one picture; more cannot be told apart."""

AROUND = 1.15
"""The rates that are shown go so far below the least goodput and above the largest, as a factor."""

DEPTH, LEAST_ROOM = 4.0, 0.025
"""The shares that are shown go down to so many times what the target leaves to miss; of a target of 1 it is this."""


def pareto(ranked: Sequence[Evaluation], front: Sequence[str], ax: Axes | None = None) -> Axes:
    """Energy against goodput per device, one dot a plan; up is dearer, to the right is faster."""
    ax = _axes(ax, (7, 4.2))
    plans = [e for e in ranked if e.at_goodput["j_per_output_token"] is not None]
    x = [e.goodput_rps_per_device for e in plans]
    y = [e.at_goodput["j_per_output_token"] or 0.0 for e in plans]
    devices = [e.plan.devices for e in plans]
    if plans:
        dots = ax.scatter(x, y, c=devices, cmap="viridis_r", s=26, alpha=0.8, linewidths=0)
        whole = sorted(set(devices))
        ax.figure.colorbar(dots, ax=ax, label="devices of the plan", ticks=whole)
    best = [(a, b, e) for a, b, e in zip(x, y, plans, strict=True) if e.id in front]
    if best:
        ax.scatter([a for a, _, _ in best], [b for _, b, _ in best], s=90, facecolors="none", edgecolors=FRONT,
                   linewidths=1.6, label=f"Pareto front ({len(best)})")  # fmt: skip
        ax.legend(frameon=False, loc="upper right")
        right, low, first = best[0]
        ax.annotate(first.id, (right, low), xytext=(-8, -4), textcoords="offset points", ha="right", va="top",
                    fontsize=8)  # fmt: skip
    ax.set_xlabel("goodput per device, requests/s")
    ax.set_ylabel("energy at goodput, J per output token")
    ax.set_title(f"{len(plans)} feasible plans: fast and frugal is bottom right")
    if y and max(y) > WIDE * min(y):
        # Deep pipelines burn several times the energy of the best: on a linear axis those would be one line.
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(ScalarFormatter())
    else:
        ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3, which="both")
    return ax


def attainment(ranked: Sequence[Evaluation], target: float, ax: Axes | None = None) -> Axes:
    """SLO attainment at each rate that was tested, a curve for the best plan of each (replicas, tp, pp).

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
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": 2} if own else {"loc": "best"}
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
    best: dict[tuple[int, int, int], Evaluation] = {}
    for evaluation in ranked:
        pool = evaluation.plan.pools[0]
        best.setdefault((pool.replicas, pool.tp, pool.pp), evaluation)
    return list(best.values())


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
