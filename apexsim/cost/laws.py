"""Rooflines with few parameters: the seconds of a GEMM and of attention on one device.

Each law is smooth: ``latency + (work^p + memory^p)^(1/p)``, work and memory being FLOP and bytes over the *reached*
fraction of the device's peak. The same laws serve devices that nobody measured (parameters from the profile's
stated efficiencies) and calibrated ones (parameters fitted, times a correction grid).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.shapes import Work

Floats = NDArray[np.float64]
Sizes = Mapping[str, Floats]
"""Sizes of an operator by name: m, n, k of a GEMM, or blocks, tokens, group (and window) of attention."""


@dataclass(frozen=True, slots=True)
class GemmLaw:
    """y[m, n] = x[m, k] · w[n, k], computed in tiles that run in waves over the device's units."""

    compute: float  # fraction of peak FLOP/s that full waves reach
    memory: float  # fraction of peak memory bandwidth
    sharpness: float  # p: how sharp the knee of the roofline is
    latency_s: float
    quantisation: float  # 0 = partial waves cost what they compute, 1 = a partial wave costs a whole one
    k_half: float  # start-up of a tile, as extra length of k
    tile_m: int
    tile_n: int
    units: int  # streaming multiprocessors that run tiles

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``peak`` in FLOP/s, ``bandwidth`` of the memory in B/s."""
        rows = np.ceil(sizes["m"] / self.tile_m) * self.tile_m
        columns = np.ceil(sizes["n"] / self.tile_n) * self.tile_n
        waves = rows * columns / (self.tile_m * self.tile_n * self.units)
        partial = (np.ceil(waves) / waves) ** self.quantisation
        tiled = 2.0 * rows * columns * (sizes["k"] + self.k_half) * partial / (peak * self.compute)
        return self.latency_s + _knee(self.sharpness, tiled, work.moved / (bandwidth * self.memory))


@dataclass(frozen=True, slots=True)
class PrefillLaw:
    """Attention of whole prompts: query tiles in waves, and a critical path along the keys of one tile."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    quantisation: float
    critical_s: float  # seconds per key that one tile walks along
    units: int

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``peak`` in FLOP/s, ``bandwidth`` of the memory in B/s."""
        waves = work.blocks / self.units
        tiled = work.padded_flops * (np.ceil(waves) / waves) ** self.quantisation / (peak * self.compute)
        read = work.moved / (bandwidth * self.memory)
        return self.latency_s + _knee(self.sharpness, tiled, read, self.critical_s * work.keys)


@dataclass(frozen=True, slots=True)
class DecodeLaw:
    """Attention of one new token a sequence: a read of the KV cache plus the cost of starting its thread blocks."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    block_s: float  # seconds per wave of (sequence, KV head) blocks
    critical_s: float  # seconds per cached token of one block
    units: int

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``peak`` in FLOP/s, ``bandwidth`` of the memory in B/s."""
        read = work.moved / (bandwidth * self.memory) + self.block_s * work.blocks / self.units
        return self.latency_s + _knee(
            self.sharpness, read, work.flops / (peak * self.compute), self.critical_s * work.keys
        )


@dataclass(frozen=True, slots=True)
class ExpertLaw:
    """The routed experts of one rank: a grouped GEMM over the experts that some token chose, and what surrounds it."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    expert_s: float  # seconds per expert that is touched
    token_s: float  # seconds per token: selection, sorting, combination

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``peak`` in FLOP/s, ``bandwidth`` of the memory in B/s."""
        tiled = work.padded_flops / (peak * self.compute)
        read = work.moved / (bandwidth * self.memory)
        around = self.latency_s + self.expert_s * work.blocks + self.token_s * sizes["tokens"]
        return around + _knee(self.sharpness, tiled, read)


@dataclass(frozen=True, slots=True)
class CollectiveLaw:
    """Latency and bandwidth of a collective over a fixed number of ranks."""

    latency_s: float
    link: float  # fraction of the link bandwidth
    sharpness: float

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``work.moved``: bytes that each rank must send over its link of ``bandwidth`` B/s; no FLOP are counted."""
        return _knee(self.sharpness, np.full_like(work.moved, self.latency_s), work.moved / (bandwidth * self.link))


def _knee(sharpness: float, *terms: Floats) -> Floats:
    """(Σ term^p)^(1/p) without overflow for any p: close to the sum for p near 1, to the largest for a large p."""
    top = np.maximum(np.maximum.reduce(np.broadcast_arrays(*terms)), 1e-30)
    total = sum(((term / top) ** sharpness for term in terms), start=np.zeros_like(top))
    return np.asarray(top * total ** (1 / sharpness))
