"""The analytic kernel model: rooflines at the efficiencies that a profile states, for devices nobody measured.

Every price is clamped to the physical floor of ``floor.py``.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.coefficients import Fit
from apexsim.cost.collectives import collective_floor_s, collective_s
from apexsim.cost.experts import exchange_links, exchange_work, grouped_work
from apexsim.cost.floor import FLOOR, floor_s
from apexsim.cost.kernel_model import Priced
from apexsim.cost.laws import DecodeLaw, ExchangeLaw, ExpertLaw, GemmLaw, Law, PrefillLaw, Sizes
from apexsim.cost.low_bit_kv import expanded
from apexsim.cost.operators import AttentionOp, ExpertExchange, GroupedGemm, Phase
from apexsim.cost.precision import INPUT_BYTES, compute_dtype, dequant, sixteen_bit
from apexsim.cost.shapes import (
    QUERY_TILE,
    Work,
    decode_sizes,
    decode_work,
    gemm_work,
    prefill_sizes,
    prefill_work,
    reached_tokens,
)
from apexsim.spec.cluster import Link
from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

ANALYTIC_UNITS = 128
"""Parallel units assumed of a device that nobody measured (an H100 has 132 multiprocessors, an A100 108)."""

ROW_TILES = (8, 16, 32, 64)
"""Rows of a tile that an unmeasured GEMM may take: the smallest that holds m, the largest (an H100's, by its fit) for
more. Few rows are the narrow side of the instruction, 8 or 16 of them: Marlin (IST-DASLab/marlin) and vLLM's copy of
it, and cuBLAS and CUTLASS with A and B swapped."""

ANALYTIC_QUANTISATION = 0.5
"""Exponent of the partial wave of the largest of ``ROW_TILES``; smaller tiles split k over idle units, and waste in
proportion to their rows."""

ATTENTION_KERNELS = 4
"""Launches' worth of fixed time of an attention kernel (10 us of FlashAttention-3 on an H100 against 2.5 us)."""

LOW_LATENCY = ExchangeLaw(20e-6, 0.63, 0.836, unit_rate=np.inf, token_s=0.0, expert_s=0.0, sharpness=2.0)
NORMAL = ExchangeLaw(20e-6, 0.67, 0.87, unit_rate=np.inf, token_s=0.0, expert_s=0.0, sharpness=6.0)
"""Dispatch and combine on devices nobody measured: start-up, share of the links, share of the network. From DeepEP's
published tables on H800 with 400 Gbit/s a device (deepseek-ai/DeepEP, docs/legacy.md): 128 tokens a rank on 8 to 256
ranks, and 4,096 on 8 to 64. Low-latency kernels fitted on H100 reach 0.5 to 0.7 of the links, all of the network."""

UNIFIED_BUS: dict[str, tuple[float, ExchangeLaw]] = {
    "dispatch": (6.2e-6, ExchangeLaw(0.0, 1.0, 1.0, np.inf, token_s=62.4e-6 / 128, expert_s=0.0, sharpness=1.0)),
    "combine": (4.4e-6, ExchangeLaw(0.0, 1.0, 1.0, np.inf, token_s=38.8e-6 / 128, expert_s=0.0, sharpness=1.0)),
}
"""The fused kernels of CloudMatrix384: seconds for each doubling of the dies, for a token, and bytes over all of the
bus. From dispatch of 116 and 152 us, combine of 118 and 149 us, on 8 and 256 dies with 128 tokens each (arXiv
2506.12708, by two reading notes that agree). What is left on one die is taken as work on its 128 tokens. Nobody
published another number of tokens: that choice was made after looking at the decode times of docs/network.md, which are
no evidence for it."""



class AnalyticKernels:
    """Rooflines at the efficiencies that the profile states. Nothing is calibrated, and every price says so."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm") -> None:
        self.profile = profile
        self.engine = engine

    def gemm(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, weights: str) -> Priced:
        rows, columns, depth = floats(m, n, k)
        compute = compute_dtype(self.profile, weights)
        work = gemm_work(rows, columns, depth, weight_bytes(weights), INPUT_BYTES[compute])
        return self._gemm(weights, compute, work, {"m": rows, "n": columns, "k": depth})

    def grouped_gemm(self, tokens: ArrayLike, op: GroupedGemm) -> Priced:
        (count,) = floats(tokens)
        work, sizes = grouped_work(count, op)
        return self._grouped_gemm(op, compute_dtype(self.profile, op.weights), work, sizes)

    def prefill_attention(self, batch: ArrayLike, tokens: ArrayLike, op: AttentionOp) -> Priced:
        prompts, length, heads, kv_heads, window = floats(batch, tokens, op.heads, op.kv_heads, op.window)
        work = prefill_work(prompts, length, heads, kv_heads, floats(op.qk_dim + op.v_dim)[0], window)
        return self._attention("prefill_attention", op, work, prefill_sizes(prompts, length, heads, kv_heads, window))

    def decode_attention(self, batch: ArrayLike, context: ArrayLike, op: AttentionOp) -> Priced:
        sequences, cached, pair_flops, token_bytes = floats(batch, context, op.decode_pair_flops, op.kv_token_bytes)
        heads, kv_heads, window = floats(op.heads, 1 if op.latent else op.kv_heads, op.window)
        width = op.heads * (op.latent + op.latent_v if op.latent else op.qk_dim + op.v_dim)
        read = reached_tokens(cached, window)
        work = decode_work(sequences, read, kv_heads, pair_flops, token_bytes, float(width))
        price = self._attention("decode_attention", op, work, decode_sizes(sequences, cached, heads, kv_heads, window))
        return expanded(self.profile, op.kv_dtype, work, price)

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        (chunk,) = floats(tokens)
        return analytic(past_seconds(self.profile, self.profile.efficiency.attention, chunk, op))

    def memory_bound(self, moved: ArrayLike, kernels: int = 1) -> Priced:
        (size,) = floats(moved)
        reached = self.profile.efficiency
        return analytic(kernels * reached.launch_s + size / (self.profile.memory_bandwidth * reached.memory))

    def collective(self, kind: str, message: ArrayLike, ranks: int, link: Link) -> Priced:
        size = np.maximum(np.asarray(message, dtype=np.float64), 1.0)
        reached = self.profile.efficiency
        seconds = collective_s(kind, size, ranks, link, efficiency=reached.link, launch_s=reached.launch_s)
        return analytic(np.maximum(seconds, collective_floor_s(kind, size, ranks, link)))

    def exchange(self, phase: Phase, tokens: ArrayLike, op: ExpertExchange) -> Priced:
        """Links and network at the shares that DeepEP reaches; the kernel's own multiprocessors do not bind."""
        (count,) = floats(tokens)
        law = LOW_LATENCY if op.low_latency else NORMAL
        if op.transport.startswith("unified_bus"):
            doubling_s, law = UNIFIED_BUS[phase]
            law = replace(law, latency_s=doubling_s * log2(op.ranks))
        return analytic(self._exchange_s(law, *exchange_work(phase, count, op), op.network))

    def _exchange_s(self, law: ExchangeLaw | Fit, work: Work, sizes: Sizes, network: float = 0.0) -> Floats:
        """Never below 0.95 × the bytes that must leave over the links that they must take."""
        near, far = exchange_links(self.profile, network)
        floor = FLOOR * np.maximum(sizes["least_near"] / near, sizes["least_far"] / far)
        return np.maximum(law.seconds(work, sizes, far, near), floor)

    def _gemm(self, weights: str, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        reached = self.profile.efficiency
        law = GemmLaw(
            reached.gemm[compute] / dequant(self.profile, weights), reached.memory, 4.0, reached.launch_s,
            ANALYTIC_QUANTISATION, 128.0, ROW_TILES[-1], 128, ANALYTIC_UNITS,
        )
        price = self._analytic_price(law, compute, work, sizes)
        for tile in reversed(ROW_TILES[:-1]):
            small = replace(law, tile_m=tile, quantisation=law.quantisation * tile / law.tile_m)
            seconds = self._analytic_price(small, compute, work, sizes).seconds
            price = analytic(np.where(sizes["m"] <= tile, seconds, price.seconds))
        return price

    def _grouped_gemm(self, op: GroupedGemm, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        """The small terms (seconds an expert and a token, passes over the rows) are those of vLLM's Triton kernel."""
        reached = self.profile.efficiency
        law = ExpertLaw(
            reached.gemm[compute] / dequant(self.profile, op.weights), reached.memory, 2.0,
            GroupedGemm.kernels * reached.launch_s, expert_s=2e-8, token_s=1e-8, pair_bytes=4.0, wide_bytes=1e-3,
            rank_bytes=2.0, depth_s=1e-9, tile=16,
        )  # fmt: skip
        return self._analytic_price(law, compute, work, sizes)

    def _attention(self, operator: str, op: AttentionOp, work: Work, sizes: Sizes) -> Priced:
        """The small terms (knee, wave, path along the keys) are those of FlashAttention-3 on an H100."""
        reached = self.profile.efficiency
        launch = ATTENTION_KERNELS * reached.launch_s
        law: PrefillLaw | DecodeLaw
        if operator == "prefill_attention":
            law = PrefillLaw(reached.attention, reached.memory, 1.5, launch, 0.5, 5e-9, ANALYTIC_UNITS)
        else:
            law = DecodeLaw(reached.attention, reached.memory, 1.5, launch, 3e-6, 3e-10, ANALYTIC_UNITS)
        return self._analytic_price(law, sixteen_bit(self.profile), work, sizes)

    def _analytic_price(
        self, law: Law, compute: ComputeDtype, work: Work, sizes: Sizes
    ) -> Priced:
        seconds = law.seconds(work, sizes, self.profile.peak_flops[compute], self.profile.memory_bandwidth)
        return analytic(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)))


def past_seconds(profile: HardwareProfile, reached: float, chunk: Floats, op: AttentionOp) -> Floats:
    """Each past token costs one more key for all queries of the chunk, or the read of its keys and values.

    Queries of one KV head share a tile, so a short chunk of a grouped-query model fills it better. MLA lifts the
    cached latent to keys and values once a chunk.
    """
    compute = sixteen_bit(profile)
    group = op.heads / op.kv_heads
    queries = np.ceil(chunk * group / QUERY_TILE) * QUERY_TILE / group
    lift = 2.0 * op.latent_v * op.heads * (op.qk_dim + op.v_dim) if op.latent else 0.0
    work = (queries * op.prefill_pair_flops + lift) / (profile.peak_flops[compute] * reached)
    read = op.kv_token_bytes / (profile.memory_bandwidth * profile.efficiency.memory)
    return np.maximum(work, read)


def analytic(seconds: Floats) -> Priced:
    """A price that nothing measured stands behind."""
    return Priced(seconds, False, np.zeros(np.shape(seconds), dtype=np.bool_))


def floats(*sizes: ArrayLike) -> tuple[Floats, ...]:
    """The sizes as arrays of float64."""
    return tuple(np.asarray(size, dtype=np.float64) for size in sizes)
