"""How many replicas of which kind serve the demand of each hour at least cost, energy, carbon or devices.

    n[c, h]       replicas of column c in hour h, whole
    r[c, k, h]    requests/s of class k that they serve
    s[c, h]       replicas that start in hour h

    Σ_c r[c, k, h] ≥ demand[k, h]                                       all of the demand is served
    Σ_k r[c, k, h] / goodput[c, k] ≤ (1 − headroom) · n[c, h]           within the SLO
    s[c, h] ≥ n[c, h] − n[c, h − 1]                                     hours follow each other in a circle
    Σ_c devices[c] · n[c, h] ≤ stock, and likewise dollars and watts    limits, in every hour

Classes that share a replica share its time: half of its goodput in one class leaves half of it for the others. That is
what is known when each class was measured alone; ``sharing: false`` (a column for each candidate and class) does
without it.

Power is idle power for each replica and, in proportion to its load, what it draws more at its goodput. Where nothing
joins the hours (they scale, starting is free, no budget of the day) each is a program of its own. Ties: fewer devices,
then fewer dollars, then the candidates that stand first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from apexsim.errors import NoFeasiblePlan
from apexsim.metrics.cost import SECONDS_PER_HOUR
from apexsim.metrics.energy import JOULES_PER_KWH
from apexsim.search.fleet import FleetCandidate, FleetProblem
from apexsim.search.ilp import TIME_LIMIT_S, TOLERANCE, Limit, Outcome, Program, Shortfall, Terms, gap_of
from apexsim.search.shortfall import told

RESERVE = 0.3
"""Share of the time that is kept for planning hours one by one, where all together are not done by then."""



@dataclass(frozen=True)
class Fleet:
    """What was found: ``replicas[c][h]`` and ``rates[c][class][h]`` of the candidates ``kinds[c]``.

    Attributes:
        bound: no fleet has less of the objective; equal to ``value`` where ``gap`` is 0.
        dominated: candidates that another one replaces at no loss, with its name.
    """

    problem: FleetProblem
    kinds: tuple[FleetCandidate, ...]
    replicas: tuple[tuple[int, ...], ...]
    rates: tuple[dict[str, tuple[float, ...]], ...]
    value: float
    bound: float
    gap: float
    timed_out: bool
    wall_s: float
    dominated: dict[str, str] = field(default_factory=dict)

    def devices(self, hour: int) -> int:
        return sum(kind.devices * count[hour] for kind, count in zip(self.kinds, self.replicas, strict=True))

    def load(self, kind: int, hour: int) -> float:
        """Replicas' worth of work that a kind does in an hour: Σ rate / goodput."""
        return sum(rate[hour] / self.kinds[kind].goodput[name] for name, rate in self.rates[kind].items())

    def starts(self, kind: int, hour: int) -> int:
        """Replicas that begin to serve with this hour."""
        count = self.replicas[kind]
        return max(count[hour] - count[hour - 1], 0)

    def usd(self, hour: int) -> float | None:
        """Dollars of an hour, those of starting included; None where a price is not known."""
        if any(kind.usd_per_hour is None for kind in self.kinds):
            return None
        paid = self.problem.start / SECONDS_PER_HOUR
        return sum(
            (kind.usd_per_hour or 0.0) * (self.replicas[c][hour] + paid * self.starts(c, hour))
            for c, kind in enumerate(self.kinds)
        )

    def power_w(self, hour: int) -> float | None:
        """Mean watts while the replicas serve; None where a power is not known."""
        if any(kind.idle_w is None or kind.busy_w is None for kind in self.kinds):
            return None
        return sum(
            (kind.idle_w or 0.0) * self.replicas[c][hour]
            + sum(rate[hour] * _joules(kind, name) for name, rate in self.rates[c].items())
            for c, kind in enumerate(self.kinds)
        )

    def worth(self) -> float:
        """The objective, added up over the hours."""
        each = {"cost": self.usd, "energy": self.energy_j, "carbon": self.carbon_g, "devices": self.devices}
        return float(sum(each[self.problem.objective](hour) or 0.0 for hour in range(self.problem.hours)))

    def carbon_g(self, hour: int) -> float | None:
        """Grams of CO2 equivalent of an hour; None where a power is not known."""
        joules = self.energy_j(hour)
        return None if joules is None else self.problem.intensity(hour) * joules / JOULES_PER_KWH

    def energy_j(self, hour: int) -> float | None:
        """Joules of an hour, those of starting included."""
        power = self.power_w(hour)
        started = sum((kind.idle_w or 0.0) * self.starts(c, hour) for c, kind in enumerate(self.kinds))
        return None if power is None else power * SECONDS_PER_HOUR + started * self.problem.start


