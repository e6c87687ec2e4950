"""Two runs side by side, metric by metric, each judged by its own direction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from apexsim.metrics.metric import Direction, metrics
from apexsim.metrics.summary import Summary

Verdict = Literal["better", "worse", "same", "tied", "changed", "unknown"]


SAME = 0.0005
"""A smaller relative change is none: it would be printed as 0.0 %."""


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of a base run and of another.

    ``relative`` is other / base − 1, None where either is undefined or the base is 0. The verdict is
    ``same`` below ``SAME``, ``changed`` for a metric without a direction, ``unknown`` where a value is undefined,
    ``tied`` where the difference may as well be nothing: ``interval``, that of other − base, holds 0.
    """

    tag: str
    title: str
    unit: str
    better: Direction
    base: float | None
    other: float | None
    relative: float | None
    verdict: Verdict
    interval: tuple[float, float] | None = None  # None where none is known


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


def with_intervals(
    changes: Iterable[Change], intervals: Mapping[str, tuple[float, float]]
) -> tuple[Change, ...]:
    """The changes with the intervals of their differences, by tag; who is better only by chance is tied."""
    found = []
    for change in changes:
        interval = intervals.get(change.tag) if change.base is not None and change.other is not None else None
        if interval is not None:
            by_chance = interval[0] <= 0.0 <= interval[1] and change.verdict in ("better", "worse")
            change = replace(change, interval=interval, verdict="tied" if by_chance else change.verdict)
        found.append(change)
    return tuple(found)


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
