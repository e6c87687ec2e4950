"""Logarithmic axes with numbers as a person writes them, as many as fit beside each other."""

from __future__ import annotations

import math
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

LITTLE, MUCH = 0.8, 2.2
"""Decades: below, a round step apart as on a linear axis; above, powers of ten alone."""


def plain_log(ax: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic over values from ``low`` to ``high``; its limits stay what they are."""
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    decades = math.log10(high / low) if 0 < low < high else 0.0
    if decades < LITTLE:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    elif decades < MUCH:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(LogLocator(subs=tuple(range(1, 10))))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(StrMethodFormatter(""))