def best_fleet(problem: FleetProblem, time_limit_s: float = TIME_LIMIT_S) -> Fleet:
    """The fleet of a question that ``read_fleet`` filled in.

    Raises:
        NoFeasiblePlan: no fleet keeps all limits; the message says which would have to give way, and by how much.
    """
    for name in problem.classes:
        if any(problem.rate(name, h) for h in range(problem.hours)) and not any(
            name in candidate.goodput for candidate in problem.candidates
        ):
            raise NoFeasiblePlan(f"no candidate serves the class {name}")
    began = time.monotonic()
    kinds, dominated = undominated(problem)
    columns = [
        (c, names)
        for c, kind in enumerate(kinds)
        for names in ([tuple(kind.goodput)] if problem.sharing else [(name,) for name in kind.goodput])
    ]
    joined = problem.scaling == "constant" or problem.start > 0 or problem.limits.usd_per_day is not None
    groups = [tuple(range(problem.hours))] if joined else [(h,) for h in range(problem.hours)]
    models = [_Model(problem, kinds, columns, hours) for hours in groups]
    chained = joined and problem.scaling == "hourly"
    outcomes = _solved(models, (1 - RESERVE) * time_limit_s if chained else time_limit_s)
    impossible = [model for model, outcome in zip(models, outcomes, strict=True) if outcome.impossible]
    if impossible:
        raise NoFeasiblePlan(_why(problem, impossible, time_limit_s))
    found = None
    if all(outcome.found for outcome in outcomes):
        found = _read(problem, kinds, columns, list(zip(models, outcomes, strict=True)), dominated)
    if chained and outcomes[0].timed_out:
        alone = [_Model(problem, kinds, columns, (h,)) for h in range(problem.hours)]
        parts = _solved(alone, max(time_limit_s - (time.monotonic() - began), 0.1))
        if all(part.found for part in parts):
            apart = _read(problem, kinds, columns, list(zip(alone, parts, strict=True)), dominated)
            found = _better(found, apart, outcomes[0].bound)
    if found is None:
        raise NoFeasiblePlan(f"no fleet was found within {time_limit_s:g} s, and none was ruled out: allow more time")
    return replace(found, wall_s=time.monotonic() - began)


def _better(found: Fleet | None, apart: Fleet, bound: float) -> Fleet | None:
    """Hours planned one by one, with what their starts cost, where that keeps the budgets and beats what was found."""
    limits = apart.problem.limits
    usd = [apart.usd(h) or 0.0 for h in range(apart.problem.hours)]
    dear = limits.usd_per_hour is not None and max(usd) > limits.usd_per_hour * (1 + TOLERANCE)
    dear |= limits.usd_per_day is not None and sum(usd) > limits.usd_per_day * (1 + TOLERANCE)
    value = apart.worth()
    if dear or (found is not None and found.value <= value):
        return found
    return replace(apart, value=value, bound=bound, gap=gap_of(value, bound), timed_out=True)


def _solved(models: Sequence[_Model], time_limit_s: float) -> list[Outcome]:
    """Each program with an equal part of half of the time; what is open then, with equal parts of all that is left."""
    began = time.monotonic()
    share = time_limit_s / len(models) / (2 if len(models) > 1 else 1)
    outcomes = [model.program.solve(model.objectives, share) for model in models]
    still = [place for place, outcome in enumerate(outcomes) if outcome.timed_out] if len(models) > 1 else []
    if not any(outcome.impossible for outcome in outcomes):
        for done, place in enumerate(still):
            left = (time_limit_s - (time.monotonic() - began)) / (len(still) - done)
            again = models[place].program.solve(models[place].objectives, max(left, 0.01))
            if again.impossible or (again.found and not again.objective > outcomes[place].objective):
                outcomes[place] = replace(again, bound=max(again.bound, outcomes[place].bound))
    return outcomes


