"""The roofline picture: what operators reach of a device, over how much they compute for each byte they move."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from apexsim.cost.explain import Explained
from apexsim.spec.hardware import HardwareProfile

COLORS = ("#1b9e77", "#d95f02", "#7570b3")
NAMED = 0.08
"""Operators with at least this share of their iteration carry their name."""


def plot(phases: Mapping[str, Explained], profile: HardwareProfile, ax: Axes | None = None) -> Axes:
    """FLOP/s over FLOP a byte, logarithmic; the area of a dot is the operator's share of its iteration."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    reached: list[float] = []
    for color, (phase, explained) in zip(COLORS, phases.items(), strict=False):
        for op in explained.operators:
            if not op.flops or not op.intensity:
                continue
            share, rate = op.seconds / explained.duration_s, op.flops / op.seconds
            ax.scatter(op.intensity, rate, s=20 + 600 * share, color=color, alpha=0.6, linewidths=0)
            reached.append(op.intensity)
            if share >= NAMED:
                ax.annotate(op.name, (op.intensity, rate), xytext=(6, -10), textcoords="offset points", fontsize=8)
        ax.scatter([], [], s=60, color=color, alpha=0.6, linewidths=0, label=phase)
    x = np.geomspace(min([*reached, 1.0]) / 2, max([*reached, 1000.0]) * 2, 200)
    for dtype, peak in sorted(profile.peak_flops.items(), key=lambda item: item[1]):
        roof = np.minimum(x * profile.memory_bandwidth, peak)
        ax.plot(x, roof, color="0.6", linewidth=0.9, zorder=0)
        ax.annotate(dtype, (x[-1], peak), xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7,
                    color="0.4")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="FLOP/s reached",
           title=f"{profile.name}: operators under the roofline (area: share of the iteration)")  # fmt: skip
    ax.legend(frameon=False, loc="lower right")
    ax.grid(alpha=0.3)
    return ax
