"""The seam of the metrics: one metric is one small entry, and tables, files and comparisons pick it up by
themselves.

An entry reads its value from a finished :class:`~apexsim.metrics.summary.Summary`. A file of
``apexsim.metrics`` names its entries in a tuple ``METRICS``; one line of the registry ("metrics") makes them
known. An outside package does the same with an entry point in the group ``apexsim.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from apexsim import registry
from apexsim.metrics.distribution import Distribution

if TYPE_CHECKING:  # the summary is made from the entries' files
    from apexsim.metrics.summary import Summary

Direction = Literal["up", "down", "none"]
Value = Distribution | float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that a simulation is measured by.

    Attributes:
        tag: short name, unique among all metrics; a distribution ``ttft`` gives ``ttft_p99`` in flat tables.
        title: what a table calls it, a few words.
        unit: SI unit of the value ("s", "J/token"), "share" (of 1) or "count".
        better: which direction is an improvement; "none" for a description.
        read: the value in a summary; None where it is undefined.
    """

    tag: str
    title: str
    unit: str
    better: Direction
    read: Callable[[Summary], Value]

    def flat(self, summary: Summary) -> dict[str, float | None]:
        """The value as columns of a table: one for a number, one for each statistic of a distribution."""
        value = self.read(summary)
        if isinstance(value, Distribution):
            return {f"{self.tag}_{name}": getattr(value, name) for name in Distribution.__slots__}
        return {self.tag: value}


def metrics() -> tuple[Metric, ...]:
    """Every registered metric, in the order of the registry: built-in ones first."""
    return tuple(metric for name in registry.names("metrics") for metric in registry.load("metrics", name))
