"""Rooflines with few parameters: the seconds of a GEMM and of attention on one device.

Each law is smooth: ``latency + (work^p + memory^p)^(1/p)``, work and memory being FLOP and bytes over the *reached*
fraction of the device's peak. The same laws serve devices that nobody measured (parameters from the profile's
stated efficiencies) and calibrated ones (parameters fitted, times a correction grid).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUERY_TILE = 128
"""Query rows of one thread block of a flash-attention prefill kernel (FlashAttention-3, arXiv 2407.08608)."""


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

    def seconds(self, m: Floats, n: Floats, k: Floats, moved: Floats, peak: float, bandwidth: float) -> Floats:
        """``moved``: bytes read and written; ``peak`` in FLOP/s, ``bandwidth`` in B/s."""
        rows = np.ceil(m / self.tile_m) * self.tile_m
        columns = np.ceil(n / self.tile_n) * self.tile_n
        waves = rows * columns / (self.tile_m * self.tile_n * self.units)
        partial = (np.ceil(waves) / waves) ** self.quantisation
        work = 2.0 * rows * columns * (k + self.k_half) * partial / (peak * self.compute)
        return self.latency_s + _knee(work, moved / (bandwidth * self.memory), self.sharpness)


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

    def seconds(
        self, tiles: Floats, flops: Floats, keys: Floats, moved: Floats, peak: float, bandwidth: float
    ) -> Floats:
        """``tiles``: thread blocks; ``flops``: padded to whole tiles; ``keys``: longest walk of a tile."""
        waves = tiles / self.units
        work = flops * (np.ceil(waves) / waves) ** self.quantisation / (peak * self.compute)
        path = self.critical_s * keys
        p = self.sharpness
        return self.latency_s + (work**p + path**p + (moved / (bandwidth * self.memory)) ** p) ** (1 / p)


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

    def seconds(
        self, blocks: Floats, flops: Floats, keys: Floats, moved: Floats, peak: float, bandwidth: float
    ) -> Floats:
        """``blocks``: (sequence, KV head) pairs; ``keys``: cached tokens that one sequence attends to."""
        p = self.sharpness
        read = moved / (bandwidth * self.memory) + self.block_s * blocks / self.units
        work = flops / (peak * self.compute)
        return self.latency_s + (read**p + work**p + (self.critical_s * keys) ** p) ** (1 / p)


def _knee(work: Floats, memory: Floats, sharpness: float) -> Floats:
    """(work^p + memory^p)^(1/p) without overflow for any p."""
    top = np.maximum(np.maximum(work, memory), 1e-30)
    return top * ((work / top) ** sharpness + (memory / top) ** sharpness) ** (1 / sharpness)


@dataclass(frozen=True, slots=True)
class CollectiveLaw:
    """Latency and bandwidth of a collective over a fixed number of ranks."""

    latency_s: float
    memory: float  # fraction of the link bandwidth; named as in the other laws
    sharpness: float

    def seconds(self, moved: Floats, bandwidth: float) -> Floats:
        """``moved``: bytes that each rank must send over its link of ``bandwidth`` B/s."""
        return _knee(np.full_like(moved, self.latency_s), moved / (bandwidth * self.memory), self.sharpness)
