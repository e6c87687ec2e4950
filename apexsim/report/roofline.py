"""The roofline picture: what operators reach of a device, over how much they compute for each byte they move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from apexsim.cost.explain import Explained, OperatorShare
from apexsim.report.labels import Box, Dot, name_dots, text_box
from apexsim.spec.hardware import HardwareProfile

COLORS = ("#1b9e77", "#d95f02", "#7570b3")
NAMED, NEAR = 0.08, 0.2
"""Operators with at least this share of their iteration carry their name; dots within so many decades share a label."""


def plot(phases: Mapping[str, Explained], profile: HardwareProfile, ax: Axes | None = None) -> Axes:
    """FLOP/s over FLOP a byte, logarithmic; the area of a dot is the operator's share of its iteration."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    dots = {phase: [op for op in explained.operators if op.flops and op.intensity and op.seconds]
            for phase, explained in phases.items()}  # fmt: skip
    named: list[Dot] = []
    for color, (phase, explained) in zip(COLORS, phases.items(), strict=False):
        found = _dots(dots[phase], explained.duration_s)
        ax.scatter([dot.x for dot in found], [dot.y for dot in found], s=[dot.area for dot in found], color=color,
                   alpha=0.6, linewidths=0)  # fmt: skip
        ax.scatter([], [], s=60, color=color, alpha=0.6, linewidths=0, label=phase)
        named += found
    intensities = [1.0, 1000.0, *(dot.x for dot in named)]
    ax.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="FLOP/s reached",
           title=f"{profile.name}: operators under the roofline (area: share of the iteration)")  # fmt: skip
    taken = _roofs(ax, profile, np.geomspace(min(intensities) / 2, max(intensities) * 4, 200))
    ax.legend(frameon=False, loc="lower right")
    ax.grid(alpha=0.3)
    name_dots(ax, named, taken)
    return ax


def _dots(operators: Sequence[OperatorShare], duration_s: float) -> list[Dot]:
    """A dot an operator; of those with a name that lie nearly on each other the largest has the names of all."""
    names: dict[str, str] = {}
    left = sorted((op for op in operators if op.seconds >= NAMED * duration_s), key=lambda op: -op.seconds)
    while left:
        near = [op for op in left if _decades(left[0], op) < NEAR]
        names[left[0].name] = "\n".join(op.name for op in near)
        left = [op for op in left if op not in near]
    return [
        Dot(op.intensity or 0.0, op.flops / op.seconds, 20 + 600 * op.seconds / duration_s, names.get(op.name, ""))
        for op in operators
    ]


def _decades(one: OperatorShare, other: OperatorShare) -> float:
    ratios = (one.intensity or 1.0) / (other.intensity or 1.0), one.flops / one.seconds / other.flops * other.seconds
    return max(abs(math.log10(ratio)) for ratio in ratios)


def _roofs(ax: Axes, profile: HardwareProfile, x: NDArray[np.float64]) -> list[Box]:
    """One line for each peak, with the dtypes that have it; what their names cover."""
    ends = {}
    for peak in sorted(set(profile.peak_flops.values())):
        dtypes = ", ".join(dtype for dtype, value in profile.peak_flops.items() if value == peak)
        ax.plot(x, np.minimum(x * profile.memory_bandwidth, peak), color="0.6", linewidth=0.9, zorder=0)
        ax.annotate(dtypes, (x[-1], peak), xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7,
                    color="0.4")  # fmt: skip
        ends[dtypes] = peak
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # the limits are known only then
    return [text_box(ax, float(x[-1]), peak, dtypes, 7) for dtypes, peak in ends.items()]
