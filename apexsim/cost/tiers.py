"""What a KV tier beyond the device's memory holds, and how fast its blocks come back.

A block of a tier is the KV of ``block_size`` tokens of all layers. Each device of a replica keeps and loads its own
share of it: its heads of the layers of its pipeline stage; the stage with the most bytes a token stands for all.
Devices load at the same time.

Defaults where a plan says nothing: host memory at ``PCIE_SHARE`` of the PCIe of the profile, NVMe at what CacheBlend
(EuroSys'25) measured, a remote pool at the network of one device with the efficiency of its links.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

from apexsim.cost.graph import Cut, cut_of, stage_operators
from apexsim.cost.memory import stage_kv_token_bytes
from apexsim.cost.operators import AttentionOp

if TYPE_CHECKING:
    from apexsim.spec.cluster import Cluster
    from apexsim.spec.hardware import HardwareProfile
    from apexsim.spec.model import ModelSpec
    from apexsim.spec.plan import Pool
    from apexsim.spec.tiers import KvTier

PCIE_SHARE = 0.78
"""Share of the PCIe datasheet rate that copies of KV blocks reach: 25 GB/s of PCIe 4 x16 (FastSwitch)."""

NVME_BANDWIDTH = 4.8e9
"""Bytes/s that CacheBlend measured from one NVMe drive."""

LATENCY_S = {"host": 10e-6, "nvme": 100e-6, "remote": 50e-6}
"""Before the first byte of a load. Estimated: a call of the copy engine; a read of flash; a look-up at the pool's
metadata service and an RDMA read."""

MOST_BLOCKS = 1 << 40
"""More than any run stores; a larger capacity is this one."""


@dataclass(frozen=True, slots=True)
class TierLaw:
    """One tier of a compiled pool.

    Attributes:
        blocks: KV blocks of a replica that it holds, or of all replicas where they share it.
        block_s: seconds to load one block, on each device.
        block_bytes: of one block, on all devices of a replica.
        layers: of one pipeline stage, over which a load and the computation overlap.
        through: it takes every block as soon as it is computed; else what the tier above it evicts.
        carries: what comes from the tiers below passes through its link, too: all of it comes over PCIe.
    """

    name: str
    blocks: int
    block_s: float
    latency_s: float
    block_bytes: float
    layers: int
    through: bool = True
    carries: bool = False
    shared: bool = False


def tier_laws(model: ModelSpec, profile: HardwareProfile, cluster: Cluster, pool: Pool) -> tuple[TierLaw, ...]:
    """The tiers of a pool, in the order of the plan; bandwidths that nobody knows were refused by ``legality``."""
    cut = cut_of(model, pool)
    stages = [stage_kv_token_bytes(model, cut, stage) * pool.block_size for stage in range(cut.pp)]
    whole = sum(stages) * cut.tp * cut.cp  # a block has its tokens on each of the cp ranks
    layers = kv_layers(model, cut)
    laws = []
    for tier in pool.kv_tiers:
        shared = tier.tier == "remote"
        blocks = floor(tier.capacity / (whole if shared else max(stages)))
        laws.append(
            TierLaw(
                tier.tier, min(blocks, MOST_BLOCKS), max(stages) / _bandwidth(tier, profile, cluster),
                LATENCY_S[tier.tier] if tier.latency is None else tier.latency, whole, layers,
                through=tier.write == "through", carries=tier.tier == "host", shared=shared,
            )
        )  # fmt: skip
    return tuple(laws)


def kv_layers(model: ModelSpec, cut: Cut) -> int:
    """Layers with a KV cache in the pipeline stage that has most of them."""
    return max(
        sum(op.count for op in stage_operators(model, cut, stage) if isinstance(op, AttentionOp))
        for stage in range(cut.pp)
    )


def _bandwidth(tier: KvTier, profile: HardwareProfile, cluster: Cluster) -> float:
    """Bytes/s that one device reads from the tier."""
    if tier.bandwidth is not None:
        return tier.bandwidth
    if tier.tier == "host":
        assert profile.pcie_bandwidth is not None, "refused by legality.check_tiers"
        return PCIE_SHARE * profile.pcie_bandwidth
    if tier.tier == "nvme":
        return NVME_BANDWIDTH
    return profile.efficiency.link * (cluster.node_link or profile.node_link_bandwidth)
