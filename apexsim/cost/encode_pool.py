"""A pool that encodes images and does nothing else, compiled: its law, its memory, its account."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.cost.accounting import Account
from apexsim.cost.clock import clock_of
from apexsim.cost.host import HostModel
from apexsim.cost.memory import CONTEXT_BYTES, DoesNotFit
from apexsim.cost.power import PowerModel
from apexsim.cost.precision import compute_dtype
from apexsim.cost.pricing import pricer
from apexsim.cost.vision import EncoderLaw, encoder_law, encoder_notes
from apexsim.spec.cluster import Cluster
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool
from apexsim.spec.units import format_bytes


@dataclass(frozen=True, slots=True)
class CompiledEncoder:
    """Everything that the engine and the metrics need of a pool with role encode; a unit is one device."""

    law: EncoderLaw
    weights_bytes_per_device: float
    entry_s: float
    peak_flops: float
    memory_bandwidth: float
    power: PowerModel | None
    notes: tuple[str, ...]

    def account(self, busy_s: float, alone_s: float, units: int, duration_s: float) -> Account:
        """Time, energy and work of ``units`` units whose batches lasted ``busy_s`` in all.

        Args:
            alone_s: what they would have lasted if each slice had been alone: work and joules follow it.
        """
        work, wall_s = self.law.work, units * duration_s
        slices = alone_s / work.slice_s
        parts = {part: share * busy_s for part, share in work.shares.items()}
        energy = None if self.power is None else self.power.idle_w * wall_s + slices * work.joules

        def share(part: float, whole: float) -> float:
            return min(1.0, part / whole) if whole > 0 else 0.0

        return Account(
            breakdown_s={**parts, "host": 0.0, "idle": wall_s - sum(parts.values())},
            energy_j=energy,
            mean_power_w=None if energy is None or wall_s <= 0 else energy / wall_s,
            mfu=share(slices * work.flops, self.peak_flops * wall_s),
            mbu=share(slices * work.moved_bytes, self.memory_bandwidth * wall_s),
            calibrated_fraction=work.calibrated if busy_s > 0 else 0.0,
            extrapolated_fraction=0.0,
        )


def compile_encoder(
    model: ModelSpec, profile: HardwareProfile, cluster: Cluster, pool: Pool, engine: str, host: HostModel
) -> CompiledEncoder | DoesNotFit:
    """The vision encoder of ``model`` on one device for each replica of ``pool``, or why it does not fit."""
    clock = clock_of(profile, pool.clock_mhz)
    prices = pricer(profile, engine, cluster.link(profile, 1), "calibrated", clock, engines=host.kernels)
    law = encoder_law(model, prices, host, 1)
    needed = law.weights_bytes + CONTEXT_BYTES + pool.encode_batch * law.activation_bytes
    budget = profile.memory_bytes * pool.gpu_memory_utilization
    if needed > budget:
        reason = (
            f"the vision encoder of {model.name} needs {format_bytes(needed, 4)} a device with encode_batch="
            f"{pool.encode_batch}, {profile.name} offers {format_bytes(budget, 4)}: "
            f"short by {format_bytes(needed - budget, 4)}"
        )
        return DoesNotFit("memory", needed, budget, needed - budget, reason)
    return CompiledEncoder(
        law, law.weights_bytes, host.entry_s, profile.peak_flops[compute_dtype(profile, model.dtype)],
        profile.memory_bandwidth, prices.power, tuple(encoder_notes(host, law)),
    )  # fmt: skip
