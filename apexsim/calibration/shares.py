"""Shares of the datasheet for devices that nobody measured, from the fits of the nearest one that somebody did.

    apexsim calibrate shares --write

reads ``efficiency.nearest`` of each profile, prices large operators on that device with its committed fits, and writes
the shares of its peaks that they reach. Only devices that are not measured themselves have that key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.dtypes import ComputeDtype, WeightDtype
from apexsim.spec.files import write_atomically
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import Efficiency, HardwareProfile

LARGE = np.array([4096.0, 8192.0, 16384.0])
"""m, n, k of a large GEMM, and n and k of a matrix-vector product that is bound by memory."""

PROMPTS = np.array([4096.0, 8192.0, 16384.0])
MESSAGE, RANKS = 512e6, 4
"""Of the all-reduce; over PCIe two ranks, because four and eight crossed a host in the machine that was measured."""

WEIGHTS: dict[ComputeDtype, tuple[WeightDtype, ...]] = {
    "bf16": ("bf16",), "fp16": ("bf16",), "fp8": ("fp8",), "int8": ("int8", "fp8"), "fp4": ("nvfp4", "fp8"),
}  # fmt: skip
"""Matrix units -> the weights whose GEMMs say what they reach; the first that was measured, else 16-bit ones."""


def unmeasured() -> tuple[HardwareProfile, ...]:
    """The profiles whose shares come from another device."""
    profiles = map(catalog.device, catalog.device_names())
    return tuple(profile for profile in profiles if profile.efficiency.nearest)


def shares(profile: HardwareProfile) -> Efficiency:
    """The efficiency of ``profile`` as its nearest measured device has it; rounded to per cent and 0.1 us."""
    near = profile.efficiency.nearest
    found = _shares_of(near)
    gemm = {dtype: found.gemm(dtype) for dtype in profile.peak_flops}
    source = f"apexsim calibrate shares: what the fits of the nearest measured device, {near}, reach"
    return Efficiency(
        nearest=near, gemm=gemm, attention=found.attention, memory=found.memory, link=found.link,
        launch_s=found.launch_s, basis="estimated", source=source,
    )  # fmt: skip


class _Shares:
    """What the fits of one measured device reach."""

    def __init__(self, name: str) -> None:
        self.profile = catalog.device(name)
        self.kernels = CalibratedKernels(self.profile)
        self.gemm: Callable[[ComputeDtype], float] = lru_cache(self._gemm)
        self.attention = self._attention()
        self.memory = self._memory()
        self.link = self._link()
        self.launch_s = round(float(self.kernels.gemm(1, 256, 256, "bf16").seconds), 7)

    def _gemm(self, dtype: ComputeDtype) -> float:
        """Median share of the peak over large products."""
        measured = [weights for weights in WEIGHTS[dtype] if self.kernels.file("gemm", weights)]
        weights: WeightDtype = measured[0] if measured else "bf16"
        m, n, k = (axis.ravel() for axis in np.meshgrid(LARGE, LARGE, LARGE))
        peak = self.profile.peak_flops[self.profile.executes(weights) or "bf16"]
        return _share(2.0 * m * n * k / peak, self.kernels.gemm(m, n, k, weights).seconds)

    def _attention(self) -> float:
        """Of the 16-bit peak, by long prompts of a grouped-query model with heads of 128."""
        op = AttentionOp("attention", 32, 8, 128, 128, 0, "bf16", 1)
        flops = PROMPTS * (PROMPTS + 1) / 2 * op.prefill_pair_flops
        return _share(flops / self.profile.peak_flops["bf16"], self.kernels.prefill_attention(1, PROMPTS, op).seconds)

    def _memory(self) -> float:
        n, k = (axis.ravel() for axis in np.meshgrid(LARGE[1:], LARGE[1:]))
        read = weight_bytes("bf16") * n * k / self.profile.memory_bandwidth
        return _share(read, self.kernels.gemm(1, n, k, "bf16").seconds)

    def _link(self) -> float:
        """Of the link, by a large all-reduce whose ranks send 2 (r - 1) / r of the message."""
        ranks = RANKS if self.profile.scaleup else 2
        link = Cluster.model_validate(f"8x{self.profile.name}").link(self.profile, ranks)
        sent = 2 * (ranks - 1) / ranks * MESSAGE / link.bandwidth
        return _share(np.array([sent]), self.kernels.collective("all_reduce", np.array([MESSAGE]), ranks, link).seconds)


@lru_cache
def _shares_of(name: str) -> _Shares:
    return _Shares(name)


def _share(least_s: np.ndarray, seconds: np.ndarray) -> float:
    return round(float(min(np.median(least_s / seconds), 1.0)), 2)


def write_shares(profile: HardwareProfile, efficiency: Efficiency) -> None:
    """Put ``efficiency`` into the profile's file."""
    path = catalog.profile_folder(profile.name) / "profile.yaml"
    write_atomically(path, with_shares(path.read_text("utf-8"), efficiency))


def with_shares(text: str, efficiency: Efficiency) -> str:
    """The text of a profile with another section of efficiencies; nothing else of it changes."""
    return re.sub(r"^efficiency:\n(?:[ ].*\n)+", lambda _: as_yaml(efficiency), text, flags=re.MULTILINE)


def as_yaml(efficiency: Efficiency) -> str:
    """The section of a profile."""
    gemm = ", ".join(f"{dtype}: {share:.2f}" for dtype, share in efficiency.gemm.items())
    return (
        f"efficiency:\n  nearest: {efficiency.nearest}\n  gemm: {{{gemm}}}\n  attention: {efficiency.attention:.2f}\n"
        f"  memory: {efficiency.memory:.2f}\n  link: {efficiency.link:.2f}\n"
        f"  launch_s: {efficiency.launch_s * 1e6:.1f}us\n  basis: {efficiency.basis}\n  source: '{efficiency.source}'\n"
    )
