"""Seconds of one operator on one device: the kernel models.

Two levels behind one interface. ``AnalyticKernels``: rooflines with the efficiencies that the profile states, for
devices nobody measured. ``CalibratedKernels``: the same rooflines with fitted parameters times a correction grid,
read from the profile's kernel files; an operator without a file falls back to the analytic price, and says so.

Every price is clamped to the physical floor of ``floor.py``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.coefficients import Fit, KernelFile, load
from apexsim.cost.floor import floor_s
from apexsim.cost.laws import QUERY_TILE, DecodeLaw, GemmLaw, PrefillLaw
from apexsim.cost.operators import AttentionOp, GroupedGemm
from apexsim.cost.precision import ACTIVATION_BYTES, INPUT_BYTES, compute_dtype, sixteen_bit
from apexsim.cost.shapes import Work, decode_work, gemm_work, prefill_work, touched_experts
from apexsim.spec.catalog import profile_folder
from apexsim.spec.dtypes import ComputeDtype, WeightDtype, weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ANALYTIC_UNITS = 128
"""Parallel units assumed of a device that nobody measured (an H100 has 132 multiprocessors, an A100 108)."""

EXPERT_TILE = 16
"""Rows to which a grouped GEMM pads the tokens of one expert when they are few."""

EXPERT_KERNELS = 6
"""Launches of a fused expert block: top-k, sorting, two grouped GEMMs, activation, weighted sum."""


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


class AnalyticKernels:
    """Rooflines at the efficiencies that the profile states. Nothing is calibrated, and every price says so."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm") -> None:
        self.profile = profile
        self.engine = engine

    def gemm(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, weights: WeightDtype) -> Priced:
        rows, columns, depth = _floats(m, n, k)
        compute = compute_dtype(self.profile, weights)
        work = gemm_work(rows, columns, depth, weight_bytes(weights), INPUT_BYTES[compute])
        return self._gemm(rows, columns, depth, weights, compute, work)

    def grouped_gemm(self, tokens: ArrayLike, op: GroupedGemm) -> Priced:
        (count,) = _floats(tokens)
        compute = compute_dtype(self.profile, op.weights)
        touched = np.maximum(touched_experts(count, op.experts, op.local_experts, op.experts_per_token), 1e-9)
        rows = count * op.experts_per_token * op.local_experts / op.experts
        padded = touched * np.ceil(rows / touched / EXPERT_TILE) * EXPERT_TILE
        wide = (3 if op.gated else 2) * op.intermediate_size
        activations = ACTIVATION_BYTES * (2 * count * op.hidden_size + 2 * rows * (op.hidden_size + wide))
        moved = touched * op.expert_parameters * weight_bytes(op.weights) + activations
        reached = self.profile.efficiency
        work = 2.0 * padded * op.expert_parameters / (self.profile.peak_flops[compute] * reached.gemm[compute])
        read = moved / (self.profile.memory_bandwidth * reached.memory)
        seconds = EXPERT_KERNELS * reached.launch_s + np.hypot(work, read)
        floor = floor_s(self.profile, compute, 2.0 * rows * op.expert_parameters, moved)
        return _analytic(np.maximum(seconds, floor))

    def prefill_attention(self, batch: ArrayLike, tokens: ArrayLike, op: AttentionOp) -> Priced:
        prompts, length = _floats(batch, tokens)
        heads, kv_heads = _floats(op.heads, op.kv_heads)
        work = prefill_work(prompts, length, heads, kv_heads, op.qk_dim, op.v_dim, op.window)
        return self._prefill(prompts, length, op, work)

    def decode_attention(self, batch: ArrayLike, context: ArrayLike, op: AttentionOp) -> Priced:
        sequences, cached = _floats(batch, context)
        heads, kv_heads, pair_flops, token_bytes, width = _floats(
            op.heads, 1 if op.latent else op.kv_heads, op.decode_pair_flops, op.kv_token_bytes,
            op.heads * (op.latent + op.latent_v if op.latent else op.qk_dim + op.v_dim),
        )
        work = decode_work(sequences, cached, heads, kv_heads, pair_flops, token_bytes, width)
        return self._decode(sequences, cached, op, work)

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        (chunk,) = _floats(tokens)
        return _analytic(_past_seconds(self.profile, self.profile.efficiency.attention, chunk, op))

    def memory_bound(self, moved: ArrayLike, kernels: int = 1) -> Priced:
        (size,) = _floats(moved)
        reached = self.profile.efficiency
        return _analytic(kernels * reached.launch_s + size / (self.profile.memory_bandwidth * reached.memory))

    def _gemm(
        self, m: Floats, n: Floats, k: Floats, weights: WeightDtype, compute: ComputeDtype, work: Work
    ) -> Priced:
        reached = self.profile.efficiency
        law = GemmLaw(reached.gemm[compute], reached.memory, 4.0, reached.launch_s, 0.5, 128.0, 64, 128, ANALYTIC_UNITS)
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(m, n, k, work.moved, peak, bandwidth)
        return _analytic(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)))

    def _prefill(self, batch: Floats, tokens: Floats, op: AttentionOp, work: Work) -> Priced:
        reached, compute = self.profile.efficiency, sixteen_bit(self.profile)
        law = PrefillLaw(reached.attention, reached.memory, 1.5, 4 * reached.launch_s, 0.5, 5e-9, ANALYTIC_UNITS)
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(work.blocks, work.padded_flops, work.keys, work.moved, peak, bandwidth)
        return _analytic(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)))

    def _decode(self, batch: Floats, context: Floats, op: AttentionOp, work: Work) -> Priced:
        reached, compute = self.profile.efficiency, sixteen_bit(self.profile)
        law = DecodeLaw(reached.attention, reached.memory, 1.5, 4 * reached.launch_s, 3e-6, 3e-10, ANALYTIC_UNITS)
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(work.blocks, work.flops, work.keys, work.moved, peak, bandwidth)
        return _analytic(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)))


