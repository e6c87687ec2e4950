"""How much of the devices a run used: memory, compute, bandwidth, time."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.engine.result import COMPLETED, Counters, RequestColumns, SimulationResult
from apexsim.metrics.metric import Metric
from apexsim.metrics.throughput import completed_tokens


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one replica; the peak is that of the fullest one."""

    weights_bytes_per_device: float | None = None
    kv_capacity_tokens: int | None = None
    kv_peak_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Utilization:
    """Shares of the whole run, drain and idle time included.

    ``mfu`` is model FLOPs ÷ what the devices could do at their peak, ``mbu`` the same for bytes of memory.
    """

    mfu: float | None = None
    mbu: float | None = None
    busy_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Confidence:
    """Share of the busy device time priced by measured kernels, and priced beyond their measured range."""

    calibrated_fraction: float | None = None
    extrapolated_fraction: float | None = None
    notes: tuple[str, ...] = ()


def kv_peak_fraction(counters: Counters) -> float | None:
    """The most KV blocks of a replica in use at once ÷ the blocks that it has."""
    return counters.kv_peak_blocks / counters.kv_blocks if counters.kv_blocks else None


def kv_peak_of_all(result: SimulationResult) -> float | None:
    """The largest ``kv_peak_fraction`` of any pool."""
    return max((share for pool in result.pools if (share := kv_peak_fraction(pool)) is not None), default=None)


def busy_fraction(counters: Counters, replicas: float, duration_s: float) -> float | None:
    """Share of all replicas' time in which an iteration runs."""
    return counters.busy_s / (replicas * duration_s) if duration_s > 0 else None


def busy_of_all(result: SimulationResult) -> float | None:
    """``busy_fraction`` over the replicas of all pools."""
    busy_s, replicas = sum(pool.busy_s for pool in result.pools), sum(result.replicas)
    if result.encoded is not None:
        busy_s, replicas = busy_s + result.encoded.busy_s, replicas + result.encoded.units
    return busy_s / (replicas * result.duration_s) if result.duration_s > 0 else None


def prefix_hit_rate(requests: RequestColumns) -> float | None:
    """Prompt tokens found in the prefix cache ÷ prompt tokens, of completed requests."""
    inputs, _ = completed_tokens(requests)
    cached = requests.cached_tokens[requests.status == COMPLETED].sum()
    return float(cached) / inputs if inputs else None


METRICS = (
    Metric("kv_peak", "KV cache peak", "share", "none", lambda s: s.memory.kv_peak_fraction),
    Metric("preemptions", "preemptions", "count", "down", lambda s: s.preemptions),
    Metric("prefix_hit_rate", "prefix cache hits", "share", "up",
           lambda s: s.prefix_hit_rate),
    Metric("busy_fraction", "busy time", "share", "none", lambda s: s.utilization.busy_fraction),
    Metric("mfu", "MFU", "share", "up", lambda s: s.utilization.mfu),
    Metric("mbu", "MBU", "share", "up", lambda s: s.utilization.mbu),
)
