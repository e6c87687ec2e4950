"""What a race looks for: the best plan by each of a few figures.

The objective, what is always shown beside it, and the ends of the Pareto front. Carbon is energy times a constant, and
where all devices cost the same, cost is goodput per device turned over: then they are no goals of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from apexsim.search.figures import FIGURES, Figure
from apexsim.search.outcome import Bounds, Evaluation
from apexsim.search.pareto import AXES, Axes
from apexsim.spec.plan import Plan

AT_OWN_RATE = ("latency", "attainment", "devices")
"""Kinds of goals that are compared at the search's rate, the others under load."""

Weight = Callable[[Plan], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a plan may be best at.

    Attributes:
        value, bound: of a replayed plan, and the best that one can reach; smaller is better.
        weight: of a goal that is a goodput over something: that something of a plan. None for others.
        kind: what a trial compares: "goodput", "energy", "latency" or "attainment"; of "devices" whether a plan meets
            the SLO at all.
    """

    name: str
    kind: str
    value: Callable[[Evaluation], float]
    bound: Callable[[Bounds, Plan], float]
    weight: Weight | None = None


def goals_of(objective: Figure, axes: Axes = AXES, usd_per_hour: Weight | None = None) -> tuple[Goal, ...]:
    """The goals, each once.

    Args:
        usd_per_hour: of a plan, where devices differ in price.
    """
    weights: dict[str, Weight] = {"goodput": lambda plan: 1.0, "goodput-per-device": lambda plan: float(plan.devices)}
    if usd_per_hour is not None:
        weights["cost"] = usd_per_hour
    beside = ("goodput-per-device", "cost", "energy", "latency")
    names = dict.fromkeys((*beside, objective.name, *(axis.name for axis in axes)))
    out = {"carbon"} if usd_per_hour is not None else {"carbon", "cost"}
    return tuple(_goal(FIGURES[name], weights.get(name)) for name in names if name not in out)


def _goal(figure: Figure, weight: Weight | None) -> Goal:
    return Goal(
        figure.name, "goodput" if weight else figure.name, lambda e: figure.loss(figure.value(e)),
        lambda b, plan: figure.loss(figure.bound(b, plan.devices)), weight,
    )  # fmt: skip


def where_prices_differ(
    plans: Iterable[Plan], usd_per_hour: Callable[[Plan], float | None]
) -> Weight | None:
    """The price of a plan, where all are known and a device-hour does not cost the same in all of them."""
    prices = {plan.id: (usd_per_hour(plan), plan.devices) for plan in plans}
    each = {None if usd is None else round(usd / devices, 9) for usd, devices in prices.values()}
    if None in each or len(each) < 2:
        return None
    return lambda plan: prices[plan.id][0] or 0.0
