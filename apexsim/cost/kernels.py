"""The calibrated kernel model: fitted rooflines times their correction grids, read from a profile's kernel files.

An operator without a file falls back to the analytic price of ``analytic.py``, and says so. Every price is clamped to
the physical floor of ``floor.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.analytic import AnalyticKernels, floats, past_seconds
from apexsim.cost.coefficients import Fit, KernelFile, load
from apexsim.cost.collectives import collective_floor_s, sent_bytes
from apexsim.cost.experts import exchange_work
from apexsim.cost.floor import floor_s
from apexsim.cost.kernel_model import KernelModel, Priced
from apexsim.cost.laws import PrefillLaw, Sizes
from apexsim.cost.operators import AttentionOp, ExpertExchange, GroupedGemm, Phase
from apexsim.cost.precision import attention_compute, priced_by
from apexsim.cost.shapes import Work, collective_work
from apexsim.spec.catalog import profile_folder
from apexsim.spec.cluster import Link
from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.formats import weights_part
from apexsim.spec.hardware import HardwareProfile

__all__ = ["AnalyticKernels", "CalibratedKernels", "KernelModel", "Priced"]

Floats = NDArray[np.float64]

PREFERENCE = ("vllm", "sglang", "tensorrt-llm")
"""Whose measurements stand for an engine that was not measured itself, best first. vLLM's blockwise fp8 GEMMs are
SGLang's: both call DeepGEMM."""

LATENT_PREFERENCE = ("tensorrt-llm", "vllm")
"""The same for MLA: what vLLM was measured at holds its own glue around the kernel, 40 us a layer on an H100. Under
SGLang on an H200, DeepSeek-R1 decodes as fast as TensorRT-LLM's kernel and the projections say. The choice was made
after looking at those runs, so they are no independent evidence for it."""

SET_ASIDE = "+"
"""In the engine's name of measurements that no serving step may be priced by, as in ``vllm+eager``; what follows says
why. A report prices the same measurements by them, as the engine of that whole name."""

LIBRARIES = ("nccl", "oneccl")
"""Whose collectives every engine falls back to: above the limit of its own all-reduce, or where it has none."""


