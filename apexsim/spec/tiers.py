"""KV tiers beyond the device's memory, as a plan declares them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apexsim.spec.base import Strict
from apexsim.spec.units import Bandwidth, Bytes, Seconds, format_bytes, format_seconds

TierName = Literal["host", "nvme", "remote"]

TIERS: tuple[TierName, ...] = ("host", "nvme", "remote")
"""From the nearest on: what a plan leaves out is skipped, the order stays."""


class KvTier(Strict):
    """One tier. Host memory and NVMe are declared by the device that uses them; the remote pool is one for all."""

    tier: TierName = Field(description="host: the node's memory; nvme: its disks; remote: a pool for all replicas")
    capacity: Bytes = Field(gt=0, description="host, nvme: of one device of the pool; remote: of the whole pool")
    bandwidth: Bandwidth | None = Field(
        None,
        gt=0,
        description="what one device reads from it; where left out host: 0.78 of the device's PCIe, nvme: 4.8GB/s, "
        "remote: the network of one device",
    )
    latency: Seconds | None = Field(
        None, ge=0, description="before the first byte of a load; host: 10us, nvme: 100us, remote: 50us where left out"
    )
    write: Literal["through", "back"] = Field(
        "through",
        description="through: takes every block as soon as it is computed; back: takes what the tier above it evicts",
    )

    @property
    def short(self) -> str:
        """What tells it apart in a plan's id: ``host200GB``."""
        rate = "" if self.bandwidth is None else f"@{format_bytes(self.bandwidth)}"
        wait = "" if self.latency is None else f"+{format_seconds(self.latency)}"
        return f"{self.tier}{format_bytes(self.capacity)}{rate}{wait}{'back' if self.write == 'back' else ''}"
