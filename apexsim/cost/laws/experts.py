"""The routed experts of a mixture-of-experts layer, and the exchange of tokens between the ranks that hold them."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.cost.laws.base import Floats, Law, Sizes, knee
from apexsim.cost.shapes import Work


@dataclass(frozen=True, slots=True)
class ExpertLaw(Law):
    """The routed experts of one rank: a grouped GEMM over the experts that some token chose, and what surrounds it.

    Rows of an expert are padded to tiles. What surrounds the GEMM does not shrink with the rank's share of the experts
    where a kernel passes over the pairs of all ranks: so the time does not fall as 1 / ranks.
    """

    compute: float
    memory: float
    sharpness: float
    latency_s: float
    expert_s: float  # seconds per expert that the rank holds
    token_s: float  # seconds per token of the group: selection, sorting
    pair_bytes: float  # bytes moved per hidden value of every (token, expert) pair of the group
    wide_bytes: float  # the same per intermediate value: some kernels activate the rows of all ranks
    rank_bytes: float  # bytes moved per value, hidden and intermediate, of the pairs of this rank
    depth_s: float  # seconds per value along which a tile of either GEMM sums: its critical path
    tile: int

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        tiled = 2.0 * sizes[f"rows{self.tile}"] * sizes["parameters"] / (peak * self.compute)
        read = sizes["weight_bytes"] / (bandwidth * self.memory)
        pairs = self.pair_bytes * sizes["pair_values"] + self.wide_bytes * sizes["wide_values"]
        passes = pairs + self.rank_bytes * sizes["rank_values"]
        around = self.latency_s + self.expert_s * sizes["held"] + self.token_s * sizes["tokens"] + passes / bandwidth
        return around + knee(self.sharpness, tiled, read, self.depth_s * sizes["depth"])


@dataclass(frozen=True, slots=True)
class ExchangeLaw(Law):
    """One phase of a dispatch or combine: start-up, then the slowest of links, network and copying multiprocessors."""

    latency_s: float
    link: float  # fraction of the scale-up bandwidth
    network: float  # fraction of the network's bandwidth
    unit_rate: float  # B/s that one unit copies
    token_s: float  # seconds per token: counting, sorting
    expert_s: float  # seconds per expert of the layer: a counter and a flag each
    sharpness: float

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``work.moved`` goes over links of ``bandwidth`` B/s, ``sizes["far"]`` over a network of ``peak`` B/s."""
        near = work.moved / (bandwidth * self.link)
        far = sizes["far"] / (peak * self.network)
        copied = (work.moved + sizes["far"]) / (sizes["units"] * self.unit_rate)
        counted = self.token_s * sizes["tokens"] + self.expert_s * sizes["experts"]
        return self.latency_s + counted + knee(self.sharpness, near, far, copied)