class CalibratedKernels(AnalyticKernels):
    """Fitted rooflines times their correction grids; analytic, and said so, where the profile has no fit."""

    def __init__(self, profile: HardwareProfile, engine: str = "vllm", version: str | None = None) -> None:
        """``version``: of the engine; where several were measured, its own collectives, else the newest ones."""
        super().__init__(profile, engine)
        self.version = version
        self._folder = (profile.folder or profile_folder(profile.name)) / "kernels" if profile.kernels else Path()

    def file(self, operator: str, dtype: str) -> KernelFile | None:
        """The measurements of an operator as this engine runs it, else as another engine was measured."""
        return next(self.files(operator, dtype), None)

    def files(self, operator: str, dtype: str) -> Iterator[KernelFile]:
        """All measurements of an operator: this engine's first, then ``PREFERENCE``, then the rest by name."""
        prefix = f"{operator}.{'bf16' if dtype == 'fp16' else dtype}."
        found = {name.removeprefix(prefix) for name in self.profile.kernels if name.startswith(prefix)}
        engines = {engine for engine in found if SET_ASIDE not in engine or engine == self.engine}
        itself = (self.engine, self.engine.partition(SET_ASIDE)[0])
        others = LATENT_PREFERENCE if operator.startswith("mla_") else PREFERENCE
        preferred = [engine for engine in dict.fromkeys((*itself, *others)) if engine in engines]
        for engine in (*preferred, *sorted(engines - set(preferred))):
            yield self.load(prefix + engine)

    def load(self, name: str) -> KernelFile:
        """A kernel file of the profile, read when it is first asked for."""
        return load(self._folder / f"{name}.json")

    def find(
        self, operator: str, dtype: str, variant: int = 0, windowed: bool = False, label: str = ""
    ) -> Fit | None:
        """The fit of a variant (head dimension); one that nobody measured takes the nearest, extrapolated.

        ``label``: of fits that are nearest alike, the one of this label, else the first.
        """
        file = self.file(operator, dtype)
        if file is None:
            return None
        return min(
            file.fits, key=lambda f: (f.windowed != windowed, abs(f.variant - variant), f.variant, f.label != label)
        )

    def _gemm(self, weights: str, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        for name, own in priced_by(self.profile, weights):
            fit = self.find("gemm", name)
            if fit is not None:
                return self._fitted(fit, compute, work, sizes, own)
        return super()._gemm(weights, compute, work, sizes)

    def _grouped_gemm(self, op: GroupedGemm, compute: ComputeDtype, work: Work, sizes: Sizes) -> Priced:
        """By the kernel that was measured with this model, else by the one that most models run.

        Experts with one scale a tensor go by those with one a block where only these were measured.
        """
        files = ((self.file("grouped_gemm", name), own) for name, own in priced_by(self.profile, op.weights))
        file, own = next(((file, own) for file, own in files if file is not None), (None, False))
        if file is None:
            return super()._grouped_gemm(op, compute, work, sizes)
        run = expert_run(op)
        fit = max(file.fits, key=lambda f: (run in f.runs, sum(known[-1] == run[-1] for known in f.runs), f.rows))
        return self._fitted(fit, compute, work, sizes, own or file.dtype == "fp8-block")

    def _attention(self, operator: str, op: AttentionOp, work: Work, sizes: Sizes) -> Priced:
        fit = self._attention_fit(operator, op)
        if fit is None:
            return super()._attention(operator, op, work, sizes)
        variant = op.latent or _width(op)
        known = fit.variant == variant and fit.windowed == (op.window > 0)
        return self._fitted(fit, attention_compute(self.profile, op.kv_dtype), work, sizes, known)

    def _attention_fit(self, operator: str, op: AttentionOp) -> Fit | None:
        """Integer caches were not measured: the 16-bit kernel, with their bytes (and ``low_bit_kv`` on top)."""
        dtype = "fp8" if op.kv_dtype == "fp8" else "bf16"
        if op.latent:
            operator = f"mla_{operator.removesuffix('_attention')}"
        if op.queries == "fp8" and self.file(operator, "fp8-fp8") is not None:
            dtype = "fp8-fp8"
        label = weights_part(op.weights)
        return self.find(operator, dtype, op.latent or _width(op), windowed=op.window > 0, label=label)

    def prefill_past(self, tokens: ArrayLike, op: AttentionOp) -> Priced:
        """The rate of long prompts, by their fit. No measurement has cached tokens: always extrapolated."""
        (chunk,) = floats(tokens)
        fit = self._attention_fit("prefill_attention", op)
        if fit is None or not isinstance(fit.law, PrefillLaw):
            return super().prefill_past(tokens, op)
        seconds = past_seconds(self.profile, min(fit.law.compute, 1.0), chunk, op)
        return Priced(seconds, True, np.ones_like(seconds, dtype=np.bool_))

    def collective(
        self, kind: str, message: ArrayLike, ranks: int, link: Link, dtype: str = "bf16"
    ) -> Priced:
        """The engine's own or its library's, whichever is faster; measured within a node, for some numbers of ranks.

        Engines leave large messages to the library. What was measured of an engine is what it chose, and mostly holds
        that already. What is set aside, or of a version that is asked for, is priced by itself.
        """
        within = link.link_class == ("scaleup" if self.profile.scaleup else "pcie")
        fits = self._collective_fits(kind, ranks, dtype) if within else []
        if not fits:
            return super().collective(kind, message, ranks, link)
        size = np.maximum(np.asarray(message, dtype=np.float64), 1.0)
        work, sizes = collective_work(sent_bytes(kind, size, ranks)), {"bytes": size}
        each = np.array([fit.seconds(work, sizes, 0.0, link.bandwidth) for fit in fits])
        outside = np.array([fit.extrapolated(sizes) for fit in fits])
        fastest = each.argmin(axis=0)
        floor = collective_floor_s(kind, size, ranks, link)
        return Priced(
            np.maximum(each.min(axis=0), floor), True,
            np.take_along_axis(outside, fastest[None], axis=0)[0],
        )

    def _collective_fits(self, kind: str, ranks: int, dtype: str) -> list[Fit]:
        """This engine's, or of the engines that stand for it, and the library's."""
        files = list(self.files(kind, dtype))
        own = [file for file in files if file.engine in (self.engine, *PREFERENCE)][:1]
        alone = SET_ASIDE in self.engine or self.version is not None
        library = [file for file in files if file.engine in LIBRARIES][: 0 if own and alone else 1]
        found = []
        for file in own + library:
            fits = [fit for fit in file.fits if fit.variant == ranks]
            found += [fit for fit in fits if fit.label == self.version][:1] or fits[:1]
        return found

    def exchange(self, phase: Phase, tokens: ArrayLike, op: ExpertExchange) -> Priced:
        """Measured for some transports, dtypes and numbers of nodes."""
        (count,) = floats(tokens)
        fits = (
            fit for file in self.files(phase, op.dtype) for fit in file.fits
            if fit.label == op.transport and fit.variant == op.nodes
        )
        fit = next(fits, None)
        if fit is None:
            return super().exchange(phase, tokens, op)
        work, sizes = exchange_work(phase, count, op)
        return Priced(self._exchange_s(fit, work, sizes, op.network), True, fit.extrapolated(sizes))

    def _fitted(self, fit: Fit, compute: ComputeDtype, work: Work, sizes: Sizes, known: bool = True) -> Priced:
        """Law times grid, above the floor; extrapolated where a size or the variant was not measured."""
        seconds = fit.seconds(work, sizes, self.profile.peak_flops[compute], self.profile.memory_bandwidth)
        outside = np.broadcast_to(fit.extrapolated(sizes) | (not known), seconds.shape)
        return Priced(np.maximum(seconds, floor_s(self.profile, compute, work.flops, work.moved)), True, outside)


def expert_run(op: GroupedGemm) -> tuple[int, ...]:
    """What a library chooses its kernel by, as ``Fit.runs`` holds it; the last says whether experts are spread."""
    return op.hidden_size, op.experts, op.experts_per_token, int(op.local_experts < op.experts)


def _width(op: AttentionOp) -> int:
    """Head dimension that a fit is filed under."""
    return (op.qk_dim + op.v_dim) // 2
