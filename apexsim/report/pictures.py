"""A picture with its name and what it shows in words, as the bytes of a file. Drawn once, written in any format."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150

WIDE = 8.0
"""Inches."""

SAME_NAMES: dict[Any, Any] = {"svg.hashsalt": "apexsim", "svg.fonttype": "path"}
"""Names inside an SVG that hang on nothing but what is drawn; letters as outlines, so that no font is missing."""

NOTHING_OF_THE_DAY = {"Date": None, "Creator": None}


@dataclass(frozen=True, slots=True)
class Picture:
    """``file`` is its name in a folder of results; ``words`` say what it shows to who does not see it."""

    file: str
    title: str
    words: str
    ax: Axes

    @property
    def figure(self) -> Figure:
        """What is saved: the picture that ``ax`` is in."""
        figure = self.ax.get_figure(root=True)
        assert figure is not None
        return figure

    @property
    def wide(self) -> bool:
        """Whether it has several panels side by side, which need the whole width of a page."""
        return bool(self.figure.get_figwidth() > WIDE)

    def png(self) -> bytes:
        """For a folder, a slide or a notebook; white paper."""
        return _saved(self.figure, format="png", dpi=DPI, metadata={"Software": ""})

    def svg(self) -> bytes:
        """For a page: sharp at any size, no paper of its own."""
        with mpl.rc_context(SAME_NAMES):
            return _saved(self.figure, format="svg", metadata=NOTHING_OF_THE_DAY, transparent=True)


def _saved(figure: Figure, **how: Any) -> bytes:
    if figure.get_layout_engine() is not None:
        # once for all formats: it is the longer half of saving, and both show the same
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, **how)
    return buffer.getvalue()


def close(pictures: tuple[Picture, ...]) -> None:
    """Forget the figures, which pyplot would keep."""
    for picture in pictures:
        plt.close(picture.figure)
