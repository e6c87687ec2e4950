"""Several pools in one summary: what each of them did, what went between them, and their accounts as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apexsim.cost.accounting import Account
from apexsim.engine.result import SimulationResult
from apexsim.metrics.distribution import Distribution, distribution
from apexsim.metrics.usage import busy_fraction, kv_peak_fraction


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What one pool of several did."""

    role: str
    replicas: float  # where they come and go, the mean over the run
    devices: float
    iterations: int
    preemptions: int
    kv_peak_fraction: float | None
    busy_fraction: float | None
    mfu: float
    mbu: float


@dataclass(frozen=True, slots=True)
class EncodeUse:
    """Images of a run.

    ``prepare_s``: from the arrival until they were fetched and preprocessed; ``encode_s``: from then until the last
    slice of a request was encoded, waiting included, and ``transfer_s`` until its embeddings were where it is prefilled
    (both of pools with role encode only). ``busy_s``: of the devices that encoded.
    """

    requests: int
    slices: int  # encoded
    busy_s: float
    batches: int | None  # of units with role encode
    prepare_s: Distribution
    encode_s: Distribution
    transfer_s: Distribution


@dataclass(frozen=True, slots=True)
class TransferUse:
    """KV that went from pools that prefill to those that decode.

    ``reserve_s``: from the end of a prefill until its blocks were reserved, where that came later; ``transfer_s``: from
    when the KV could go (both) until it was there.
    """

    count: int
    total_bytes: float
    mean_bytes: float
    transfer_s: Distribution
    reserve_s: Distribution
    busy_fraction: float | None  # of the run, in which at least one transfer moved


@dataclass(frozen=True, slots=True)
class PoolShape:
    """What a summary needs to know of one pool."""

    role: str
    devices: float
    peak_flops: float  # of one device, for weights of MFU
    memory_bandwidth: float


def pool_uses(
    result: SimulationResult, accounts: Sequence[Account], shapes: Sequence[PoolShape]
) -> tuple[PoolUse, ...]:
    """One row a pool; the one with role encode comes last."""
    rows = tuple(
        PoolUse(
            shape.role, replicas, shape.devices, counters.iterations, counters.preemptions, kv_peak_fraction(counters),
            busy_fraction(counters, replicas, result.duration_s), account.mfu, account.mbu,
        )
        for counters, replicas, account, shape in zip(result.pools, result.replicas, accounts, shapes, strict=False)
    )  # fmt: skip
    if len(shapes) == len(rows):
        return rows
    shape, account, encoded = shapes[-1], accounts[-1], result.encoded
    batches, busy_s = (0, 0.0) if encoded is None else (encoded.batches, encoded.busy_s)
    busy = busy_s / (shape.devices * result.duration_s) if result.duration_s > 0 else None
    encoders = PoolUse(
        shape.role, shape.devices, shape.devices, batches, 0, None, busy, account.mfu, account.mbu
    )
    return (*rows, encoders)


def encode_use(result: SimulationResult) -> EncodeUse | None:
    """What was encoded; None where no request brought an image."""
    encoded = result.encoded
    if encoded is None:
        return None
    asked = encoded.images > 0
    return EncodeUse(
        int(asked.sum()), encoded.slices + sum(pool.slices for pool in result.pools),
        encoded.busy_s + sum(pool.encode_s for pool in result.pools), encoded.batches if encoded.units else None,
        distribution((encoded.prepared_s - result.requests.arrival_s)[asked]),
        distribution((encoded.encoded_s - encoded.prepared_s)[np.isfinite(encoded.encoded_s)]),
        distribution((encoded.landed_s - encoded.encoded_s)[np.isfinite(encoded.landed_s)]),
    )  # fmt: skip


def transfer_use(result: SimulationResult) -> TransferUse | None:
    """What travelled; None where nobody hands over."""
    transfers = result.transfers
    if transfers is None or transfers.started == 0:
        return None
    went = np.isfinite(transfers.landed_s)
    count, carried = transfers.finished, transfers.carried
    if result.encoded is not None and result.encoded.units > 0:  # embeddings travel over the same links
        count, carried = int(went.sum()), float(transfers.size_bytes.sum())
        if count == 0:
            return None
    ready_s = np.fmax(transfers.left_s, transfers.reserved_s)
    return TransferUse(
        count, carried, carried / max(count, 1),
        distribution((transfers.landed_s - ready_s)[went]), distribution((ready_s - transfers.left_s)[went]),
        transfers.busy_s / result.duration_s if result.duration_s > 0 else None,
    )  # fmt: skip


def joined(accounts: Sequence[Account], shapes: Sequence[PoolShape]) -> Account:
    """The accounts of all pools as one; shares are weighted by what the devices could have done, or by device time."""
    devices = np.array([shape.devices for shape in shapes], np.float64)
    flops = devices * [shape.peak_flops for shape in shapes]
    reach = devices * [shape.memory_bandwidth for shape in shapes]
    parts = dict.fromkeys(part for account in accounts for part in account.breakdown_s)  # "slowed" is in some only
    busy = np.array([sum(s for part, s in a.breakdown_s.items() if part != "idle") for a in accounts]) * devices
    joules = [account.energy_j for account in accounts]
    watts = [account.mean_power_w for account in accounts]

    def mean(values: Sequence[float], weights: np.ndarray) -> float:
        total = float(weights.sum())
        return float(np.dot(values, weights)) / total if total > 0 else 0.0

    return Account(
        breakdown_s={part: sum(a.breakdown_s.get(part, 0.0) for a in accounts) for part in parts},
        energy_j=None if any(j is None for j in joules) else float(sum(j for j in joules if j is not None)),
        mean_power_w=None if any(w is None for w in watts) else mean([w for w in watts if w is not None], devices),
        mfu=mean([a.mfu for a in accounts], flops), mbu=mean([a.mbu for a in accounts], reach),
        calibrated_fraction=mean([a.calibrated_fraction for a in accounts], busy),
        extrapolated_fraction=mean([a.extrapolated_fraction for a in accounts], busy),
    )  # fmt: skip
