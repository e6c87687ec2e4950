"""What a search can look for, as data: how to read it off an evaluation, and off the bounds of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from apexsim.errors import UsageError, unknown_name
from apexsim.metrics.cost import MILLION
from apexsim.metrics.energy import JOULES_PER_KWH
from apexsim.search.outcome import Bounds, Evaluation


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing to make as large (``highest_wins``) or as small as possible.

    ``value`` may be None where the figure is undefined (no price is known); such plans come last.
    ``bound`` is never worse than the value that a replay of the same plan gives. A person reads both times
    ``scale``, in ``unit``.
    """

    name: str
    label: str
    unit: str
    highest_wins: bool
    value: Callable[[Evaluation], float | None]
    bound: Callable[[Bounds], float | None]
    scale: float = 1.0

    def loss(self, value: float | None) -> float:
        """What to make small."""
        return loss(value, self.highest_wins)


def loss(value: float | None, highest_wins: bool) -> float:
    """The value with its sign turned so that smaller is better; infinite where there is none."""
    if value is None:
        return float("inf")
    return -value if highest_wins else value


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("goodput", "goodput", "req/s", True,
                  lambda e: e.goodput_rps, lambda b: b.goodput_rps),
        Objective("attainment", "SLO attainment", "share", True,
                  lambda e: e.summary["slo"]["attainment"], lambda b: b.attainment),
        Objective("energy", "energy at goodput", "J/output token", False,
                  lambda e: e.at_goodput["j_per_output_token"], lambda b: b.j_per_output_token),
        Objective("cost", "cost at goodput", "USD/M output tokens", False,
                  lambda e: e.at_goodput["usd_per_million_output_tokens"],
                  lambda b: b.usd_per_million_output_tokens),
        Objective("latency", "median E2E", "s", False,
                  lambda e: e.summary["e2e_s"]["p50"], lambda b: b.latency_s),
        # grams = joules × a constant intensity: the order, and so the search, is that of energy
        Objective("carbon", "carbon at goodput", "g CO2e/M output tokens", False,
                  lambda e: e.at_goodput["j_per_output_token"], lambda b: b.j_per_output_token),
    )
}


def grams_per_million_tokens(g_co2e_per_kwh: float) -> float:
    """g CO2e per million tokens, for each joule per token."""
    return g_co2e_per_kwh * MILLION / JOULES_PER_KWH


def objective_named(name: str, g_co2e_per_kwh: float | None = None) -> Objective:
    """The objective of that name; the intensity of the electricity is the scale of ``carbon``.

    Raises:
        UsageError: nobody knows the name.
    """
    if name not in OBJECTIVES:
        raise UsageError(unknown_name("objective", name, OBJECTIVES))
    objective = OBJECTIVES[name]
    if name == "carbon" and g_co2e_per_kwh is not None:
        return replace(objective, scale=grams_per_million_tokens(g_co2e_per_kwh))
    return objective


def order(evaluation: Evaluation, objective: Objective) -> tuple[float, float, float, str]:
    """The sort key of a ranking: the objective, then goodput, then goodput per device, then the plan's id."""
    return (
        objective.loss(objective.value(evaluation)),
        -evaluation.goodput_rps,
        -evaluation.goodput_rps_per_device,
        evaluation.id,
    )
