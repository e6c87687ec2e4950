"""The figures of a plan, as data: what a search can look for, and what a Pareto front can weigh against what.

One table for both: an objective is a figure, and so is each axis of the front. A new figure is one entry here, and what
``values.py`` (its draws) and ``race.py`` (its trials) make of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from apexsim.errors import UsageError, unknown_name
from apexsim.metrics.cost import MILLION
from apexsim.metrics.energy import JOULES_PER_KWH
from apexsim.search.outcome import Bounds, Evaluation

ReadAt = Literal["goodput", "rate", "plan"]
"""Where a figure is read: on the replay at goodput, on the one at the search's rate, off the plan itself."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing to make as large (``highest_wins``) or as small as possible.

    ``value`` may be None where the figure is undefined (no price is known); such plans come last.
    ``bound`` is never worse than the value that a replay of the same plan, of so many devices, gives. A person reads
    both times ``scale``, in ``unit``.
    """

    name: str
    label: str
    unit: str
    highest_wins: bool
    read_at: ReadAt
    value: Callable[[Evaluation], float | None]
    bound: Callable[[Bounds, int], float | None]
    scale: float = 1.0

    def loss(self, value: float | None) -> float:
        """What to make small: the value with its sign turned where more is better; infinite where there is none."""
        if value is None:
            return float("inf")
        return -value if self.highest_wins else value

    @property
    def caption(self) -> str:
        """Label and unit, as over a column or beside an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("goodput", "goodput", "req/s", True, "goodput",
               lambda e: e.goodput_rps, lambda b, devices: b.goodput_rps),
        Figure("goodput-per-device", "goodput per device", "req/s", True, "goodput",
               lambda e: e.goodput_rps_per_device, lambda b, devices: b.goodput_rps / devices),
        Figure("attainment", "SLO attainment", "share", True, "rate",
               lambda e: e.summary["slo"]["attainment"], lambda b, devices: b.attainment),
        Figure("energy", "energy at goodput", "J/output token", False, "goodput",
               lambda e: e.at_goodput["j_per_output_token"], lambda b, devices: b.j_per_output_token),
        Figure("cost", "cost at goodput", "USD/M output tokens", False, "goodput",
               lambda e: e.at_goodput["usd_per_million_output_tokens"],
               lambda b, devices: b.usd_per_million_output_tokens),
        Figure("latency", "median E2E", "s", False, "rate",
               lambda e: e.summary["e2e_s"]["p50"], lambda b, devices: b.latency_s),
        # grams = joules × a constant intensity: the order, and so the search, is that of energy
        Figure("carbon", "carbon at goodput", "g CO2e/M output tokens", False, "goodput",
               lambda e: e.at_goodput["j_per_output_token"], lambda b, devices: b.j_per_output_token),
        Figure("devices", "number of devices", "", False, "plan",
               lambda e: float(e.plan.devices), lambda b, devices: float(devices)),
    )
}


def grams_per_million_tokens(g_co2e_per_kwh: float) -> float:
    """g CO2e per million tokens, for each joule per token."""
    return g_co2e_per_kwh * MILLION / JOULES_PER_KWH


def figure_named(name: str, g_co2e_per_kwh: float | None = None, what: str = "objective") -> Figure:
    """The figure of that name; the intensity of the electricity is the scale of ``carbon``.

    Args:
        what: an error calls it so.

    Raises:
        UsageError: nobody knows the name.
    """
    if name not in FIGURES:
        raise UsageError(unknown_name(what, name, FIGURES))
    figure = FIGURES[name]
    if name == "carbon" and g_co2e_per_kwh is not None:
        return replace(figure, scale=grams_per_million_tokens(g_co2e_per_kwh))
    return figure


def order(evaluation: Evaluation, objective: Figure) -> tuple[float, float, float, str]:
    """The sort key of a ranking: the objective, then goodput, then goodput per device, then the plan's id."""
    return (
        objective.loss(objective.value(evaluation)),
        -evaluation.goodput_rps,
        -evaluation.goodput_rps_per_device,
        evaluation.id,
    )
