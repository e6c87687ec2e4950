"""Which adapters a pool can serve: rules of ``legality.py``, a reason in one line or None."""

from __future__ import annotations

from apexsim.spec.drafts import drafts_of
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.lora import Lora
from apexsim.spec.model import Attention, DenseMlp, ModelSpec
from apexsim.spec.plan import Pool


def wrong_lora(model: ModelSpec, pool: Pool) -> str | None:
    """Why a pool cannot serve its adapters, or None."""
    lora = pool.lora
    if lora is None or lora.adapters == 0:
        return None
    drafts = drafts_of(pool)
    others = {
        f"pp={pool.pp}": pool.pp > 1, f"dp={pool.dp}": pool.dp > 1, f"cp={pool.cp}": pool.cp > 1,
        "speculative decoding": drafts > 0,
    }  # fmt: skip
    other = next((name for name, there in others.items() if there), None)
    if other is not None:
        return f"lora with {other} is not simulated in this release"
    return _wrong_matrices(model, lora) or _wrong_places(pool, lora)


def _wrong_matrices(model: ModelSpec, lora: Lora) -> str | None:
    for group in model.groups:
        if not isinstance(group.attention, Attention) or group.attention.kind == "mla":
            return f"lora: {model.name} has no q, k and v projections of its own in every layer"
        if not isinstance(group.mlp, DenseMlp) and set(lora.matrices) & {"gate", "up", "down"}:
            return f"lora: adapters on the experts of {model.name} are not simulated (targets: [q, k, v, o])"
    return None


def _wrong_places(pool: Pool, lora: Lora) -> str | None:
    """Host memory holds what the device holds; who may overtake is known for one order of the waiting list."""
    least = min(lora.max_loras, lora.adapters)
    if lora.in_host_memory < least:
        return f"lora: max_cpu_loras={lora.max_cpu_loras} is below the {least} adapters that the device holds, as well"
    if lora.take_turns and pool.scheduler.policy != "fcfs":
        return (
            f"lora: {lora.adapters} adapters take turns on max_loras={lora.max_loras} slots, which is simulated with "
            f"policy: fcfs only, not {pool.scheduler.policy} (or set max_loras to {lora.adapters})"
        )
    return None


def check_lora_link(profile: HardwareProfile, pool: Pool) -> str | None:
    """Why the device cannot load adapters, or None."""
    lora = pool.lora
    if lora is None or lora.adapters == 0 or lora.host_bandwidth is not None or profile.pcie_bandwidth is not None:
        return None
    return f"lora.host_bandwidth: missing, and the PCIe of {profile.name} is not known (as in 25GB/s)"
