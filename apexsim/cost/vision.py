"""What a vision encoder costs: seconds of a batch of image slices, its work and its memory.

A slice is a sequence of its own: GEMMs over the patches of all slices of a batch, bidirectional attention inside each
slice (twice the pairs of a causal prompt, by the same kernels), then the projector. Tensor parallel ranks split
heads and widths, with two all-reduces a layer, as engines do unless they are told to deal slices to ranks instead.
Encoders run without CUDA graphs: the launches of their kernels count as in ``step.py``.

An engine's ``encoder_efficiency`` divides the device's seconds: encoders run far below what their kernels can do
(eager code, small batches, preprocessing between them).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.host import HostModel
from apexsim.cost.ledger import ATTENTION, CALIBRATED, JOULES, LINES, MOVED_BYTES, PARTS, Ledger, seconds
from apexsim.cost.operators import AttentionOp, Collective, Elementwise, Gemm, Operator
from apexsim.cost.precision import ACTIVATION_BYTES, compute_dtype
from apexsim.cost.pricing import Pricer
from apexsim.spec.model import ModelSpec
from apexsim.spec.vision import VisionEncoder

Floats = NDArray[np.float64]

LAUNCH_OVERLAP = 1.5
"""As ``step.LAUNCH_OVERLAP``."""

DENSE_SLICES = 64
"""Batches of up to so many slices are priced one by one; larger ones go on in a straight line."""

NORM_PASSES = 10
"""Of the residual stream through memory in a layer: two norms, two residual additions, the activation aside."""


@dataclass(frozen=True, slots=True)
class EncoderWork:
    """What one slice of the usual size costs, alone in its batch.

    Attributes:
        shares: of its seconds, by the parts of a ledger.
        joules: above idle, all ranks.
        flops: of all ranks. moved_bytes: of all ranks.
    """

    slice_s: float
    shares: dict[str, float]
    joules: float
    flops: float
    moved_bytes: float
    calibrated: float


@dataclass(frozen=True, slots=True)
class EncoderLaw:
    """A vision encoder on one replica.

    Attributes:
        batch: [k + 1] seconds of a batch of slices over the sum of the seconds of each alone, by their number.
        sizes: visual tokens of a slice -> its seconds alone, for sizes that were asked; see ``slice_s``.
        weights_bytes: of one device. activation_bytes: of one device, one slice.
        token_bytes: of one visual token on its way to the decoder.
        media_s, media_slice_s: host time of a request with images, before they are encoded.
    """

    spec: VisionEncoder
    work: EncoderWork
    batch: Floats
    weights_bytes: float
    activation_bytes: float
    token_bytes: float
    media_s: float
    media_slice_s: float
    efficiency: float
    prices: _Prices

    def slice_s(self, visual_tokens: NDArray[np.int64]) -> Floats:
        """[n] seconds of a slice alone that gives so many visual tokens."""
        unique, where = np.unique(visual_tokens, return_inverse=True)
        found = [self.prices.batch_s(1, self.spec.patches_of(int(tokens)), int(tokens)) for tokens in unique]
        return np.array(found)[where]

    def host_s(self, images: NDArray[np.int64]) -> Floats:
        """[n] seconds before requests with so many slices can be encoded; 0 without any."""
        return np.where(images > 0, self.media_s + self.media_slice_s * images, 0.0)


@dataclass(frozen=True, slots=True)
class _Prices:
    """Who prices the operators of an encoder."""

    pricer: Pricer
    model: ModelSpec
    spec: VisionEncoder
    tp: int
    launch_s: float
    efficiency: float

    def ledger(self, slices: int, patches: int, visual_tokens: int) -> Ledger:
        """[LINES] of a batch of ``slices`` slices of one size, one rank."""
        total = np.zeros(LINES)
        for op, rows in operators(self.spec, self.model.dtype, self.tp, patches, visual_tokens):
            if isinstance(op, AttentionOp):
                price = self.pricer.kernels.prefill_attention(float(slices), float(patches), op)
                each = 2.0 * float(price.seconds) * self.pricer.engines.prefill  # a patch sees those after it, too
                total[ATTENTION] += op.count * each
                total[CALIBRATED] += op.count * each * price.calibrated
                total[JOULES] += op.count * self._attention_j(op, each, slices, patches)
            else:
                total += op.count * self.pricer.of_rows(op, np.array([float(slices * rows)]))[:, 0]
        return total

    def _attention_j(self, op: AttentionOp, each_s: float, slices: int, patches: int) -> float:
        laws, power = self.pricer.attention_power((op,)), self.pricer.power
        if laws is None or power is None:
            return 0.0
        flops, moved = slices * patches * patches * op.prefill_pair_flops, slices * patches * op.prefill_token_bytes
        compute = compute_dtype(self.pricer.profile, self.model.dtype)
        return float(power.running_j(laws[0], compute, each_s, flops, moved))

    def batch_s(self, slices: int, patches: int, visual_tokens: int) -> float:
        """Seconds of a batch: device and launches, which hide each other in part."""
        device_s = float(seconds(self.ledger(slices, patches, visual_tokens)[:, None])[0]) / self.efficiency
        launched = operators(self.spec, self.model.dtype, self.tp, patches, visual_tokens)
        launches_s = self.launch_s * sum(op.kernels * op.count for op, _ in launched)
        return float((device_s**LAUNCH_OVERLAP + launches_s**LAUNCH_OVERLAP) ** (1 / LAUNCH_OVERLAP))


def operators(
    spec: VisionEncoder, dtype: str, tp: int, patches: int, visual_tokens: int
) -> list[tuple[Operator, int]]:
    """Operators of one rank and the rows of one slice; encoders keep 16 bits where the decoder is quantised."""
    h, width = spec.hidden_size, ceil(spec.intermediate_size / tp)
    heads = ceil(spec.heads / tp)
    inner, layers = heads * (h // spec.heads), spec.layers
    head = h // spec.heads
    layer: list[Operator] = [
        Gemm("encoder_qkv", 3 * inner, h, dtype, layers),
        AttentionOp("encoder_attention", heads, heads, head, head, 0, "bf16", layers),
        Gemm("encoder_output", h, inner, dtype, layers),
        Gemm("encoder_up", width, h, dtype, layers),
        Gemm("encoder_down", h, width, dtype, layers),
        Elementwise("encoder_norms", ACTIVATION_BYTES * (NORM_PASSES * h + 2.0 * width), 5, layers),
    ]
    if tp > 1:
        layer.append(Collective("encoder_all_reduce", "all_reduce", ACTIVATION_BYTES * h, tp, 2 * layers))
    found = [(op, patches) for op in layer]
    found.append((Gemm("encoder_patches", h, spec.patch_values, dtype, 1), patches))
    for matrix in spec.projector:
        rows = patches if matrix.rows == "patches" else visual_tokens
        found.append((Gemm("encoder_projector", matrix.outputs, matrix.inputs, dtype, matrix.count), rows))
    return found


def encoder_law(model: ModelSpec, prices: Pricer, host: HostModel, tp: int) -> EncoderLaw:
    """The vision encoder of ``model`` on ``tp`` ranks of a device; the model has one."""
    spec = model.vision
    assert spec is not None
    each = _Prices(prices, model, spec, tp, host.eager_kernel_s, host.encoder_efficiency)
    alone = each.batch_s(1, spec.patches, spec.visual_tokens)
    counts = np.arange(1, DENSE_SLICES + 1)
    batch = np.array([each.batch_s(int(k), spec.patches, spec.visual_tokens) for k in counts]) / (counts * alone)
    ledger = each.ledger(1, spec.patches, spec.visual_tokens)
    device_s = float(seconds(ledger[:, None])[0])
    work = EncoderWork(
        alone, {part: float(ledger[k]) / device_s for k, part in enumerate(PARTS)}, tp * float(ledger[JOULES]),
        slice_flops(spec), tp * float(ledger[MOVED_BYTES]), float(ledger[CALIBRATED]) / device_s,
    )  # fmt: skip
    matrices = spec.layers * spec.layer_parameters
    return EncoderLaw(
        spec, work, np.concatenate([np.ones(1), np.minimum.accumulate(batch)]),
        ACTIVATION_BYTES * (matrices / tp + spec.parameters - matrices),
        ACTIVATION_BYTES * float(spec.patches) * max(3 * spec.hidden_size, spec.intermediate_size + spec.hidden_size),
        float(ACTIVATION_BYTES * spec.embedding_width), host.media_s, host.media_slice_s, host.encoder_efficiency, each,
    )  # fmt: skip


def slice_flops(spec: VisionEncoder) -> float:
    """FLOP of one slice of the usual size: every matrix on its rows, and all pairs of patches."""
    h = spec.hidden_size
    rows = spec.patches * (spec.layers * (4 * h * h + 2 * h * spec.intermediate_size) + spec.patch_values * h)
    for matrix in spec.projector:
        each = spec.patches if matrix.rows == "patches" else spec.visual_tokens
        rows += each * matrix.count * matrix.inputs * matrix.outputs
    return float(2 * rows + 4 * spec.layers * spec.patches**2 * h)


def encoder_notes(host: HostModel, law: EncoderLaw) -> list[str]:
    """What a reader should know of the encoder's prices."""
    if not host.media_source:
        return [f"vision encoder: nobody measured {host.engine}'s; what its kernels price, no preprocessing"]
    return [f"vision encoder at {law.efficiency:.3g} of what its kernels price, preprocessing "
            f"{1000 * law.media_s:.4g} ms a request: {host.media_source}"]
