"""The summary of one run: the JSON of ``apexsim simulate`` (design §7). Fields are named as its keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from apexsim.cost.accounting import Account
from apexsim.cost.swap import SwapLaw
from apexsim.cost.tiers import TierLaw
from apexsim.engine.result import SimulationResult
from apexsim.errors import UsageError
from apexsim.metrics.adapters import AdapterUse, adapter_use
from apexsim.metrics.attainment import SloReport, attainment
from apexsim.metrics.cost import Cost, cost
from apexsim.metrics.distribution import Distribution, distribution
from apexsim.metrics.energy import ALONE, Carbon, Energy, Surroundings, carbon, energy
from apexsim.metrics.fleet import FleetUse, Holding, fleet_use, shapes_held, surroundings_held
from apexsim.metrics.groups import NOBODY, Group, Senders, groups_of
from apexsim.metrics.itl import itl_distribution
from apexsim.metrics.kv_copies import SwapUse, TierUse, swap_use, tier_uses, write_notes
from apexsim.metrics.latency import counted_requests, latencies
from apexsim.metrics.pools import EncodeUse, PoolShape, PoolUse, TransferUse, encode_use, pool_uses, transfer_use
from apexsim.metrics.speculation import Speculation, speculation
from apexsim.metrics.throughput import RequestCounts, Throughput, completed_tokens, count_requests, throughput
from apexsim.metrics.usage import (
    Confidence,
    Memory,
    Utilization,
    busy_of_all,
    kv_peak_of_all,
    prefix_hit_rate,
)
from apexsim.spec.slo import SLO


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a summary needs to know about the plan that ran: one pool of equal replicas."""

    devices: float  # of all replicas; where these come and go, the mean over the run
    weights_bytes_per_device: float
    kv_capacity_tokens: int  # of one replica
    surroundings: Surroundings = ALONE
    drafts: int = 0  # of a sequence in each step, speculative decoding
    tiers: tuple[TierLaw, ...] = ()
    swap: SwapLaw | None = None
    lora: bool = False  # requests ask for LoRA adapters
    shapes: tuple[PoolShape, ...] = ()  # of several pools
    holdings: tuple[Holding, ...] = ()  # of replicas that come and go, by pool

    def held(self, result: SimulationResult, held: Sequence[float], holdings: tuple[Holding, ...]) -> Deployment:
        """With the devices that were there, the mean over the run: ``held`` replicas of each pool."""
        if result.fleet is None:
            return self
        return replace(
            self, devices=sum(n * holding.devices for n, holding in zip(held, holdings, strict=True)),
            surroundings=surroundings_held(self.surroundings, result, holdings), holdings=holdings,
            shapes=shapes_held(self.shapes, held, holdings) if self.shapes else (),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prices:
    """What the user pays and emits; None where it is not known."""

    usd_per_device_hour: float | None = None
    g_co2e_per_kwh: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("price", self.usd_per_device_hour), ("carbon intensity", self.g_co2e_per_kwh)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value:g} (allowed: 0 or more)")


