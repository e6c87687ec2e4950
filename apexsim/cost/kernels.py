"""Seconds of one operator on one device: the kernel models.

Two levels behind one interface. ``AnalyticKernels``: rooflines with the efficiencies that the profile states, for
devices nobody measured. ``CalibratedKernels``: the same rooflines with fitted parameters times a correction grid,
read from the profile's kernel files; an operator without a file falls back to the analytic price, and says so.

Every price is clamped to the physical floor of ``floor.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.coefficients import Fit, KernelFile, load
from apexsim.cost.collectives import collective_floor_s, collective_s, sent_bytes
from apexsim.cost.floor import floor_s
from apexsim.cost.laws import DecodeLaw, ExpertLaw, GemmLaw, Law, PrefillLaw, Sizes
from apexsim.cost.operators import AttentionOp, GroupedGemm
from apexsim.cost.precision import INPUT_BYTES, compute_dtype, sixteen_bit
from apexsim.cost.shapes import (
    QUERY_TILE,
    Work,
    collective_work,
    decode_work,
    expert_sizes,
    expert_work,
    gemm_work,
    prefill_work,
    touched_experts,
)
from apexsim.spec.catalog import profile_folder
from apexsim.spec.cluster import Link
from apexsim.spec.dtypes import ComputeDtype, WeightDtype, weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

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


PREFERENCE = ("vllm", "tensorrt-llm", "sglang")
"""Whose measurements stand for an engine that was not measured itself, best first."""


class Priced(NamedTuple):
    """Seconds of an operator, and how they are known."""

    seconds: Floats
    calibrated: bool  # from measured kernels of this device
    extrapolated: Bools  # outside what was measured; False everywhere where nothing was


class KernelModel(Protocol):
    """What a cost model must offer. Sizes are arrays that broadcast; results have the broadcast shape.

    Prices are finite, positive, never below ``floor_s``, and do not fall when a size grows by more than what
    quantisation to tiles explains.
    """

    def gemm(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, weights: WeightDtype) -> Priced:
        """y[m, n] = x[m, k] · w[n, k], quantisation of x included."""
        ...

    def grouped_gemm(self, tokens: ArrayLike, op: GroupedGemm) -> Priced:
        """The routed experts of one rank for ``tokens`` tokens of the whole group."""
        ...

    def prefill_attention(self, batch: ArrayLike, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """``batch`` whole prompts of ``tokens`` tokens."""
        ...

    def decode_attention(self, batch: ArrayLike, context: ArrayLike, op: AttentionOp) -> Priced:
        """One new token for each of ``batch`` sequences that attend to ``context`` cached tokens."""
        ...

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """Seconds that each cached token before a chunk of ``tokens`` adds to its attention."""
        ...

    def memory_bound(self, moved: ArrayLike, kernels: int = 1) -> Priced:
        """``kernels`` elementwise kernels that read and write ``moved`` bytes together."""
        ...

    def collective(self, kind: str, message: ArrayLike, ranks: int, link: Link) -> Priced:
        """An ``all_reduce`` or ``all_gather`` of ``message`` bytes over ``ranks`` that ``link`` joins."""
        ...


class AnalyticKernels:
    """Rooflines at the efficiencies that the profile states. Nothing is calibrated, and every price says so."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm") -> None:
        self.profile = profile
        self.engine = engine

    def gemm(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, weights: WeightDtype) -> Priced:
        rows, columns, depth = _floats(m, n, k)
        compute = compute_dtype(self.profile, weights)
        work = gemm_work(rows, columns, depth, weight_bytes(weights), INPUT_BYTES[compute])
        return self._gemm(weights, compute, work, {"m": rows, "n": columns, "k": depth})

    def grouped_gemm(self, tokens: ArrayLike, op: GroupedGemm) -> Priced:
        count, hidden, width, experts, local, per_token = _floats(
            tokens, op.hidden_size, op.intermediate_size, op.experts, op.local_experts, op.experts_per_token
        )
        matrices = 3 if op.gated else 2
        touched, rows = touched_experts(count, experts, local, per_token), count * per_token * local / experts
        work = expert_work(count, rows, touched, hidden, width, matrices, weight_bytes(op.weights))
        sizes = expert_sizes(count, hidden, width, experts, local, per_token)
        return self._grouped_gemm(op.weights, compute_dtype(self.profile, op.weights), work, sizes)

    def prefill_attention(self, batch: ArrayLike, tokens: ArrayLike, op: AttentionOp) -> Priced:
        prompts, length, heads, kv_heads, window = _floats(batch, tokens, op.heads, op.kv_heads, op.window)
        work = prefill_work(prompts, length, heads, kv_heads, _floats(op.qk_dim + op.v_dim)[0], window)
        sizes = {"blocks": prompts * heads, "tokens": length, "group": heads / kv_heads, "window": window}
        return self._attention("prefill_attention", op, work, sizes)

    def decode_attention(self, batch: ArrayLike, context: ArrayLike, op: AttentionOp) -> Priced:
        sequences, cached, pair_flops, token_bytes = _floats(batch, context, op.decode_pair_flops, op.kv_token_bytes)
        kv_heads = 1.0 if op.latent else float(op.kv_heads)
        width = op.heads * (op.latent + op.latent_v if op.latent else op.qk_dim + op.v_dim)
        work = decode_work(sequences, cached, kv_heads, pair_flops, token_bytes, float(width))
        sizes = {"blocks": sequences * kv_heads, "tokens": cached, "group": np.asarray(op.heads / kv_heads)}
        return self._attention("decode_attention", op, work, sizes)

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        (chunk,) = _floats(tokens)
        return _analytic(_past_seconds(self.profile, self.profile.efficiency.attention, chunk, op))

    def memory_bound(self, moved: ArrayLike, kernels: int = 1) -> Priced:
        (size,) = _floats(moved)
        reached = self.profile.efficiency
        return _analytic(kernels * reached.launch_s + size / (self.profile.memory_bandwidth * reached.memory))

    def collective(self, kind: str, message: ArrayLike, ranks: int, link: Link) -> Priced:
        size = np.maximum(np.asarray(message, dtype=np.float64), 1.0)
        reached = self.profile.efficiency
        seconds = collective_s(kind, size, ranks, link, efficiency=reached.link, launch_s=reached.launch_s)
        return _analytic(np.maximum(seconds, collective_floor_s(kind, size, ranks, link)))

    def _gemm(self, weights: WeightDtype, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        reached = self.profile.efficiency
        law = GemmLaw(
            reached.gemm[compute], reached.memory, 4.0, reached.launch_s, ANALYTIC_QUANTISATION, 128.0, ROW_TILES[-1],
            128, ANALYTIC_UNITS,
        )
        price = self._analytic_price(law, compute, work, sizes)
        for tile in reversed(ROW_TILES[:-1]):
            small = replace(law, tile_m=tile, quantisation=law.quantisation * tile / law.tile_m)
            seconds = self._analytic_price(small, compute, work, sizes).seconds
            price = _analytic(np.where(sizes["m"] <= tile, seconds, price.seconds))
        return price

    def _grouped_gemm(self, weights: WeightDtype, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        """The small terms (seconds an expert and a token) are those of vLLM's fused kernels on an H100."""
        reached = self.profile.efficiency
        law = ExpertLaw(reached.gemm[compute], reached.memory, 2.0, GroupedGemm.kernels * reached.launch_s, 2e-8, 1e-8)
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
        return _analytic(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)))


