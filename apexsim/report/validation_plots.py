"""Measured against simulated, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from apexsim.report.scales import plain_log
from apexsim.report.validation_tables import FEW_RUNS, HEADLINE, unit_of
from apexsim.validation.simulate import Outcome

BAND = 0.10
"""Dashed lines: so far above and below the measured value."""

COLUMNS = 3


def scatter(outcomes: Sequence[Outcome]) -> Figure:
    """One panel a metric on logarithmic axes, one colour a set; the diagonal, and dashed lines at ± 10 %.

    The headline metrics that were measured are drawn; where none of them was, every metric.
    """
    measured = list(dict.fromkeys(column for outcome in outcomes for column in outcome.metrics))
    panels = [column for column in HEADLINE if column in measured] or measured
    columns = 2 if len(panels) == 4 else min(COLUMNS, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.8 * rows), squeeze=False, layout="constrained"
    )
    sets = list(dict.fromkeys(outcome.set for outcome in outcomes))
    colors = {name: f"C{index % 10}" for index, name in enumerate(sets)}
    for ax, column in zip(axes.flat, panels, strict=False):
        _panel(ax, column, outcomes, colors)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    handles = [Line2D([], [], marker="o", linestyle="", color=colors[name], label=name) for name in sets]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
    return figure


def _panel(ax: Axes, column: str, outcomes: Sequence[Outcome], colors: dict[str, str]) -> None:
    seen: list[float] = []
    for name, color in colors.items():
        found = (o.metrics[column] for o in outcomes if o.set == name and column in o.metrics)
        pairs = [(c.measured, c.simulated) for c in found if c.simulated is not None and c.simulated > 0]
        if pairs:
            measured, simulated = zip(*pairs, strict=True)
            few = len(outcomes) <= FEW_RUNS
            ax.scatter(measured, simulated, s=30 if few else 10, alpha=0.6, color=color, linewidths=0)
            seen += [value for pair in pairs for value in pair]
    ax.set_title(column)
    if not seen:
        ax.text(0.5, 0.5, "no values", ha="center", transform=ax.transAxes)
        return
    ends = np.array([min(seen) / 1.2, max(seen) * 1.2])
    ax.plot(ends, ends, color="black", linewidth=0.8)
    for factor in (1 - BAND, 1 + BAND):
        ax.plot(ends, ends * factor, color="black", linewidth=0.8, linestyle="--")
    plain_log(ax, "x", *ends)
    plain_log(ax, "y", *ends)
    ax.set_xlabel(f"measured, {unit_of(column)}")
    ax.set_ylabel(f"simulated, {unit_of(column)}")
    ax.grid(alpha=0.3, which="both")
