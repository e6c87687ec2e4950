"""The roofline picture: what operators reach of a device, over how much they compute for each byte they move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from apexsim.cost.explain import Explained, OperatorShare
from apexsim.spec.hardware import HardwareProfile

COLORS = ("#1b9e77", "#d95f02", "#7570b3")
NAMED, NEAR = 0.08, 0.2
"""Operators with at least this share of their iteration carry their name; dots within so many decades share a label."""


def plot(phases: Mapping[str, Explained], profile: HardwareProfile, ax: Axes | None = None) -> Axes:
    """FLOP/s over FLOP a byte, logarithmic; the area of a dot is the operator's share of its iteration."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    intensities = [1.0, 1000.0]
    for color, (phase, explained) in zip(COLORS, phases.items(), strict=False):
        dots = [op for op in explained.operators if op.flops and op.intensity]
        for op in dots:
            area = 20 + 600 * op.seconds / explained.duration_s
            ax.scatter(op.intensity or 0.0, op.flops / op.seconds, s=area, color=color, alpha=0.6, linewidths=0)
        _name(ax, [op for op in dots if op.seconds >= NAMED * explained.duration_s])
        ax.scatter([], [], s=60, color=color, alpha=0.6, linewidths=0, label=phase)
        intensities += [op.intensity or 1.0 for op in dots]
    _roofs(ax, profile, np.geomspace(min(intensities) / 2, max(intensities) * 4, 200))
    ax.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="FLOP/s reached",
           title=f"{profile.name}: operators under the roofline (area: share of the iteration)")  # fmt: skip
    ax.legend(frameon=False, loc="lower right")
    ax.grid(alpha=0.3)
    return ax


def _name(ax: Axes, operators: Sequence[OperatorShare]) -> None:
    """Names beside the dots; dots that lie nearly on each other share a label."""
    left = sorted(operators, key=lambda op: -op.seconds)
    while left:
        first = left[0]
        near = [op for op in left if _decades(first, op) < NEAR]
        at = (first.intensity or 0.0, first.flops / first.seconds)
        ax.annotate("\n".join(op.name for op in near), at, xytext=(11, -2), textcoords="offset points", fontsize=8,
                    va="center")  # fmt: skip
        left = [op for op in left if op not in near]


def _decades(one: OperatorShare, other: OperatorShare) -> float:
    ratios = (one.intensity or 1.0) / (other.intensity or 1.0), one.flops / one.seconds / other.flops * other.seconds
    return max(abs(math.log10(ratio)) for ratio in ratios)


def _roofs(ax: Axes, profile: HardwareProfile, x: NDArray[np.float64]) -> None:
    """One line for each peak, with the dtypes that have it."""
    for peak in sorted(set(profile.peak_flops.values())):
        dtypes = ", ".join(dtype for dtype, value in profile.peak_flops.items() if value == peak)
        ax.plot(x, np.minimum(x * profile.memory_bandwidth, peak), color="0.6", linewidth=0.9, zorder=0)
        ax.annotate(dtypes, (x[-1], peak), xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7,
                    color="0.4")  # fmt: skip
