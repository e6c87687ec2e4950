"""The question of a fleet: which replicas may be bought, what they serve, what is asked of them hour by hour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from apexsim.errors import ApexsimError, InputError, unknown_name
from apexsim.search.question import beside, read_question
from apexsim.spec import catalog
from apexsim.spec.base import Strict, load_yaml, parse
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.plan import Plan
from apexsim.spec.units import Seconds

Hourly = NonNegativeFloat | Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)]
"""One value for all hours, or one for each."""

RESULT = "result.json"
"""The file that stands for the folder of a search."""


class FleetCandidate(Strict):
    """One kind of replica that a fleet may be made of."""

    name: str = Field(min_length=1, description="what tables call it")
    device: str = Field(description="its devices: `apexsim list devices`, or any other word")
    devices: PositiveInt = Field(description="devices of one replica")
    goodput: dict[str, PositiveFloat] = Field(
        min_length=1, description="requests/s of each class that one replica serves within its SLO, of that class alone"
    )
    usd_per_hour: NonNegativeFloat | None = Field(
        None, description="price of one replica; the profile's price of its devices where left out"
    )
    idle_w: NonNegativeFloat | None = Field(
        None, description="watts of one replica that serves nobody; the profile's idle power where left out"
    )
    busy_w: NonNegativeFloat | dict[str, NonNegativeFloat] | None = Field(
        None, description="watts at its goodput, one value or one a class; the power limit of its devices if left out"
    )

    def busy(self, name: str) -> float:
        """Watts of a replica that serves only this class, at its goodput; never below idle."""
        busy = self.busy_w.get(name) if isinstance(self.busy_w, dict) else self.busy_w
        return max(busy or 0.0, self.idle_w or 0.0)


class FleetLimits(Strict):
    """What a fleet must keep, each in every hour."""

    devices: NonNegativeFloat | None = Field(None, description="devices of all kinds together")
    stock: dict[str, NonNegativeFloat] = Field({}, description="devices that there are of each kind")
    usd_per_hour: NonNegativeFloat | None = Field(None, description="budget of any hour")
    usd_per_day: NonNegativeFloat | None = Field(None, description="budget of all hours of the demand together")
    power_w: NonNegativeFloat | None = Field(None, description="watts of all replicas together")


class FleetProblem(Strict):
    """A fleet to be found."""

    objective: Literal["cost", "energy", "devices", "carbon"] = Field("cost", description="what to make least")
    demand: dict[str, Hourly] = Field(
        min_length=1, description="requests/s of each class: one number, or one for each hour"
    )
    candidates: tuple[FleetCandidate, ...] = Field((), strict=False, description="kinds of replicas")
    searches: dict[str, str] = Field(
        {}, description="class: the result of `apexsim search` for it; each of its ranked plans is a candidate"
    )
    scaling: Literal["constant", "hourly"] = Field(
        "constant", description="the same replicas in all hours, or as many as each hour needs"
    )
    start: Seconds = Field(
        0.0, ge=0, description="how long a replica is on before it serves, paid and idle, each time it is started"
    )
    sharing: bool = Field(True, description="false: a replica serves one class only")
    headroom: float = Field(0.0, ge=0, lt=1, description="share of each replica's goodput that is kept free")
    carbon: Hourly | None = Field(None, description="g CO2e per kWh: one number, or one for each hour")
    limits: FleetLimits = Field(FleetLimits(), description="what must be kept")

    @model_validator(mode="after")
    def _consistent(self) -> FleetProblem:
        lengths = {name: len(rates) for name, rates in self._lists()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
            raise ValueError(f"demand: every list needs one number for each hour, but {told}")
        if 0 in lengths.values():
            raise ValueError("demand: a list needs at least one hour")
        if self.objective == "carbon" and self.carbon is None:
            raise ValueError("objective: carbon needs carbon, the g CO2e per kWh of each hour")
        if not self.candidates and not self.searches:
            raise ValueError("candidates: missing (or searches, whose plans they are)")
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"candidates: the name {twice!r} stands twice")
        named = [(tuple(c.goodput), f"candidates: {c.name}: goodput") for c in self.candidates]
        for known, where in (*named, (tuple(self.searches), "searches")):
            for name in known:
                if name not in self.demand:
                    raise ValueError(f"{where}: {unknown_name('class', name, self.demand)}")
        return self

    def _lists(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        for name, rates in (*self.demand.items(), ("carbon", self.carbon)):
            if isinstance(rates, tuple):
                yield name, rates

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.demand)

    @property
    def hours(self) -> int:
        """Hours of the demand, which follow each other in a circle; 1 where all of it is constant."""
        return next((len(rates) for _, rates in self._lists()), 1)

    def rate(self, name: str, hour: int) -> float:
        """Requests/s of a class in an hour."""
        return _at(self.demand[name], hour)

    def intensity(self, hour: int) -> float:
        """g CO2e per kWh in an hour; 0 where nobody said."""
        return 0.0 if self.carbon is None else _at(self.carbon, hour)

    @property
    def needs_power(self) -> bool:
        return self.objective in ("energy", "carbon") or self.limits.power_w is not None

    @property
    def needs_price(self) -> bool:
        limits = self.limits
        return self.objective == "cost" or limits.usd_per_hour is not None or limits.usd_per_day is not None


def _at(value: float | tuple[float, ...], hour: int) -> float:
    return value[hour] if isinstance(value, tuple) else value


def read_fleet(source: FleetProblem | Mapping[str, Any] | Path | str) -> FleetProblem:
    """The question with all candidates in it: those of its searches too, prices and watts filled in.

    Raises:
        InputError: a file that says something impossible; a price or a power that the question needs and nobody knows.
    """
    problem, folder, name = read_question(FleetProblem, source, "fleet")
    found = [*problem.candidates, *_searched(problem, folder)]
    held = {candidate.device for candidate in found}
    for device in problem.limits.stock:
        if device not in held and _profile(device) is None:  # a misspelt limit would be no limit
            unknown = unknown_name("device", device, held, hints=catalog.device_names())
            raise InputError(f"{name}: limits.stock: {unknown}")
    filled = tuple(_filled(candidate, problem, name) for candidate in found)
    return problem.model_copy(update={"candidates": filled, "searches": {}})


def _filled(candidate: FleetCandidate, problem: FleetProblem, source: str) -> FleetCandidate:
    """The candidate with its price and its watts, from the profile of its device where it does not say."""
    profile = _profile(candidate.device)
    count = candidate.devices
    usd, idle, busy = candidate.usd_per_hour, candidate.idle_w, candidate.busy_w
    if profile is not None:
        price = profile.price_usd_per_hour
        usd = count * price if usd is None and price is not None else usd
        idle = count * profile.idle_w if idle is None and profile.idle_w is not None else idle
        busy = count * profile.tdp_w if busy is None and profile.tdp_w is not None else busy
    if isinstance(busy, dict) and set(candidate.goodput) - set(busy):
        missing = ", ".join(sorted(set(candidate.goodput) - set(busy)))
        raise InputError(f"{source}: candidates: {candidate.name}: busy_w lacks the class {missing}")
    unknown = ["usd_per_hour"] if problem.needs_price and usd is None else []
    if problem.needs_power:
        unknown += [key for key, value in (("idle_w", idle), ("busy_w", busy)) if value is None]
    if unknown:
        why = f"the profile of {candidate.device} does not say"
        if profile is None:
            why = unknown_name("device", candidate.device, catalog.device_names())
        raise InputError(f"{source}: candidates: {candidate.name}: {', '.join(unknown)}: missing, and {why}")
    return candidate.model_copy(update={"usd_per_hour": usd, "idle_w": idle, "busy_w": busy})


def _profile(device: str) -> HardwareProfile | None:
    try:
        return catalog.device(device)
    except ApexsimError:
        return None


def _searched(problem: FleetProblem, folder: Path) -> list[FleetCandidate]:
    """The ranked plans of the searches, each as it was searched, all of its replicas together; equal plans once."""
    plans: dict[str, Plan] = {}
    goodput: dict[str, dict[str, float]] = {}
    busy: dict[str, dict[str, float]] = {}
    usd: dict[str, float | None] = {}
    for name, path in problem.searches.items():
        file = beside(folder, path)
        file = file / RESULT if file.is_dir() else file
        for entry in _ranked(file):
            plan = parse(Plan, entry["plan"], source=f"{file}: plans")
            word = f"{_device(plan, file)} {plan.id}"
            plans.setdefault(word, plan)
            goodput.setdefault(word, {})[name] = float(entry["goodput_rps"])
            usd.setdefault(word, entry["summary"]["cost"]["usd_per_hour"])
            watts = _watts(entry)
            if watts is not None:
                busy.setdefault(word, {})[name] = watts
    return [
        FleetCandidate(
            name=word, device=_device(plan, word), devices=plan.devices, goodput=goodput[word],
            usd_per_hour=usd[word], idle_w=_idle(plan),
            busy_w=busy[word] if set(busy.get(word, ())) == set(goodput[word]) else None,
        )
        for word, plan in plans.items()
    ]  # fmt: skip


def _ranked(file: Path) -> list[Mapping[str, Any]]:
    data = load_yaml(file)
    plans = data.get("plans")
    needed = {"plan", "goodput_rps", "at_goodput", "summary"}
    if not isinstance(plans, list) or not all(isinstance(p, dict) and needed <= set(p) for p in plans):
        raise InputError(f"{file}: is not the result of apexsim search (expected the key plans, with their summaries)")
    if not plans:
        raise InputError(f"{file}: plans: the search ranked none")
    return plans


def _watts(entry: Mapping[str, Any]) -> float | None:
    """Of a plan at its goodput: J per output token · output tokens of a request · requests/s."""
    joules, flow = entry["at_goodput"]["j_per_output_token"], entry["summary"]["throughput"]
    if joules is None or not flow["requests_per_s"]:
        return None
    return float(joules * flow["output_tokens_per_s"] / flow["requests_per_s"] * entry["goodput_rps"])


def _device(plan: Plan, source: object) -> str:
    """The one kind of devices that a plan stands on, of the kinds that its cluster holds."""
    kinds = list(dict.fromkeys(pool.device or plan.cluster.device for pool in plan.pools))
    if len(kinds) > 1:
        told = f"stands on {' and '.join(kinds)}, and a replica of a fleet on one kind of devices"
        raise InputError(f"{source}: plans: {plan.id} {told} (search with device: [{kinds[0]}] in the space)")
    return kinds[0]


def _idle(plan: Plan) -> float | None:
    """Watts of a plan's devices that serve nobody, with the nodes around them and the site's share."""
    cluster = plan.cluster.only(_device(plan, "idle_w"))
    profile = _profile(cluster.device)
    if profile is None or profile.idle_w is None:
        return None
    nodes = -(-plan.devices // cluster.devices_per_node)
    return (plan.devices * profile.idle_w + nodes * cluster.node_overhead_w) * cluster.pue