@dataclass(frozen=True, slots=True)
class SimulationInfo:
    """How the run was made. ``wall_s`` is the one figure that differs between two equal runs; None in a search's."""

    wall_s: float | None
    iterations: int
    seed: int
    version: str


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures, SI units, None where undefined. Latencies are of completed, counted requests."""

    requests: RequestCounts
    duration_s: float
    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    e2e_s: Distribution
    queue_s: Distribution
    throughput: Throughput
    slo: SloReport
    energy: Energy
    cost: Cost
    carbon: Carbon
    memory: Memory
    preemptions: int
    prefix_hit_rate: float | None
    utilization: Utilization
    breakdown_s: Mapping[str, float]
    confidence: Confidence
    simulation: SimulationInfo
    speculation: Speculation | None = None  # where the pool speculates
    groups: Mapping[str, Mapping[str, Group]] = field(default_factory=dict)  # ``by_priority``, ``by_client``
    kv_tiers: tuple[TierUse, ...] = ()  # in the order of the plan; not in the JSON of a plan without tiers
    swap: SwapUse | None = None  # likewise
    lora: AdapterUse | None = None  # likewise
    by_pool: tuple[PoolUse, ...] = ()  # of a plan of several, in its order
    transfers: TransferUse | None = None  # between them
    fleet: FleetUse | None = None  # where replicas come and go
    encoding: EncodeUse | None = None  # where requests bring images

    def to_dict(self) -> dict[str, Any]:
        """The summary JSON: nested dicts, lists and plain numbers."""
        data = asdict(self)
        if self.speculation is None:
            del data["speculation"]
        data["confidence"]["notes"] = list(self.confidence.notes)
        if not data["requests"]["shed"]:
            del data["requests"]["shed"]
        groups: dict[str, Any] = data.pop("groups")
        data["kv_tiers"] = list(data["kv_tiers"])
        data["by_pool"] = list(data["by_pool"])
        for key in ("kv_tiers", "swap", "lora", "by_pool", "transfers", "fleet", "encoding"):
            if not data[key]:
                del data[key]
        return data | groups


def summarise(
    result: SimulationResult,
    account: Account,
    deployment: Deployment,
    *,
    slo: SLO | None = None,
    prices: Prices = Prices(),
    warmup: float = 0.0,
    with_itl: bool = True,
    notes: tuple[str, ...] = (),
    wall_s: float = 0.0,
    version: str = "",
    accounts: tuple[Account, ...] = (),
    senders: Senders = NOBODY,  # whose classes and clients the requests are of: the trace
) -> Summary:
    """Everything that one run of one pool says.

    Args:
        account: time, energy and work of the counters over the run's duration, all pools as one.
        accounts: of each pool, where there are several; what is said of the only pool is then of the first.
        warmup: requests that arrive in this first share of the time of arrivals count neither for latencies
            nor for the SLO. Request counts, throughput, energy, cost and the gaps of ``itl_s`` are of the
            whole run.
        with_itl: False leaves ``itl_s`` empty; the one part of a summary that costs time on a large run.
        wall_s: seconds that the simulation took.
    """
    counters = result.pools[0]
    counted = counted_requests(result.requests.arrival_s, warmup)
    per_request = latencies(result.requests)
    _, output_tokens = completed_tokens(result.requests)
    duration_s, requests = result.duration_s, count_requests(result.requests)
    notes = result.notes + notes + write_notes(counters, deployment.tiers, result.replicas[0], duration_s)
    joules = energy(account.energy_j, output_tokens, requests.completed, duration_s, deployment.surroundings)
    return Summary(
        requests=requests,
        duration_s=duration_s,
        ttft_s=distribution(per_request.ttft_s[counted]),
        tpot_s=distribution(per_request.tpot_s[counted]),
        itl_s=itl_distribution(result.itl) if with_itl else Distribution(),
        e2e_s=distribution(per_request.e2e_s[counted]),
        queue_s=distribution(per_request.queue_s[counted]),
        throughput=throughput(result.requests, duration_s, deployment.devices),
        slo=attainment(result, slo, warmup) if slo else SloReport(),
        energy=joules,
        cost=cost(prices.usd_per_device_hour, deployment.devices, duration_s, output_tokens),
        carbon=carbon(joules.total_j, prices.g_co2e_per_kwh),
        memory=Memory(deployment.weights_bytes_per_device, deployment.kv_capacity_tokens, kv_peak_of_all(result)),
        preemptions=sum(pool.preemptions for pool in result.pools), prefix_hit_rate=prefix_hit_rate(result.requests),
        utilization=Utilization(account.mfu, account.mbu, busy_of_all(result)),
        breakdown_s=dict(account.breakdown_s),
        confidence=Confidence(account.calibrated_fraction, account.extrapolated_fraction, notes),
        simulation=SimulationInfo(wall_s, sum(pool.iterations for pool in result.pools), result.seed, version),
        speculation=speculation(result.pools[-1], deployment.drafts),
        groups=groups_of(result.requests, senders, counted),
        kv_tiers=tier_uses(counters, deployment.tiers, result.requests),
        swap=swap_use(counters, deployment.swap), lora=adapter_use(counters) if deployment.lora else None,
        by_pool=pool_uses(result, accounts, deployment.shapes) if accounts else (), transfers=transfer_use(result),
        fleet=fleet_use(result, deployment.holdings), encoding=encode_use(result),
    )  # fmt: skip
