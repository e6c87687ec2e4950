"""Where names of dots stand in a picture: beside their dot, where they cover least of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.patheffects as effects
from matplotlib.axes import Axes

SIZE = 8.0
"""Of the letters, points; a letter is about 0.6 as wide and a line 1.25 as high."""


class Dot(NamedTuple):
    """A dot in units of the axes, its area in square points, and its name (lines of it); "" has none."""

    x: float
    y: float
    area: float
    name: str = ""


class Box(NamedTuple):
    """A rectangle on the page, in points."""

    left: float
    bottom: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Square points that both cover."""
        wide = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        high = min(self.bottom + self.height, other.bottom + other.height) - max(self.bottom, other.bottom)
        return max(wide, 0.0) * max(high, 0.0)


def name_dots(ax: Axes, dots: Sequence[Dot], taken: Sequence[Box] = ()) -> None:
    """Write the names, the largest dot's first, each at the first of four sides where it covers least.

    The axes must have their scales and limits. ``taken`` is covered, too.
    """
    figure = ax.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]  # limits and layout are known only then
    points = 72.0 / figure.dpi
    frame = ax.get_window_extent()
    inside = Box(frame.x0 * points, frame.y0 * points, frame.width * points, frame.height * points)
    placed = [*taken, *(_around(ax, dot, points) for dot in dots)]
    for dot in sorted((dot for dot in dots if dot.name), key=lambda dot: -dot.area):
        own = _around(ax, dot, points)
        box = min(_sides(own, dot.name), key=lambda box: _covered(box, placed, inside))
        placed.append(box)
        ax.annotate(
            dot.name, (dot.x, dot.y), fontsize=SIZE, va="center", ha="left", textcoords="offset points",
            xytext=(box.left - own.left - own.width / 2, box.bottom + box.height / 2 - own.bottom - own.height / 2),
            path_effects=[effects.withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def text_box(ax: Axes, x: float, y: float, text: str, size: float) -> Box:
    """What a text covers whose lower right corner is at a point of the axes."""
    points = 72.0 / ax.figure.dpi
    right, bottom = ax.transData.transform((x, y)) * points
    width = 0.6 * size * len(text)
    return Box(float(right) - width, float(bottom), width, 1.25 * size)


def _around(ax: Axes, dot: Dot, points: float) -> Box:
    x, y = ax.transData.transform((dot.x, dot.y)) * points
    radius = math.sqrt(dot.area / math.pi)
    return Box(float(x) - radius, float(y) - radius, 2 * radius, 2 * radius)


def _sides(own: Box, name: str) -> list[Box]:
    """Right, left, above and below."""
    lines = name.split("\n")
    width, height, gap = 0.6 * SIZE * max(len(line) for line in lines), 1.25 * SIZE * len(lines), 3.0
    middle, centre = own.bottom + (own.height - height) / 2, own.left + (own.width - width) / 2
    return [
        Box(own.left + own.width + gap, middle, width, height),
        Box(own.left - gap - width, middle, width, height),
        Box(centre, own.bottom + own.height + gap / 2, width, height),
        Box(centre, own.bottom - gap / 2 - height, width, height),
    ]


def _covered(box: Box, placed: Sequence[Box], inside: Box) -> float:
    outside = box.width * box.height - box.overlap(inside)
    return 10 * outside + sum(box.overlap(other) for other in placed)
