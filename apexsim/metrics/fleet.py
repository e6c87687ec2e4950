"""What a fleet whose replicas come and go did, and what it held: devices are paid and draw power while they are there.

Devices are there from when they are provisioned until they are given back: while they load weights, while their
replica is down, in maintenance or changes its role, too. Only the autoscaler, and a failure without an end, give back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.accounting import Account, Accounting
from apexsim.engine.result import FAILED, Counters, SimulationResult
from apexsim.metrics.energy import Surroundings
from apexsim.metrics.pools import PoolShape

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What a replica of one pool takes up."""

    devices: int
    devices_per_node: int
    node_overhead_w: float


@dataclass(frozen=True, slots=True)
class FleetUse:
    """Replicas that serve over the run's time, and what happened to them and to requests."""

    serving_mean: float
    serving_min: int
    serving_max: int
    device_hours: float
    added: int
    released: int
    failures: int
    maintenance: int
    role_switches: int
    retries: int  # of requests: attempts beyond the first
    failed_requests: int
    slowed_s: float  # busy time that is due to stragglers
    lost_transfers: int
    lost_bytes: float


def replicas_held(result: SimulationResult) -> tuple[float, ...]:
    """Replicas of each pool whose devices are there, the mean over the run; as the plan says where none ever goes."""
    fleet, duration_s = result.fleet, result.duration_s
    if fleet is None or duration_s <= 0:
        return result.replicas
    spans = np.diff(fleet.held.clip(0.0, duration_s), axis=1)[:, 0]
    return tuple(float(spans[fleet.held_pool == p].sum()) / duration_s for p in range(len(result.pools)))


def account_held(accounting: Accounting, counters: Counters, held: float, result: SimulationResult, p: int) -> Account:
    """The account of pool p, of which ``held`` replicas were there: the excess of stragglers is a part of its own."""
    if result.fleet is None:
        return accounting.account(counters, held, result.duration_s)
    slowed_s = result.fleet.slowed_s[p]
    account = accounting.account(replace(counters, busy_s=counters.busy_s - slowed_s), held, result.duration_s)
    parts = account.breakdown_s
    if slowed_s == 0.0:
        return account
    return replace(account, breakdown_s=parts | {"slowed": slowed_s, "idle": parts["idle"] - slowed_s})


def levels(spans: NDArray[np.float64], duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(seconds, how many spans are open meanwhile) of each stretch of a run between two of their ends."""
    clipped = spans.clip(0.0, duration_s)
    ends = np.unique(np.concatenate([clipped.ravel(), [0.0, duration_s]]))
    middle = 0.5 * (ends[1:] + ends[:-1])
    open_ = (clipped[:, :1] <= middle) & (middle < clipped[:, 1:])
    return np.diff(ends), open_.sum(axis=0).astype(np.int64)


def overhead_w(result: SimulationResult, holdings: Sequence[Holding]) -> float:
    """Watts of the nodes beside their devices, the mean over the run: of whole nodes, filled one after the other."""
    assert result.fleet is not None
    watts = 0.0
    for p, holding in enumerate(holdings):
        seconds, count = levels(result.fleet.held[result.fleet.held_pool == p], result.duration_s)
        nodes = -(-count * holding.devices // holding.devices_per_node)
        watts += holding.node_overhead_w * float(seconds @ nodes) / max(result.duration_s, 1e-300)
    return watts


def surroundings_held(around: Surroundings, result: SimulationResult, holdings: Sequence[Holding]) -> Surroundings:
    """What stands around the devices that were there."""
    return around if result.duration_s <= 0 else replace(around, overhead_w=overhead_w(result, holdings))


def shapes_held(
    shapes: Sequence[PoolShape], held: Sequence[float], holdings: Sequence[Holding]
) -> tuple[PoolShape, ...]:
    """The pools with the devices that were there, the mean over the run."""
    return tuple(
        replace(shape, devices=replicas * holding.devices)
        for shape, replicas, holding in zip(shapes, held, holdings, strict=True)
    )


def fleet_use(result: SimulationResult, holdings: Sequence[Holding]) -> FleetUse | None:
    """What happened; None where no replica ever goes."""
    fleet, columns = result.fleet, result.requests
    if fleet is None or columns.attempts is None:
        return None
    duration_s = result.duration_s
    seconds, serving = levels(fleet.serving, duration_s) if duration_s > 0 else (np.ones(1), np.zeros(1, np.int64))
    kinds = [event.kind for event in fleet.events]
    devices = sum(n * holding.devices for n, holding in zip(replicas_held(result), holdings, strict=True))
    return FleetUse(
        serving_mean=float(seconds @ serving / seconds.sum()), serving_min=int(serving.min()),
        serving_max=int(serving.max()), device_hours=devices * duration_s / SECONDS_PER_HOUR,
        added=kinds.count("coming") + kinds.count("kept"), released=kinds.count("released"),
        failures=kinds.count("failed"), maintenance=kinds.count("away"), role_switches=kinds.count("moving"),
        retries=int((columns.attempts - 1).sum()), failed_requests=int((columns.status == FAILED).sum()),
        slowed_s=sum(fleet.slowed_s), lost_transfers=fleet.lost_transfers, lost_bytes=fleet.lost_bytes,
    )  # fmt: skip
