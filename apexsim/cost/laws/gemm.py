"""Dense matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apexsim.cost.laws.base import Floats, Law, Sizes, knee
from apexsim.cost.shapes import Work


@dataclass(frozen=True, slots=True)
class GemmLaw(Law):
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
        rows = np.ceil(sizes["m"] / self.tile_m) * self.tile_m
        columns = np.ceil(sizes["n"] / self.tile_n) * self.tile_n
        waves = rows * columns / (self.tile_m * self.tile_n * self.units)
        partial = (np.ceil(waves) / waves) ** self.quantisation
        tiled = 2.0 * rows * columns * (sizes["k"] + self.k_half) * partial / (peak * self.compute)
        return self.latency_s + knee(self.sharpness, tiled, work.moved / (bandwidth * self.memory))
