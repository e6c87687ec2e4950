"""Two runs side by side, metric by metric, each judged by its own direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apexsim.metrics.metric import Direction, metrics
from apexsim.metrics.summary import Summary

Verdict = Literal["better", "worse", "same", "changed", "unknown"]


SAME = 0.0005
"""A smaller relative change is none: it would be printed as 0.0 %."""


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of a base run and of another.

    ``relative`` is other / base − 1, None where either is undefined or the base is 0. The verdict is
    ``same`` below ``SAME``, ``changed`` for a metric without a direction, ``unknown`` where a value is undefined.
    """

    tag: str
    title: str
    unit: str
    better: Direction
    base: float | None
    other: float | None
    relative: float | None
    verdict: Verdict


def compare(base: Summary, other: Summary) -> tuple[Change, ...]:
    """Every registered metric of both runs; a distribution gives one row for each of its statistics."""
    changes = []
    for metric in metrics():
        before, after = metric.flat(base), metric.flat(other)
        for tag, value in before.items():
            statistic = tag.removeprefix(metric.tag).replace("_", " ")
            title = metric.title + statistic
            changes.append(compare_values(tag, title, metric.unit, metric.better, value, after[tag]))
    return tuple(changes)


def compare_values(
    tag: str, title: str, unit: str, better: Direction, base: float | None, other: float | None
) -> Change:
    """One value of both runs; None where a run does not define it."""
    if base is None or other is None:
        return Change(tag, title, unit, better, base, other, None, "unknown")
    relative = other / base - 1 if base else None
    difference = 0.0 if relative is not None and abs(relative) < SAME else other - base
    return Change(tag, title, unit, better, base, other, relative, _verdict(difference, better))


def _verdict(difference: float, better: Direction) -> Verdict:
    if difference == 0:
        return "same"
    if better == "none":
        return "changed"
    return "better" if (difference > 0) == (better == "up") else "worse"
