"""A hardware profile: what one device can do, and where each figure comes from.

All rates are dense (no sparsity) and per device; links count one direction. Figures that nobody published are
estimated and say so: reports show the share of estimated inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.dtypes import ComputeDtype, KvDtype
from apexsim.spec.formats import linear_format
from apexsim.spec.kv_formats import KV_FORMATS
from apexsim.spec.units import Bandwidth, Bytes, Flops, Seconds

Basis = Literal["measured", "vendor", "estimated", "unofficial"]

class Provenance(Strict):
    """Where a figure comes from, and how far to trust it."""

    source: str = Field(description="datasheet, document or measurement")
    basis: Basis = Field(description="measured, vendor, estimated or unofficial")
    confidence: Literal["A", "B", "C"] = Field(
        description="A: vendor figure; B: sources differ or the vendor's sheet was not seen; C: unofficial"
    )
    checked: bool = Field(description="compared with at least one further public source")
    date: str = Field(description="when the figures were taken over, YYYY-MM-DD")
    note: str = Field("", description="traps and disagreements")


class Scaleup(Strict):
    """The fast links between neighbouring devices (NVLink, Infinity Fabric, ICI, …)."""

    technology: str = Field(description="name of the link")
    bandwidth: Bandwidth = Field(gt=0, description="what one device can send, all its links together")
    domain: int = Field(ge=2, description="devices that the links can join")
    topology: Literal["switch", "mesh", "torus"] = Field(
        description="switch: any pair at full rate; mesh: the links to the peers share it; torus: neighbours"
    )
    ports: int | None = Field(
        None,
        ge=1,
        description="mesh, torus: links of one device that share its bandwidth; the peers if left out",
    )
    rack_scale: bool = Field(False, description="the links leave the node and join the nodes of a rack")
    latency_s: Seconds = Field(description="of one hop, device to device (estimated)")


class Efficiency(Strict):
    """Shares of the datasheet that real kernels reach; the analytic cost model multiplies with them."""

    nearest: str = Field("", description="measured device that the shares come from; empty where they are its own")
    gemm: dict[ComputeDtype, float] = Field(description="by dtype of arithmetic: share of the peak in a large GEMM")
    attention: float = Field(gt=0, le=1, description="share of the 16-bit peak in a long prefill attention")
    memory: float = Field(gt=0, le=1, description="share of the memory bandwidth in large reads")
    link: float = Field(gt=0, le=1, description="share of the link bandwidth in large collectives")
    launch_s: Seconds = Field(description="shortest time of a kernel inside a CUDA graph")
    basis: Basis = Field(description="measured on this device, or estimated from another")
    source: str = Field(description="which measurements, or which device's")


class HardwareProfile(Strict):
    """One device. Profiles are values: equal by content, hashed by name."""

    name: str = Field(description="the profile's name, also its folder's")
    device: str = Field(description="the product's name")
    vendor: str = Field(description="who makes it")
    year: int = Field(ge=2010, description="when it came out")
    peak_flops: dict[ComputeDtype, Flops] = Field(
        min_length=1, description="dense FLOP/s of the tensor units by dtype; absent = not supported"
    )
    vector_flops: Flops | None = Field(
        None,
        gt=0,
        description="16-bit FLOP/s outside the matrix units, which expand integer KV caches; null: unknown",
    )
    units: int | None = Field(
        None, ge=1, description="parallel units that run tiles of a kernel: multiprocessors, or threads of a CPU"
    )
    memory_bytes: Bytes = Field(gt=0, description="memory that the driver reports where known, else the sales figure")
    memory_bytes_source: str = Field(description="driver or sales figure, and whose")
    memory_bandwidth: Bandwidth = Field(gt=0, description="of the device's own memory")
    scaleup: Scaleup | None = Field(None, description="fast links between devices; null where there are none")
    pcie_bandwidth: Bandwidth | None = Field(None, description="PCIe (or C2C) to the host; null where unpublished")
    pcie_latency_s: Seconds = Field(description="of one hop over PCIe (estimated)")
    node_link_bandwidth: Bandwidth = Field(gt=0, description="network of one device, where the cluster says nothing")
    node_link_latency_s: Seconds = Field(description="of one message between nodes (estimated)")
    links_source: str = Field(description="where PCIe, network and latencies come from")
    tdp_w: float | None = Field(None, gt=0, description="board power limit; null where unpublished")
    idle_w: float | None = Field(None, gt=0, description="idle with a context and a loaded engine; null without TDP")
    idle_basis: Basis = Field("estimated", description="how the idle power is known")
    idle_source: str = Field("", description="where the idle power comes from")
    power_from: str = Field(
        "h200-sxm", description="device whose metered kernels say what this one's draw; its own name where they were"
    )
    power_carries: Literal["rates", "shares"] = Field(
        "shares",
        description="what carries over from it: rates, joules a FLOP and a byte (equal dies); shares, the part of what "
        "lies between idle and TDP at the same use of the device's own peaks",
    )
    boost_clock_mhz: float | None = Field(None, gt=0, description="clock that peak_flops and kernels were taken at")
    min_clock_mhz: float | None = Field(None, gt=0, description="lowest clock that the device can be locked to")
    clock_source: str = Field("", description="where the clocks come from")
    price_usd_per_hour: float | None = Field(None, gt=0, description="price of one device; null where none is known")
    price_source: str = Field("", description="where the price comes from")
    efficiency: Efficiency = Field(description="what real kernels reach, for the analytic cost model")
    kernels: tuple[str, ...] = Field((), strict=False, description="calibrated kernel tables in the profile's folder")
    provenance: Provenance = Field(description="where the datasheet figures come from")

    _folder: Path | None = PrivateAttr(None)

    @property
    def folder(self) -> Path | None:
        """Where the profile was read from, with its calibrated kernels; None for one that was made in memory."""
        return self._folder

    def read_from(self, folder: Path) -> HardwareProfile:
        """The same profile, which knows its folder."""
        known = self.model_copy()
        known._folder = folder
        return known

    @model_validator(mode="after")
    def _sane(self) -> HardwareProfile:
        missing = sorted(set(self.peak_flops) - set(self.efficiency.gemm))
        if missing:
            raise ValueError(f"efficiency.gemm lacks {', '.join(missing)}, which peak_flops holds")
        if any(not 0 < share <= 1 for share in self.efficiency.gemm.values()):
            raise ValueError(f"efficiency.gemm = {self.efficiency.gemm}: shares lie in (0, 1]")
        if self.idle_w is not None and (self.tdp_w is None or self.idle_w >= self.tdp_w):
            raise ValueError(f"idle_w = {self.idle_w}: must be below tdp_w = {self.tdp_w}")
        low, high = self.min_clock_mhz, self.boost_clock_mhz
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            raise ValueError(f"min_clock_mhz = {low} and boost_clock_mhz = {high}: both or none, the first the lower")
        return self

    def __eq__(self, other: object) -> bool:
        """By content, wherever it was read from."""
        return isinstance(other, HardwareProfile) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(self.name)

    def executes(self, weights: str) -> ComputeDtype | None:
        """The dtype that the tensor units multiply in for weights of a format (``spec/formats.py``); None where the
        device cannot.
        """
        pair = linear_format(weights).pair(self.peak_flops)
        return pair.compute if pair else None

    def supports(self, weights: str) -> bool:
        """Whether the device runs weights of this format."""
        return self.executes(weights) is not None

    def supports_kv(self, dtype: KvDtype) -> bool:
        """Whether the device's attention kernels read a KV cache of this dtype: matrix units for floats, vector units
        of a known rate, which expand them, for integers."""
        if KV_FORMATS[dtype].expand:
            return self.vector_flops is not None
        return dtype in self.peak_flops or (dtype == "bf16" and "fp16" in self.peak_flops)
