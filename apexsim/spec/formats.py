"""How linear layers multiply: which weights go with which activations, in what, and whose kernels price that.

A *word* names a format where operators, kernel files and reports need one: the weights' dtype, ``w4a16``; with the
group of weights that share a scale where it is not the usual one, ``w4a16-g32`` (``-g32s``: symmetric, no zero points);
with the activations where a plan names them, ``fp8:bf16``. ``PAIRS`` is the table; docs/precision.md prints it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from apexsim.spec.dtypes import ActivationDtype, ComputeDtype, WeightDtype


@dataclass(frozen=True, slots=True)
class Stored:
    """Bits of a weight in memory, and of the scale (and zero) that a group of them shares; group 0: not counted."""

    bits: float
    scale_bits: float = 0.0
    group: int = 0


STORED: dict[str, Stored] = {
    "bf16": Stored(16), "fp16": Stored(16), "fp8": Stored(8), "int8": Stored(8), "w8a16": Stored(8),
    "fp8-block": Stored(8, 32, 128 * 128),  # one fp32 scale per 128 x 128 block
    "w4a16": Stored(4, 16 + 4, 128),  # fp16 scale and 4-bit zero per group of 128 (GPTQ, AWQ)
    "w4a8": Stored(4, 16 + 4, 128),
    "nvfp4": Stored(4, 8, 16),  # fp8 scale per 16 weights
    "mxfp4": Stored(4, 8, 32),  # e8m0 scale per 32 weights (OCP microscaling)
}  # fmt: skip

SCALE_ONLY_BITS = 16
"""Of a group's scale where integer weights are symmetric."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Weights and activations that some kernel multiplies."""

    weights: WeightDtype
    activations: ActivationDtype
    compute: ComputeDtype  # what the matrix units multiply in
    default: bool = True  # what a plan gets that names no activations; the first whose units the device has
    needs: tuple[ComputeDtype, ...] = ()  # units that must be there besides
    dequant: float = 1.0  # main loop over that without expanding the weights, where nothing was measured
    borrows: tuple[str, ...] = ()  # measured formats whose kernels price it where its own were not, nearest first
    kernels: str = ""  # who ships such kernels


MARLIN = "Marlin (vLLM, SGLang)"
EXPAND_4, EXPAND_8 = 1.09, 1.04
"""Expanding weights of 4 and 8 bits to 16 in the main loop, over a 16-bit GEMM of many rows. 4 bits: Tilus on L40S, a
prefill of Gemma-2-9B 285.7 -> 312.4 ms (kernels 1.07 to 1.14; on H100 a prefill got no longer). 8 bits: half of that,
an estimate. TensorRT-LLM's on A100 were measured and need neither: 1.02 and 1.00 from 512 rows on."""

PAIRS: tuple[Pair, ...] = (
    Pair("bf16", "bf16", "bf16", kernels="every engine"),
    Pair("fp16", "fp16", "fp16", kernels="every engine"),
    Pair("fp8", "fp8", "fp8", borrows=("fp8-block",), kernels="every engine"),
    Pair("fp8", "bf16", "bf16", default=False, dequant=EXPAND_8, borrows=("w8a16",), kernels=MARLIN),
    Pair("fp8", "fp16", "fp16", default=False, dequant=EXPAND_8, borrows=("w8a16",), kernels=MARLIN),
    Pair("fp8-block", "fp8", "fp8", kernels="DeepGEMM, CUTLASS"),
    Pair("fp8-block", "bf16", "bf16", default=False, dequant=EXPAND_8, borrows=("w8a16",), kernels=MARLIN),
    Pair("int8", "int8", "int8", borrows=("fp8", "fp8-block"), kernels="CUTLASS (vLLM), TensorRT-LLM SmoothQuant"),
    Pair("int8", "bf16", "bf16", default=False, dequant=EXPAND_8, borrows=("w8a16",), kernels=MARLIN),
    Pair("int8", "fp16", "fp16", default=False, dequant=EXPAND_8, borrows=("w8a16",), kernels=MARLIN),
    Pair("w8a16", "bf16", "bf16", dequant=EXPAND_8, kernels=f"{MARLIN}, TensorRT-LLM"),
    Pair("w8a16", "fp16", "fp16", dequant=EXPAND_8, kernels=f"{MARLIN}, TensorRT-LLM"),
    Pair("w4a16", "bf16", "bf16", dequant=EXPAND_4, kernels=f"{MARLIN}, TensorRT-LLM (GPTQ, AWQ)"),
    Pair("w4a16", "fp16", "fp16", dequant=EXPAND_4, kernels=f"{MARLIN}, TensorRT-LLM (GPTQ, AWQ)"),
    Pair("w4a16", "int8", "int8", default=False, borrows=("int8", "fp8"), kernels="QServe (QoQ)"),
    Pair("w4a16", "fp8", "fp8", default=False, borrows=("fp8",), kernels="TensorRT-LLM (W4A8_AWQ), Machete"),
    Pair("w4a8", "int8", "int8", borrows=("int8", "fp8"), kernels="QServe (QoQ): int4 becomes int8 in registers"),
    Pair("w4a8", "fp8", "fp8", default=False, borrows=("fp8",), kernels="TensorRT-LLM (W4A8_AWQ), Machete"),
    Pair("nvfp4", "fp4", "fp4", kernels="CUTLASS, FlashInfer"),
    Pair("nvfp4", "fp8", "fp8", default=False, needs=("fp4",), borrows=("fp8",), kernels="TensorRT-LLM"),
    Pair("nvfp4", "bf16", "bf16", default=False, dequant=EXPAND_4, borrows=("w4a16",), kernels=MARLIN),
    Pair("mxfp4", "fp8", "fp8", needs=("fp4",), kernels="mxfp8 x mxfp4: FlashInfer, TensorRT-LLM"),
    Pair("mxfp4", "bf16", "bf16", dequant=EXPAND_4, borrows=("w4a16",), kernels="Triton, Marlin (gpt-oss on Hopper)"),
)  # fmt: skip
"""Units that read fp4 take mxfp4 with fp8 activations, at the rate of fp8: engines never run gpt-oss as fp4 x fp4."""