class CalibratedKernels(AnalyticKernels):
    """Fitted rooflines times their correction grids; analytic, and said so, where the profile has no fit."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm") -> None:
        super().__init__(profile, engine)
        self._files: tuple[KernelFile, ...] = ()
        if profile.kernels:
            folder = profile_folder(profile.name) / "kernels"
            self._files = tuple(load(folder / f"{name}.json") for name in sorted(profile.kernels))

    def find(self, operator: str, dtype: str, variant: int = 0) -> tuple[KernelFile, Fit] | None:
        """The fit of an operator as this engine runs it, else as another engine was measured.

        A variant (head dimension) that nobody measured takes the nearest one; the price is then extrapolated.
        """
        sixteen = {"fp16": "bf16"}.get(dtype, dtype)
        files = [f for f in self._files if f.operator == operator and f.dtype == sixteen]
        if not files:
            return None
        file = min(files, key=lambda f: (f.engine != self.engine, f.engine != "vllm", f.engine))
        return file, min(file.fits, key=lambda fit: (abs(fit.variant - variant), fit.variant))

    def _gemm(
        self, m: Floats, n: Floats, k: Floats, weights: WeightDtype, compute: ComputeDtype, work: Work
    ) -> Priced:
        found = self.find("gemm", weights)
        if found is None or not isinstance(found[1].law, GemmLaw):
            return super()._gemm(m, n, k, weights, compute, work)
        fit, law = found[1], found[1].law
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(m, n, k, work.moved, peak, bandwidth)
        return self._corrected(seconds, fit, (m, n, k), compute, work)

    def _prefill(self, batch: Floats, tokens: Floats, op: AttentionOp, work: Work) -> Priced:
        width = (op.qk_dim + op.v_dim) // 2
        found = None if op.latent else self.find("prefill_attention", _kv_key(op), width)
        if found is None or not isinstance(found[1].law, PrefillLaw):
            return super()._prefill(batch, tokens, op, work)
        fit, law, compute = found[1], found[1].law, sixteen_bit(self.profile)
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(work.blocks, work.padded_flops, work.keys, work.moved, peak, bandwidth)
        sizes = (batch * op.heads, tokens, np.asarray(op.heads / op.kv_heads))
        return self._corrected(seconds, fit, sizes, compute, work, known=fit.variant == width)

    def _decode(self, batch: Floats, context: Floats, op: AttentionOp, work: Work) -> Priced:
        width = (op.qk_dim + op.v_dim) // 2
        found = None if op.latent else self.find("decode_attention", _kv_key(op), width)
        if found is None or not isinstance(found[1].law, DecodeLaw):
            return super()._decode(batch, context, op, work)
        fit, law, compute = found[1], found[1].law, sixteen_bit(self.profile)
        peak, bandwidth = self.profile.peak_flops[compute], self.profile.memory_bandwidth
        seconds = law.seconds(work.blocks, work.flops, work.keys, work.moved, peak, bandwidth)
        if op.window:
            # Past its window a sequence costs more than a full one of that length: it straddles one block more.
            seconds = seconds * (1.0 + (fit.window_factor - 1.0) * np.minimum(context / op.window, 1.0))
        sizes = (batch * op.kv_heads, context, np.asarray(op.heads / op.kv_heads))
        return self._corrected(seconds, fit, sizes, compute, work, known=fit.variant == width)

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """The rate of long prompts, by their fit. No measurement has cached tokens: always extrapolated."""
        (chunk,) = _floats(tokens)
        found = None if op.latent else self.find("prefill_attention", _kv_key(op), (op.qk_dim + op.v_dim) // 2)
        if found is None or not isinstance(found[1].law, PrefillLaw):
            return super().prefill_past(tokens, op)
        seconds = _past_seconds(self.profile, found[1].law.compute, chunk, op)
        return Priced(seconds, True, np.ones_like(seconds, dtype=np.bool_))

    def _corrected(
        self, seconds: Floats, fit: Fit, sizes: tuple[Floats, ...], compute: ComputeDtype, work: Work,
        known: bool = True,
    ) -> Priced:
        """Law times grid, above the floor; flagged where a size lies outside the measured ones."""
        outside = np.zeros(seconds.shape, dtype=np.bool_) | (not known)
        for size, (low, high) in zip(sizes, (fit.measured[axis] for axis in fit.grid.axes), strict=True):
            outside = outside | (size < low) | (size > high)
        priced = seconds * fit.grid.factor(sizes)
        return Priced(np.maximum(priced, floor_s(self.profile, compute, work.flops, work.moved)), True, outside)


def _kv_key(op: AttentionOp) -> str:
    """Kernels read any 8-bit KV cache alike; 4-bit ones were not measured and take the 8-bit price of their bytes."""
    return "bf16" if op.kv_dtype in ("bf16", "fp16") else "fp8"


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
