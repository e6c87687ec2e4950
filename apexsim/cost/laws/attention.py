"""Attention of prompts and of decoding sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apexsim.cost.laws.base import Floats, Law, Sizes, knee
from apexsim.cost.shapes import Work


@dataclass(frozen=True, slots=True)
class PrefillLaw(Law):
    """Attention of whole prompts: query tiles in waves, and a critical path along the keys of one tile."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    quantisation: float
    critical_s: float  # seconds per key that one tile walks along
    units: int

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        waves = work.blocks / self.units
        tiled = work.padded_flops * (np.ceil(waves) / waves) ** self.quantisation / (peak * self.compute)
        read = work.moved / (bandwidth * self.memory)
        return self.latency_s + knee(self.sharpness, tiled, read, self.critical_s * work.keys)


@dataclass(frozen=True, slots=True)
class DecodeLaw(Law):
    """Attention of one new token a sequence: a read of the KV cache plus the cost of starting its thread blocks."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    block_s: float  # seconds per wave of (sequence, KV head) blocks
    critical_s: float  # seconds per cached token of one block
    units: int

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        read = work.moved / (bandwidth * self.memory) + self.block_s * work.blocks / self.units
        return self.latency_s + knee(
            self.sharpness, read, work.flops / (peak * self.compute), self.critical_s * work.keys
        )