def undominated(problem: FleetProblem) -> tuple[tuple[FleetCandidate, ...], dict[str, str]]:
    """The candidates that may be needed, and those that are not: name → one that is as good in everything.

    As good: no more devices of the same kind, dollars and idle watts, at least the goodput in each class, and no more
    joules a request. Put in place of the other, replica by replica, it keeps every row and costs no more.
    """
    kept: list[FleetCandidate] = []
    dropped: dict[str, str] = {}
    for place, candidate in enumerate(problem.candidates):
        rivals = [*kept, *problem.candidates[place + 1 :]]
        better = next((rival for rival in rivals if _covers(problem, rival, candidate)), None)
        # of two that are equal the first one stays: the second is measured against it
        if better is None or (better not in kept and _covers(problem, candidate, better)):
            kept.append(candidate)
        else:
            dropped[candidate.name] = better.name
    return tuple(kept), dropped


def _covers(problem: FleetProblem, a: FleetCandidate, b: FleetCandidate) -> bool:
    """Whether ``a`` can stand in for ``b``."""
    if a.device != b.device or a.devices > b.devices or not set(b.goodput) <= set(a.goodput):
        return False
    if (a.usd_per_hour is None) != (b.usd_per_hour is None) or (a.usd_per_hour or 0) > (b.usd_per_hour or 0):
        return False
    if problem.needs_power and (a.idle_w or 0) > (b.idle_w or 0):
        return False
    return all(
        a.goodput[name] >= b.goodput[name] and (not problem.needs_power or _joules(a, name) <= _joules(b, name))
        for name in b.goodput
    )


def _joules(kind: FleetCandidate, name: str) -> float:
    """Of one request of a class, above idle: what more the replica draws at its goodput, over that rate."""
    return (kind.busy(name) - (kind.idle_w or 0.0)) / kind.goodput[name]


class _Model:
    """The program of some hours, which share replicas where the fleet is constant."""

    def __init__(
        self, problem: FleetProblem, kinds: Sequence[FleetCandidate], columns: Sequence[tuple[int, tuple[str, ...]]],
        hours: Sequence[int],
    ) -> None:
        self.hours = hours
        self.program = Program()
        self._problem, self._columns = problem, columns
        self._kinds = [kinds[c] for c, _ in columns]
        constant = problem.scaling == "constant"
        one = [self.program.variable(whole=True) for _ in columns] if constant else []
        self.count = {h: one or [self.program.variable(whole=True) for _ in columns] for h in hours}
        self.rate = {
            (c, name, h): self.program.variable()
            for h in hours for c, (_, names) in enumerate(columns) for name in names
        }
        self._start = {} if constant or not problem.start else {
            h: [self.program.variable() for _ in columns] for h in hours
        }
        for h in hours:
            self._serve(h)
            self._keep(h)
            for c, starting in enumerate(self._start.get(h, ())):
                before = self.count[self.hours[self.hours.index(h) - 1]][c]
                self.program.at_least([(1.0, starting), (-1.0, self.count[h][c]), (1.0, before)], 0.0)
        if problem.limits.usd_per_day is not None:
            limit = Limit("limits.usd_per_day", "USD", problem.limits.usd_per_day)
            self.program.at_most([term for h in hours for term in self._usd(h)], limit.size, limit)

    @property
    def objectives(self) -> list[Terms]:
        """What is asked for, then what breaks ties."""
        chosen = {"cost": self._usd, "energy": self._energy, "carbon": self._carbon, "devices": self._devices}
        priced = all(kind.usd_per_hour is not None for kind in self._kinds)
        wanted = [chosen[self._problem.objective], self._devices, *([self._usd] if priced else []), self._place]
        return [[term for h in self.hours for term in terms(h)] for terms in dict.fromkeys(wanted)]

    def _serve(self, h: int) -> None:
        demand = Limit("demand", "share", 1.0)
        for name in self._problem.classes:
            rate = self._problem.rate(name, h)
            if rate:
                terms = [(1.0, v) for (_, served, hour), v in self.rate.items() if served == name and hour == h]
                self.program.at_least(terms, rate, demand, give=rate)
        for c, (kind, (_, names)) in enumerate(zip(self._kinds, self._columns, strict=True)):
            work = [(1.0 / kind.goodput[name], self.rate[c, name, h]) for name in names]
            self.program.at_most([*work, (self._problem.headroom - 1.0, self.count[h][c])], 0.0)

    def _keep(self, h: int) -> None:
        limits, add = self._problem.limits, self.program.at_most
        for device, stock in limits.stock.items():
            limit = Limit(f"limits.stock.{device}", "devices", stock)
            held = [(float(kind.devices), v) for kind, v in self._each(h) if kind.device == device]
            if held:
                add(held, stock, limit)
        if limits.devices is not None:
            add(self._devices(h), limits.devices, Limit("limits.devices", "devices", limits.devices))
        if limits.usd_per_hour is not None:
            add(self._usd(h), limits.usd_per_hour, Limit("limits.usd_per_hour", "USD", limits.usd_per_hour))
        if limits.power_w is not None:
            add(self._power(h), limits.power_w, Limit("limits.power_w", "W", limits.power_w))

    def _each(self, h: int) -> list[tuple[FleetCandidate, int]]:
        return list(zip(self._kinds, self.count[h], strict=True))

    def _devices(self, h: int) -> list[tuple[float, int]]:
        return [(float(kind.devices), v) for kind, v in self._each(h)]

    def _place(self, h: int) -> list[tuple[float, int]]:
        return [(float(place), v) for place, v in enumerate(self.count[h])]

    def _usd(self, h: int) -> list[tuple[float, int]]:
        paid = self._problem.start / SECONDS_PER_HOUR
        starting = zip(self._kinds, self._start.get(h, ()), strict=False)
        return [
            *((kind.usd_per_hour or 0.0, v) for kind, v in self._each(h)),
            *((paid * (kind.usd_per_hour or 0.0), v) for kind, v in starting),
        ]

    def _power(self, h: int) -> list[tuple[float, int]]:
        above = (
            (_joules(self._kinds[c], name), v) for (c, name, hour), v in self.rate.items() if hour == h
        )
        return [*((kind.idle_w or 0.0, v) for kind, v in self._each(h)), *above]

    def _energy(self, h: int) -> list[tuple[float, int]]:
        starting = zip(self._kinds, self._start.get(h, ()), strict=False)
        return [
            *((SECONDS_PER_HOUR * watts, v) for watts, v in self._power(h)),
            *((self._problem.start * (kind.idle_w or 0.0), v) for kind, v in starting),
        ]

    def _carbon(self, h: int) -> list[tuple[float, int]]:
        grams = self._problem.intensity(h) / JOULES_PER_KWH
        return [(grams * joules, v) for joules, v in self._energy(h)]


