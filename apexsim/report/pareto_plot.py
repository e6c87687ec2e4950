"""The picture of a Pareto front: plans as dots, the first axis to the right, another one upwards, the front ringed.

    the usual axes    goodput per device and energy; the colour is the number of devices
    two               one panel; the colour is the number of devices, where no axis is
    three             one panel; the colour is the third axis
    four and more     a panel for each axis but the first, side by side, all over the first one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from apexsim.report.scales import plain_log
from apexsim.search.figures import FIGURES, Figure
from apexsim.search.outcome import Evaluation
from apexsim.search.pareto import AXES
from apexsim.search.trade import scaled

RING = "#d95f02"
PLAIN = "#1f78b4"
WIDE = 5
"""Figures to make small that differ by more than this factor are drawn on a logarithmic axis."""

SIZE, PANEL = (7.0, 4.4), (5.0, 4.7)
"""Inches: of one picture, and of each of several panels."""

MOST_DOTS = 1000
"""More dots than this are pixels also in a drawing of lines, whose file would be many times as large."""

IN_A_ROW = 3
MOST_TICKS = 9
"""Numbers of devices that are each named, beside the colours or along an axis."""


def pareto(
    ranked: Sequence[Evaluation], front: Sequence[str], chosen: Sequence[Figure] = (), ax: Axes | None = None
) -> Axes:
    """Draw the front over the ``chosen`` axes, the usual ones where empty; returns the (first) panel.

    Into an ``ax`` that is given the first panel alone is drawn, and its title names the axes that are not in it.
    """
    x, *others = chosen or AXES[:2]
    if ax is None and len(others) > 2:
        return _panels(ranked, front, x, others)
    colour = others[1] if len(others) > 1 else FIGURES["devices"]
    panel = plt.subplots(figsize=SIZE, layout="constrained")[1] if ax is None else ax
    plans = _panel(panel, ranked, front, x, others[0], colour if colour.name not in (x.name, others[0].name) else None)
    left_out = [axis.label for axis in others[2:]]
    beside = f"; the front is also over {', '.join(left_out)}" if left_out else ""
    panel.set_title(f"{plans} feasible plans: {_corner(x, others[0])} is best{beside}")
    _legend(panel, own=ax is None)
    return panel


def _panels(ranked: Sequence[Evaluation], front: Sequence[str], x: Figure, others: Sequence[Figure]) -> Axes:
    """Every other axis over the first one; who is in the front may look beaten in one of them."""
    columns = 2 if len(others) == 4 else IN_A_ROW
    rows = -(-len(others) // columns)
    size = (PANEL[0] * columns, PANEL[1] * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for panel, y in zip(panels, others, strict=False):
        _panel(panel, ranked, front, x, y, None)
        panel.set_title(f"{_corner(x, y)} is best", fontsize=10)
    for panel in panels[len(others) :]:
        panel.set_axis_off()
    figure.suptitle(f"{len(ranked)} feasible plans; ringed: no plan beats them on all {len(others) + 1} axes")
    first: Axes = panels[0]
    _legend(first, own=True)
    return first


def _panel(
    ax: Axes, ranked: Sequence[Evaluation], front: Sequence[str], x: Figure, y: Figure, colour: Figure | None
) -> int:
    """The dots of the plans of which both figures are known, and rings around the front; returns how many."""
    known = [(a, b, e) for e in ranked if (a := scaled(x, e)) is not None and (b := scaled(y, e)) is not None]
    if known:
        _dots(ax, known, colour)
    best = [(a, b, e) for a, b, e in known if e.id in front]
    if best:
        ax.scatter([a for a, _, _ in best], [b for _, b, _ in best], s=90, facecolors="none", edgecolors=RING,
                   linewidths=1.6, label=f"Pareto front ({len(best)})", rasterized=len(best) > MOST_DOTS)  # fmt: skip
        ax.scatter(*best[0][:2], s=26, c=RING, linewidths=0, label=best[0][2].id.replace(" + ", "\n+ "))
    ax.set_xlabel(_in_words(x))
    ax.set_ylabel(_in_words(y))
    _stretch(ax, "x", x, [a for a, _, _ in known])
    _stretch(ax, "y", y, [b for _, b, _ in known])
    ax.grid(alpha=0.3, which="both")
    return len(known)


def _legend(ax: Axes, *, own: bool) -> None:
    """Below the picture, where names of plans have room; inside ``ax`` where the picture is somebody else's."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    if own:
        ax.figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=len(handles))
    else:
        ax.legend(handles, labels, frameon=False, fontsize=8, loc="best")


def _dots(ax: Axes, known: Sequence[tuple[float, float, Evaluation]], colour: Figure | None) -> None:
    x, y, many = [a for a, _, _ in known], [b for _, b, _ in known], len(known) > MOST_DOTS
    values = [] if colour is None else [value for _, _, e in known if (value := scaled(colour, e)) is not None]
    # a colour that some plans have no value of would hide them, and one that all share says nothing
    if colour is None or len(values) < len(known) or len(set(values)) == 1:
        ax.scatter(x, y, c=PLAIN, s=26, alpha=0.8, linewidths=0, rasterized=many)
        return
    best_is_dark = "viridis" if not colour.highest_wins and colour.name != "devices" else "viridis_r"
    dots = ax.scatter(x, y, c=values, cmap=best_is_dark, s=26, alpha=0.8, linewidths=0, rasterized=many)
    whole = sorted(set(values)) if colour.name == "devices" else []
    label = "devices of the plan" if colour.name == "devices" else _in_words(colour)
    ax.figure.colorbar(dots, ax=ax, label=label, ticks=whole if 0 < len(whole) <= MOST_TICKS else None)


def _stretch(ax: Axes, which: Literal["x", "y"], figure: Figure, values: Sequence[float]) -> None:
    """From 0 upwards, or logarithmic: deep pipelines burn several times the energy of the best, which on a linear axis
    would be one line. Goodputs and shares, of which more is better, stay as they lie."""
    if figure.highest_wins or not values:
        return
    axis = ax.xaxis if which == "x" else ax.yaxis
    if min(values) > 0 and max(values) > WIDE * min(values):
        plain_log(ax, which, min(values), max(values))
    elif which == "x":
        ax.set_xlim(left=0)
    else:
        ax.set_ylim(bottom=0)
    numbers = sorted(set(values))
    if figure.name == "devices" and len(numbers) <= MOST_TICKS:
        axis.set_major_locator(FixedLocator(numbers))
        axis.set_minor_locator(NullLocator())


def _corner(x: Figure, y: Figure) -> str:
    """Where the best of both would stand: ``bottom right``."""
    return f"{'top' if y.highest_wins else 'bottom'} {'right' if x.highest_wins else 'left'}"


def _in_words(figure: Figure) -> str:
    """``goodput per device, requests/s``: units as a picture has room for them."""
    unit = figure.unit.replace("req/s", "requests/s").replace("/output", " per output").replace("/M ", " per million ")
    return f"{figure.label}, {unit}" if unit else figure.label
