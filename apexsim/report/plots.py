"""Pictures of one run and of two. Every function draws into the Axes that it is given, or into new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apexsim.engine.result import RequestColumns, SimulationResult
from apexsim.metrics.latency import Latencies, latencies
from apexsim.report.scales import plain_log

if TYPE_CHECKING:
    from apexsim.metrics.compare import Change
    from apexsim.spec.slo import SLO

WAITING, RUNNING, LIMIT = "#d95f02", "#1b9e77", "#666666"
MOST_POINTS = 2000
"""A curve of more points than the picture has pixels only makes the file large."""


def latency(values: Latencies, slo: SLO | None) -> Figure:
    """Three panels: share of requests up to each TTFT, TPOT and E2E; dashed where the SLO has a limit."""
    panels = (("ttft", "TTFT", values.ttft_s), ("tpot", "TPOT", values.tpot_s), ("e2e", "E2E", values.e2e_s))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    limits = {limit.metric: limit.seconds for limit in slo.limits} if slo else {}
    for ax, (metric, title, seconds) in zip(axes, panels, strict=True):
        _cumulative(ax, seconds[~np.isnan(seconds)])
        if metric in limits:
            ax.axvline(limits[metric], color=LIMIT, linestyle="--", label=f"limit {limits[metric]:g} s")
            # the line of a limit may run through it
            ax.legend(facecolor="white", edgecolor="none", framealpha=0.9, loc="lower right")
        ax.set_title(title)
        ax.set_xlabel("seconds")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("share of requests")
    return figure


def overlaid_latency(runs: Mapping[str, SimulationResult], metric: str, ax: Axes | None = None) -> Axes:
    """Share of requests up to each value of one latency, a curve for each run."""
    ax = _axes(ax, (6, 3.5))
    for (name, result), color in zip(runs.items(), (LIMIT, RUNNING), strict=True):
        seconds = getattr(latencies(result.requests), f"{metric}_s")
        _cumulative(ax, seconds[~np.isnan(seconds)], color, name)
    ax.set_title(metric.replace("_", " ").upper())
    ax.set_xlabel("seconds")
    ax.set_ylabel("share of requests")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="lower right")
    return ax


def timeline(requests: RequestColumns, ax: Axes | None = None) -> Axes:
    """Requests that wait (arrived, not started) and that run (started, not finished), stacked over time."""
    ax = _axes(ax, (9, 3.2))
    began = ~np.isnan(requests.start_s)
    first = requests.arrival_s[0]
    ends = np.concatenate([requests.finish_s[began], requests.arrival_s])
    at = np.linspace(first, np.nanmax(ends), MOST_POINTS)
    arrived = _count_until(requests.arrival_s[began], at)
    started = _count_until(requests.start_s[began], at)
    finished = _count_until(requests.finish_s[began], at)
    ax.stackplot(
        at - first, started - finished, arrived - started, labels=("running", "waiting"),
        colors=(RUNNING, WAITING), step="post",
    )
    ax.set_title("Requests that run and that wait")
    ax.set_xlabel("seconds since the first arrival")
    ax.set_ylabel("requests")
    ax.set_xlim(0, at[-1] - first)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="upper left", ncols=2)
    return ax


def breakdown(seconds: Mapping[str, float], ax: Axes | None = None) -> Axes:
    """One bar a part, as a share of all replicas' time."""
    ax = _axes(ax, (7, 2.8))
    total = sum(seconds.values()) or 1.0
    parts, shares = list(seconds), [100 * value / total for value in seconds.values()]
    bars = ax.barh(parts, shares, color=[LIMIT if part == "idle" else RUNNING for part in parts])
    ax.bar_label(bars, fmt="%.1f %%", padding=3)
    ax.invert_yaxis()
    ax.set_xlim(0, max([*shares, 1.0]) * 1.15)
    ax.set_title("Where the replicas' time goes")
    ax.set_xlabel("share of all replicas' time, %")
    return ax


def changes(rows: tuple[Change, ...], before: str, after: str, ax: Axes | None = None) -> Axes:
    """Relative change of each metric; green is better by the metric's own direction, orange worse."""
    drawn = [row for row in rows if row.relative is not None]
    ax = _axes(ax, (8, 0.9 + 0.3 * len(drawn)))
    colors = {"better": RUNNING, "worse": WAITING}
    bars = ax.barh(
        [row.title for row in drawn], [100 * (row.relative or 0.0) for row in drawn],
        color=[colors.get(row.verdict, LIMIT) for row in drawn],
    )
    ax.bar_label(bars, fmt="%+.1f %%", padding=3)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.margins(x=0.18)
    ax.set_xlabel(f"change from {before} to {after}, %  (green: better, orange: worse)")
    return ax


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _cumulative(ax: Axes, seconds: NDArray[np.float64], color: str = RUNNING, label: str | None = None) -> None:
    if len(seconds) == 0:
        ax.text(0.5, 0.5, "no values", ha="center", transform=ax.transAxes)
        return
    shares = np.linspace(0, 1, min(len(seconds), MOST_POINTS))
    ax.plot(np.quantile(seconds, shares), shares, color=color, label=label)
    ax.set_ylim(0, 1.02)
    if seconds.max() > 20 * max(np.median(seconds), 1e-9):
        plain_log(ax, "x", max(float(seconds.min()), 1e-9), float(seconds.max()))


def _count_until(instants: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many instants have passed at each time; NaN never passes."""
    return np.searchsorted(np.sort(instants), at, side="right")
