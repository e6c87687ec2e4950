"""Pictures that a person can read: no name beyond the edge, no ticks that touch, the part that matters in sight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes

from apexsim.report.scales import plain_log
from apexsim.report.search_plots import attainment
from apexsim.report.sensitivity_plots import tornado
from apexsim.search.sensitivity import CHANGES, Case, Choice


@pytest.fixture(autouse=True)
def _close_pictures():
    yield
    plt.close("all")


@dataclass(frozen=True)
class Plotted:
    """What the picture of goodputs reads of an evaluation."""

    id: str
    goodput_rps: float
    tested: tuple[tuple[float, float], ...]
    tp: int = 1
    censored: bool = False

    @property
    def plan(self) -> Any:
        return SimpleNamespace(pools=[SimpleNamespace(replicas=1, tp=self.tp, pp=1)])


FOUND = (
    Plotted("one", 20.0, ((1.0, 1.0), (18.0, 0.99), (20.0, 0.91), (21.0, 0.85), (160.0, 0.0))),
    Plotted("two", 10.0, ((9.0, 0.99), (10.5, 0.2), (80.0, 0.0)), tp=2),
)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
def test_the_goodputs_fill_the_picture(target):
    ax = attainment(FOUND, target)
    left, right = ax.get_xlim()
    assert left > 5.0
    assert right < 25.0
    bottom, top = ax.get_ylim()
    assert 0 <= bottom < target <= 1.0 < top < 1.2
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == ["one: 20", "two: 10"]


def test_long_names_stay_inside_the_picture():
    long = replace(FOUND[0], id="prefill-1xtp1-fp8-kvfp8-t8192-s128 + decode-1xtp1-fp8-kvfp8-t8192-s256 via early")
    figure = attainment((long, FOUND[1]), 0.9).figure
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1


def test_a_picture_of_no_plans_is_one():
    assert attainment((), 0.9).get_title() == "Goodput: where attainment falls below 90%"


def test_given_axes_get_their_legend_inside():
    mine = plt.subplots()[1]
    assert attainment(FOUND, 0.9, mine) is mine
    assert mine.get_legend() is not None


def inside(ax: Axes) -> bool:
    """Whether every name at a bar lies within the frame."""
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in ax.texts]
    return all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def sensitivity(headroom: list[float], lead: list[float | None]) -> Any:
    changes = (None, *CHANGES)
    cases = [
        Case("4xtp2", change, 0.95, True, value, False, value, value)
        for change, value in zip(changes, headroom, strict=True)
    ]
    choices = [Choice(change, "4xtp2", value) for change, value in zip(changes, lead, strict=True)]
    return SimpleNamespace(plans=("4xtp2",), of=lambda plan: cases, choices=choices)


@pytest.mark.parametrize(
    ("headroom", "lead"),
    [
        ([9.3, 11.6, 7.7, 10.6, 8.2, 9.7, 8.7], [0.03, 0.03, 0.03, 0.03, 0.03, 0.03, 0.041]),
        ([1.0, 1.3, 0.7, 1.2, 0.8, 1.0, 0.9], [0.067, -0.2, None, 0.05, -0.04, 0.13, -0.12]),
        ([0.4, 0.3, 0.31, 0.32, 0.33, 0.34, 0.35], [None] * 7),
        ([2.0] * 7, [0.1] * 7),
    ],
)
def test_every_bar_of_a_tornado_is_named_within_its_frame(headroom, lead):
    left, right = tornado(sensitivity(headroom, lead))
    assert len(left.texts) == 6
    assert inside(left)
    assert left.get_xlim()[0] < 1.0 < left.get_xlim()[1]
    if lead[0] is not None:
        assert inside(right)
        assert right.get_ylim() == left.get_ylim()


@pytest.mark.parametrize(
    ("low", "high"), [(2700, 5300), (0.008, 0.014), (0.02, 0.21), (0.01, 3.0), (1, 9), (0.001, 1000), (5, 5)]
)
@pytest.mark.parametrize("width", [3.0, 7.0])
def test_numbers_of_a_logarithmic_axis_do_not_touch(low, high, width):
    ax = plt.subplots(figsize=(width, 2.5), layout="constrained")[1]
    ax.plot([low, high], [1, 2])
    plain_log(ax, "x", low, high)
    ax.figure.draw_without_rendering()
    shown = [tick for tick in ax.get_xticklabels() if tick.get_text()]
    left, right = ax.get_xlim()
    boxes = [tick.get_window_extent() for tick in shown if left <= tick.get_position()[0] <= right]
    assert low == high or len(boxes) >= 2
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert not any("^" in tick.get_text() for tick in shown)
