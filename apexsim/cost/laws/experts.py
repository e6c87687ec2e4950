"""The routed experts of a mixture-of-experts layer."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.cost.laws.base import Floats, Law, Sizes, knee
from apexsim.cost.shapes import Work


@dataclass(frozen=True, slots=True)
class ExpertLaw(Law):
    """The routed experts of one rank: a grouped GEMM over the experts that some token chose, and what surrounds it."""

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    expert_s: float  # seconds per expert that is touched
    token_s: float  # seconds per token: selection, sorting, combination

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        tiled = work.padded_flops / (peak * self.compute)
        read = work.moved / (bandwidth * self.memory)
        around = self.latency_s + self.expert_s * work.blocks + self.token_s * sizes["tokens"]
        return around + knee(self.sharpness, tiled, read)
