"""Collectives over a fixed number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apexsim.cost.laws.base import Floats, Law, Sizes, knee
from apexsim.cost.shapes import Work


@dataclass(frozen=True, slots=True)
class CollectiveLaw(Law):
    """Latency and bandwidth of a collective over a fixed number of ranks."""

    latency_s: float
    link: float  # fraction of the link bandwidth
    sharpness: float

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``work.moved``: bytes that each rank must send over its link of ``bandwidth`` B/s; no FLOP are counted."""
        return knee(self.sharpness, np.full_like(work.moved, self.latency_s), work.moved / (bandwidth * self.link))