def _why(problem: FleetProblem, models: Sequence[_Model], time_limit_s: float) -> str:
    """Which limits stand in the way, of all hours that have no solution: the largest shortfall of each."""
    worst: dict[str, Shortfall] = {}
    each = [model.program.shortfalls(time_limit_s / len(models)) for model in models]
    alone = [{s.limit.name for s in found if s.alone} for found in each]
    common = set.intersection(*alone)
    for found in each:
        for shortfall in found:
            name = shortfall.limit.name
            if (name in common or not common) and (name not in worst or shortfall.by > worst[name].by):
                worst[name] = replace(shortfall, alone=name in common)
    hours = [model.hours[0] for model in models if len(model.hours) < problem.hours]
    when = f" in hour{'s' if len(hours) > 1 else ''} {', '.join(map(str, hours))}" if hours else ""
    return f"no fleet serves the demand within the limits{when}: {told(tuple(worst.values()))}"


def _read(
    problem: FleetProblem, kinds: tuple[FleetCandidate, ...], columns: Sequence[tuple[int, tuple[str, ...]]],
    solved: Sequence[tuple[_Model, Outcome]], dominated: dict[str, str],
) -> Fleet:
    replicas = [[0] * problem.hours for _ in kinds]
    rates: list[dict[str, list[float]]] = [{name: [0.0] * problem.hours for name in kind.goodput} for kind in kinds]
    for model, outcome in solved:
        for h in model.hours:
            for (c, _), variable in zip(columns, model.count[h], strict=True):
                replicas[c][h] += round(outcome.values[variable])
        for (column, name, h), variable in model.rate.items():
            rates[columns[column][0]][name][h] += outcome.values[variable]
    value = sum(outcome.objective for _, outcome in solved)
    bound = sum(outcome.bound for _, outcome in solved)
    timed_out = any(outcome.timed_out for _, outcome in solved)
    gap = gap_of(value, bound) if timed_out else 0.0
    return Fleet(
        problem, kinds, tuple(map(tuple, replicas)),
        tuple({name: tuple(rate) for name, rate in served.items()} for served in rates),
        value, bound, gap, timed_out, 0.0, dominated,
    )
