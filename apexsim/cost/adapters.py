"""What it takes to bring a LoRA adapter to the device: seconds over the host link, and pages where it has no slot.

Each tensor parallel rank loads its own share over its own PCIe at the same time as the others:

    host memory → device:      latency + bytes of the rank / bandwidth
    elsewhere → host memory:   latency + bytes of all ranks / bandwidth

Where a plan says nothing, the link has ``PCIE_SHARE`` of the PCIe of the profile (as KV tiers), and the latency is that
of one copy for each tensor, A and B of every adapted matrix: ``API_S`` each (FastSwitch), which is an estimate here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from apexsim.cost.lora import adapter_bytes, adapter_tensors, lora_of
from apexsim.cost.memory import MemoryPlan
from apexsim.cost.swap import API_S
from apexsim.cost.tiers import PCIE_SHARE
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.lora import Lora
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool


@dataclass(frozen=True, slots=True)
class AdapterLaw:
    """Adapters of a compiled pool. Of K ranks that they take in turn, adapter j has the figures j mod K.

    Attributes:
        adapters: how many requests choose from, each in proportion to (number + 1)^-``zipf`` where no trace says it.
        slots: most adapters of running requests, and most on the device at once.
        host_slots: most in host memory, those on the device among them.
        load_s: [K] seconds from host memory to the device.
        fetch_s: [K] seconds more where it is not in host memory.
        blocks: [K] KV blocks that it takes while a request runs with it; 0 where it has a slot.
        load_bytes: [K] of all ranks.
        prefetch: it is fetched from its request's arrival on.
    """

    adapters: int
    slots: int
    host_slots: int
    load_s: tuple[float, ...]
    fetch_s: tuple[float, ...]
    blocks: tuple[int, ...]
    load_bytes: tuple[float, ...] = (0.0,)
    prefetch: bool = False
    zipf: float = 1.0


def adapter_law(model: ModelSpec, profile: HardwareProfile, pool: Pool, memory: MemoryPlan) -> AdapterLaw | None:
    """The adapters of a pool; None where it has none. The link is known (``legality``)."""
    lora = lora_of(pool)
    if lora is None:
        return None
    link = _host_bandwidth(profile, lora)
    own = [adapter_bytes(model, lora, rank, pool.tp) for rank in lora.ranks]
    latency_s = API_S * adapter_tensors(model, lora) if lora.load_latency is None else lora.load_latency
    block_bytes = memory.kv_bytes_per_token_per_device * memory.block_size
    return AdapterLaw(
        lora.adapters, lora.max_loras, lora.in_host_memory,
        load_s=tuple(latency_s + size / link for size in own),
        fetch_s=tuple(
            lora.source_latency + adapter_bytes(model, lora, rank) / lora.source_bandwidth for rank in lora.ranks
        ),
        blocks=tuple(ceil(size / block_bytes) if lora.unified else 0 for size in own),
        load_bytes=tuple(size * pool.tp for size in own), prefetch=lora.prefetch, zipf=lora.popularity.zipf,
    )  # fmt: skip


def _host_bandwidth(profile: HardwareProfile, lora: Lora) -> float:
    """Bytes/s from host memory to one device."""
    if lora.host_bandwidth is not None:
        return lora.host_bandwidth
    assert profile.pcie_bandwidth is not None, "refused by legality.check_lora_link"
    return PCIE_SHARE * profile.pcie_bandwidth
