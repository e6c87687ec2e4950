"""``ax.plan_fleet``: how many replicas of which kind, hour by hour, and what a reader wants of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from apexsim.report.answer import Answer
from apexsim.report.proof import proof, proof_dict
from apexsim.report.tables import UNDEFINED, Table, show
from apexsim.search.fleet import FleetProblem, read_fleet
from apexsim.search.fleet_ilp import Fleet, best_fleet
from apexsim.search.ilp import TIME_LIMIT_S

UNITS = {"cost": "USD", "energy": "J", "carbon": "g CO2e", "devices": "device-hours"}
"""Of an objective, over all hours of the demand."""


@dataclass(frozen=True)
class FleetReport(Answer):
    """A fleet. ``result`` holds everything, ``to_dict()`` is the JSON of ``apexsim plan fleet``."""

    result: Fleet

    @property
    def heading(self) -> str:
        fleet, problem = self.result, self.result.problem
        hours = "an hour" if problem.hours == 1 else f"{problem.hours} hours"
        value = show(fleet.value, UNITS[problem.objective])
        told = proof(fleet.gap, fleet.timed_out)
        return f"{problem.scaling} fleet for {hours}: {problem.objective} {value}, {told}"

    @property
    def tables(self) -> tuple[Table, ...]:
        limits = tuple(
            (name, f"{allowed:,.6g}", f"{used:,.6g}", str(hour)) for name, allowed, used, hour in self._limits()
        )
        kept = (Table("Limits: the hour that comes nearest", ("", "allowed", "used", "hour"), limits),)
        return (self._kinds(), self._hours(), *(kept if limits else ()))

    def _kinds(self) -> Table:
        fleet = self.result
        rows = tuple(
            (
                kind.name, kind.device, str(kind.devices), _span(fleet.replicas[c]),
                show(sum(fleet.load(c, h) for h in self._every) / sum(fleet.replicas[c]), "share"),
                ", ".join(f"{name} {sum(rate) / len(rate):.4g}" for name, rate in fleet.rates[c].items() if sum(rate)),
            )
            for c, kind in enumerate(fleet.kinds) if sum(fleet.replicas[c])
        )  # fmt: skip
        header = ("", "device", "devices each", "replicas", "mean load", "serves (mean req/s)")
        prose = frozenset({"device", "serves (mean req/s)"})
        return Table("Kinds of replicas", header, rows, prose=prose, whole=frozenset({""}))

    def _hours(self) -> Table:
        fleet, problem = self.result, self.result.problem
        used = [c for c, count in enumerate(fleet.replicas) if sum(count)]
        rows = tuple(
            (
                str(h), *(f"{problem.rate(name, h):.4g}" for name in problem.classes),
                *(str(fleet.replicas[c][h]) for c in used), str(fleet.devices(h)),
                show(fleet.usd(h), "USD"), show(fleet.power_w(h), "W"),
            )
            for h in self._every
        )
        names = (*(f"{name} req/s" for name in problem.classes), *(fleet.kinds[c].name for c in used))
        return Table("Hours", ("hour", *names, "devices", "cost", "power"), rows)

    @property
    def _every(self) -> range:
        return range(self.result.problem.hours)

    def _limits(self) -> Iterator[tuple[str, float, float, int]]:
        """(name, allowed, used, hour) of each limit, in the hour that comes nearest to it."""
        fleet, limits = self.result, self.result.problem.limits
        by_hour: dict[str, tuple[float | None, list[float | None]]] = {
            "limits.devices": (limits.devices, [float(fleet.devices(h)) for h in self._every]),
            "limits.usd_per_hour": (limits.usd_per_hour, [fleet.usd(h) for h in self._every]),
            "limits.power_w": (limits.power_w, [fleet.power_w(h) for h in self._every]),
        }
        for device, stock in limits.stock.items():
            held = [
                float(sum(kind.devices * count[h] for kind, count in zip(fleet.kinds, fleet.replicas, strict=True)
                          if kind.device == device))
                for h in self._every
            ]  # fmt: skip
            by_hour[f"limits.stock.{device}"] = (stock, list(held))
        for name, (allowed, used) in by_hour.items():
            if allowed is not None:
                most = max(self._every, key=lambda h: used[h] or 0.0)
                yield name, allowed, used[most] or 0.0, most
        if limits.usd_per_day is not None:
            yield "limits.usd_per_day", limits.usd_per_day, sum(fleet.usd(h) or 0.0 for h in self._every), 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim plan fleet``: SI units, USD; null where undefined."""
        fleet, problem = self.result, self.result.problem
        kinds = [
            {
                "name": kind.name, "device": kind.device, "devices": kind.devices, "goodput_rps": kind.goodput,
                "replicas": list(fleet.replicas[c]), "serves_rps": {n: list(r) for n, r in fleet.rates[c].items()},
            }
            for c, kind in enumerate(fleet.kinds) if sum(fleet.replicas[c])
        ]  # fmt: skip
        hours = [
            {
                "hour": h, "demand_rps": {name: problem.rate(name, h) for name in problem.classes},
                "devices": fleet.devices(h), "usd": fleet.usd(h), "mean_power_w": fleet.power_w(h),
                "energy_j": fleet.energy_j(h),
            }
            for h in self._every
        ]  # fmt: skip
        limits = [dict(zip(("name", "allowed", "used", "hour"), limit, strict=True)) for limit in self._limits()]
        return {
            "objective": problem.objective, "unit": UNITS[problem.objective],
            **proof_dict(fleet.value, fleet.bound, fleet.gap, fleet.timed_out),
            "fleet": kinds, "hours": hours, "limits": limits, "dominated": fleet.dominated,
        }  # fmt: skip

    def to_pandas(self) -> pd.DataFrame:
        """One row a kind and an hour in which it serves: replicas, devices, load, and requests/s of each class."""
        fleet = self.result
        return pd.DataFrame([
            {"name": kind.name, "device": kind.device, "hour": h, "replicas": fleet.replicas[c][h],
             "devices": kind.devices * fleet.replicas[c][h], "load": fleet.load(c, h),
             **{f"{name}_rps": rate[h] for name, rate in fleet.rates[c].items()}}
            for c, kind in enumerate(fleet.kinds) for h in self._every if fleet.replicas[c][h]
        ])  # fmt: skip


def plan_fleet(
    question: FleetProblem | Mapping[str, Any] | Path | str, *, time_limit_s: float = TIME_LIMIT_S
) -> FleetReport:
    """How many replicas of which kind serve the demand of each hour at least cost, energy, carbon or devices.

        ax.plan_fleet("docs/examples/fleet.yaml").to_pandas()

    Args:
        question: a file, or the mapping that it would hold.
        time_limit_s: what was found until then is returned, with its gap.

    Raises:
        InputError: a question that cannot be. NoFeasiblePlan: no fleet keeps all limits; the message says by how much.
    """
    return FleetReport(best_fleet(read_fleet(question), time_limit_s))


def _span(count: tuple[int, ...]) -> str:
    low, high = min(count), max(count)
    return str(low) if low == high else f"{low} to {high}" if sum(count) else UNDEFINED
