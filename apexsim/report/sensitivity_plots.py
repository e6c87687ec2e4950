"""The tornado of a search: what each change does to the best plan, and to its lead."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from apexsim.search.sensitivity import CHANGES, Change, Choice, Sensitivity, What

LESS, MORE, GONE = "#7570b3", "#e6ab02", "#d95f02"
HALF = 0.36
"""Height of a bar; the two of a pair lie one over the other."""

LABEL = 0.24
"""Room for what is written at the end of a bar, as a share of the width."""

EDGE = 0.04
"""Room beyond the line of the limit, as a share of the width."""

SAME = 1e-3
"""Values that differ by less than this share of the base have bars of no length: both are named on the right."""


def tornado(found: Sensitivity, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Left the headroom of the best plan, right its lead over the best of the others; widest pair of bars on top."""
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")[1]
    left, right = axes
    cases = {case.change: case for case in found.of(found.plans[0])}
    base = cases[None].headroom
    headroom = {change: cases[change].headroom for change in CHANGES}
    order = sorted(dict.fromkeys(change.what for change in CHANGES), key=lambda what: _spread(headroom, what))
    _bars(left, order, headroom, base, 1.0, "{:.2f}")
    left.set_xlabel("headroom: goodput ÷ offered rate (below 1: too much load)")
    left.set_title(f"{found.plans[0]}", fontsize=10)
    _lead(right, order, found.choices)
    return axes


def _spread(values: dict[Change, float], what: What) -> float:
    of_it = [value for change, value in values.items() if change.what == what]
    return max(of_it) - min(of_it)


def _bars(
    ax: Axes, order: Sequence[What], values: dict[Change, float], base: float, limit: float, form: str
) -> None:
    """A bar for each change from the base to its value, the larger factor above; a dotted line at the ``limit``."""
    for row, what in enumerate(order):
        for change in (change for change in CHANGES if change.what == what):
            if change not in values:
                continue
            more, value = change.factor > 1, values[change]
            place = row + (HALF / 2 if more else -HALF / 2)
            ax.barh(place, value - base, left=base, height=HALF, color=MORE if more else LESS)
            words = f"{100 * (change.factor - 1):+.0f} %: {form.format(value)}"
            right = value >= base - SAME * max(abs(base), 1.0)
            ax.annotate(
                words, (value, place), xytext=(4 if right else -4, 0), textcoords="offset points",
                va="center", ha="left" if right else "right", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
    ax.axvline(base, color="black", linewidth=0.8)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(-0.5, len(order) - 0.5)  # also where a bar is missing
    ax.axvline(limit, color=GONE, linewidth=1, linestyle=":")
    ax.set_xlim(*_ends(min(base, *values.values()), max(base, *values.values()), limit))
    ax.grid(alpha=0.3, axis="x")
    ax.set_axisbelow(True)


def _ends(low: float, high: float, limit: float) -> tuple[float, float]:
    """From where to where an axis goes: bars from ``low`` to ``high`` with their names, and the line at ``limit``."""
    span = max(high - low, 1e-9)
    inside = span / (1 - 2 * LABEL)
    beyond = max(high - limit, limit - low) / (1 - LABEL - EDGE)
    width = max(inside, beyond)
    return min(low - LABEL * width, limit - EDGE * width), max(high + LABEL * width, limit + EDGE * width)


def _lead(ax: Axes, order: Sequence[What], choices: Sequence[Choice]) -> None:
    """The same bars for the lead in per cent; a change under which there is none is said in words."""
    leads = {choice.change: 100 * choice.lead for choice in choices if choice.change and choice.lead is not None}
    base = next((100 * choice.lead for choice in choices if choice.change is None and choice.lead is not None), None)
    if base is None:
        ax.text(0.5, 0.5, "no other plan to compare with", ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    _bars(ax, order, leads, base, 0.0, "{:+.1f} %")
    ax.set_xlabel("lead over the best other plan, % (below 0: no longer the best)")
    gone = [c for c in choices if c.change is not None and c.lead is None]
    if gone:
        words = ", ".join(c.change.words for c in gone if c.change)
        ax.set_title(f"no lead to draw (SLO missed): {words}", fontsize=9)
    else:
        ax.set_title("is it still the best?", fontsize=10)