class CalibratedKernels(AnalyticKernels):
    """Fitted rooflines times their correction grids; analytic, and said so, where the profile has no fit."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm") -> None:
        super().__init__(profile, engine)
        self._folder = (profile.folder or profile_folder(profile.name)) / "kernels" if profile.kernels else Path()

    def file(self, operator: str, dtype: str) -> KernelFile | None:
        """The measurements of an operator as this engine runs it, else as another engine was measured."""
        prefix = f"{operator}.{'bf16' if dtype == 'fp16' else dtype}."
        engines = [name.removeprefix(prefix) for name in self.profile.kernels if name.startswith(prefix)]
        if not engines:
            return None
        preferred = (self.engine, *PREFERENCE)
        known = [engine for engine in preferred if engine in engines]
        return self.load(prefix + (known[0] if known else min(engines)))

    def load(self, name: str) -> KernelFile:
        """A kernel file of the profile, read when it is first asked for."""
        return load(self._folder / f"{name}.json")

    def find(self, operator: str, dtype: str, variant: int = 0, windowed: bool = False) -> Fit | None:
        """The fit of a variant (head dimension, ranks); one that nobody measured takes the nearest, extrapolated."""
        file = self.file(operator, dtype)
        if file is None:
            return None
        return min(file.fits, key=lambda f: (f.windowed != windowed, abs(f.variant - variant), f.variant))

    def _gemm(self, weights: WeightDtype, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        fit = self.find("gemm", weights)
        if fit is None:
            return super()._gemm(weights, compute, work, sizes)
        return self._fitted(fit, compute, work, sizes)

    def _grouped_gemm(self, weights: WeightDtype, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        fit = self.find("grouped_gemm", weights)
        if fit is None:
            return super()._grouped_gemm(weights, compute, work, sizes)
        return self._fitted(fit, compute, work, sizes)

    def _attention(self, operator: str, op: AttentionOp, work: Work, sizes: Sizes) -> Priced:
        fit = self._attention_fit(operator, op)
        if fit is None:
            return super()._attention(operator, op, work, sizes)
        scale: Floats | float = 1.0
        if op.window and operator == "decode_attention":
            scale = 1.0 + (fit.window_factor - 1.0) * np.minimum(sizes["tokens"] / op.window, 1.0)
        known = fit.variant == _width(op) and (operator != "prefill_attention" or fit.windowed == (op.window > 0))
        return self._fitted(fit, sixteen_bit(self.profile), work, sizes, scale, known)

    def _attention_fit(self, operator: str, op: AttentionOp) -> Fit | None:
        """Kernels read any 8-bit KV cache alike; a 4-bit one was not measured and takes the 8-bit fit. MLA: none."""
        if op.latent:
            return None
        dtype = "bf16" if op.kv_dtype in ("bf16", "fp16") else "fp8"
        return self.find(operator, dtype, _width(op), windowed=op.window > 0 and operator == "prefill_attention")

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """The rate of long prompts, by their fit. No measurement has cached tokens: always extrapolated."""
        (chunk,) = _floats(tokens)
        fit = self._attention_fit("prefill_attention", op)
        if fit is None or not isinstance(fit.law, PrefillLaw):
            return super().prefill_past(tokens, op)
        seconds = _past_seconds(self.profile, min(fit.law.compute, 1.0), chunk, op)
        return Priced(seconds, True, np.ones_like(seconds, dtype=np.bool_))

    def collective(self, kind: str, message: ArrayLike, ranks: int, link: Link) -> Priced:
        """Measured on scale-up links and for some numbers of ranks only."""
        fit = self.find(kind, "bf16", ranks) if link.link_class == "scaleup" else None
        if fit is None or fit.variant != ranks:
            return super().collective(kind, message, ranks, link)
        size = np.maximum(np.asarray(message, dtype=np.float64), 1.0)
        seconds = fit.seconds(collective_work(sent_bytes(kind, size, ranks)), {"bytes": size}, 0.0, link.bandwidth)
        floor = collective_floor_s(kind, size, ranks, link)
        return Priced(np.maximum(seconds, floor), True, fit.extrapolated({"bytes": size}))

    def _fitted(
        self, fit: Fit, compute: ComputeDtype, work: Work, sizes: Sizes, scale: Floats | float = 1.0, known: bool = True
    ) -> Priced:
        """Law times grid, above the floor; extrapolated where a size or the variant was not measured."""
        seconds = fit.seconds(work, sizes, self.profile.peak_flops[compute], self.profile.memory_bandwidth) * scale
        outside = np.broadcast_to(fit.extrapolated(sizes) | (not known), seconds.shape)
        return Priced(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)), True, outside)


def _width(op: AttentionOp) -> int:
    """Head dimension that a fit is filed under."""
    return (op.qk_dim + op.v_dim) // 2


def _past_seconds(profile: HardwareProfile, reached: float, chunk: Floats, op: AttentionOp) -> Floats:
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


def _analytic(seconds: Floats) -> Priced:
    return Priced(seconds, False, np.zeros(np.shape(seconds), dtype=np.bool_))


def _floats(*sizes: ArrayLike) -> tuple[Floats, ...]:
    return tuple(np.asarray(size, dtype=np.float64) for size in sizes)
