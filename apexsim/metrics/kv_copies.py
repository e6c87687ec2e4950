"""What KV tiers and the swap space did in a run, in bytes and shares; nothing where a plan has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apexsim.cost.swap import SwapLaw
from apexsim.cost.tiers import TierLaw
from apexsim.engine.result import Counters, RequestColumns
from apexsim.metrics.throughput import completed_tokens


@dataclass(frozen=True, slots=True)
class TierUse:
    """One tier. Bytes are of all devices of all replicas.

    Attributes:
        hit_rate: prompt tokens that first admissions found here ÷ prompt tokens of completed requests.
        peak_fraction: of its capacity, the fullest replica's; None for one of no capacity.
    """

    tier: str
    hit_rate: float | None
    loaded_bytes: float
    stored_bytes: float
    evicted_bytes: float
    peak_fraction: float | None


@dataclass(frozen=True, slots=True)
class SwapUse:
    """Preemption by swap: how many victims went to host memory, and the bytes copied, out and in, of all devices."""

    swapped: int
    copied_bytes: float


def tier_uses(counters: Counters, laws: Sequence[TierLaw], requests: RequestColumns) -> tuple[TierUse, ...]:
    """The tiers in the order of the plan; () where none was at work."""
    inputs, _ = completed_tokens(requests)
    return tuple(
        TierUse(
            law.name, tier.hit_tokens / inputs if inputs else None, tier.loaded_blocks * law.block_bytes,
            tier.stored_blocks * law.block_bytes, tier.evicted_blocks * law.block_bytes,
            tier.peak_blocks / tier.capacity_blocks if tier.capacity_blocks else None,
        )
        for law, tier in zip(laws, counters.tiers, strict=False)
    )  # fmt: skip


def swap_use(counters: Counters, law: SwapLaw | None) -> SwapUse | None:
    """None where preemption recomputes."""
    return None if law is None else SwapUse(counters.swaps, counters.copied_blocks * law.block_bytes)


def write_notes(
    counters: Counters, laws: Sequence[TierLaw], replicas: float, duration_s: float
) -> tuple[str, ...]:
    """A line for each tier that was written faster than it can be read: stores would lag, and be dropped.

    Writes are off the critical path and not limited; a link sends as much in each direction.
    """
    notes = []
    for law, tier in zip(laws, counters.tiers, strict=False):
        share = tier.stored_blocks / replicas * law.block_s / duration_s if duration_s > 0 else 0.0
        if share > 1.0:
            notes.append(
                f"the {law.name} tier was written at {share:.3g} times its bandwidth: an engine would store less, "
                "and find less in it"
            )
    return tuple(notes)