_WORD = re.compile(r"(?P<weights>[a-z0-9]+(?:-block)?)(?:-g(?P<group>\d+)(?P<symmetric>s?))?(?::(?P<activations>\w+))?")


@dataclass(frozen=True, slots=True)
class LinearFormat:
    """What a word stands for."""

    weights: str
    stored: Stored
    pairs: tuple[Pair, ...]  # those that may run it, the preferred one first

    @property
    def weight_bytes(self) -> float:
        """Of one weight in memory, with its share of the scales of its block or group."""
        scale = self.stored.scale_bits / self.stored.group if self.stored.group else 0.0
        return (self.stored.bits + scale) / 8

    def pair(self, units: Collection[str]) -> Pair | None:
        """The pair that a device with these matrix units runs; None where it has none for it."""
        return next((pair for pair in self.pairs if {pair.compute, *pair.needs} <= set(units)), None)


@lru_cache(maxsize=256)
def linear_format(word: str) -> LinearFormat:
    """The format that a word names.

    Raises:
        ValueError: it names none, or weights and activations that no kernel multiplies.
    """
    match = _WORD.fullmatch(word)
    if match is None or match["weights"] not in STORED:
        raise ValueError(f"{word!r} names no format of linear layers")
    stored = STORED[match["weights"]]
    if match["group"]:
        scale = SCALE_ONLY_BITS if match["symmetric"] else stored.scale_bits
        stored = Stored(stored.bits, scale, int(match["group"]))
    known = [pair for pair in PAIRS if pair.weights == match["weights"]]
    wanted = match["activations"]
    pairs = tuple(pair for pair in known if (pair.activations == wanted if wanted else pair.default))
    if not pairs:
        raise ValueError(f"no kernel multiplies {match['weights']} weights by {wanted} activations")
    return LinearFormat(match["weights"], stored, pairs)


def word_of(
    weights: WeightDtype, activations: ActivationDtype | None = None, group: int | None = None, symmetric: bool = False
) -> str:
    """The word of a format. ``group``, ``symmetric``: of integer weights of 4 bits, where a checkpoint says so."""
    unusual = group is not None and weights in GROUPED and (symmetric or group != STORED[weights].group)
    grouped = f"-g{group}{'s' if symmetric else ''}" if unusual else ""
    return with_activations(f"{weights}{grouped}", activations)


GROUPED: tuple[WeightDtype, ...] = ("w4a16", "w4a8")
"""Weights whose group differs between checkpoints."""


def with_activations(word: str, activations: ActivationDtype | None) -> str:
    """The same weights, multiplied by other activations; as before where None. The only default goes without saying."""
    if activations is None:
        return word
    weights = word.partition(":")[0]
    defaults = linear_format(weights).pairs
    return weights if [pair.activations for pair in defaults] == [activations] else f"{weights}:{activations}"


def weights_part(word: str) -> str:
    """The weights' dtype of a format, without its group and its activations: what kernel files are named by."""
    return linear_format(word).weights


def partners(weights: str) -> tuple[ActivationDtype, ...]:
    """Activations that some kernel multiplies such weights by."""
    return tuple(dict.fromkeys(pair.activations for pair in PAIRS if pair.weights == weights))


def weight_bytes(word: str) -> float:
    """Bytes of one weight in memory, its share of the scales of its block or group included."""
    return linear_format(word).weight_bytes



def block_of(word: str) -> int:
    """Weights along one side that share a scale; engines refuse a rank whose share of a matrix cuts such a block.

    The small groups of fp4 formats are padded by every engine, so they cut nothing.
    """
    found = linear_format(word)
    if found.weights == "fp8-block":
        return 128
    return found.stored.group if found.weights in GROUPED else 1
