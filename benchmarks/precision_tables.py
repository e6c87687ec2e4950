"""Tables of docs/precision.md: which weights go with which activations, on which devices, and KV formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.precision import priced_by
from apexsim.spec import catalog
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.formats import PAIRS, Pair, linear_format
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.kv_formats import KV_FORMATS, kv_bytes

DEVICES = ("a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "mi300x", "tpu-v6e")
"""One of each kind: Ampere, Ada, Hopper, Blackwell, CDNA, TPU."""

PAIR = ("weights", "activations", "where left out", "multiplied in", "bytes a weight", "expansion", "kernels", *DEVICES)
KV = ("`kv_cache`", "bytes a value", "expansion, over the attention's FLOP", "kernels", *DEVICES)


def pairs() -> Iterator[Iterable[str]]:
    """A row for each pair of weights and activations."""
    for pair in PAIRS:
        word = f"{pair.weights}:{pair.activations}"
        yield (
            f"`{pair.weights}`", f"`{pair.activations}`", "yes" if pair.default else "no",
            " and ".join((pair.compute, *(f"{unit} units" for unit in pair.needs))),
            f"{linear_format(pair.weights).weight_bytes:.4g}", "" if pair.dequant == 1 else f"{pair.dequant:g}",
            pair.kernels, *(_priced(catalog.device(name), pair, word) for name in DEVICES),
        )  # fmt: skip


def _priced(profile: HardwareProfile, pair: Pair, word: str) -> str:
    """Whose kernels price it on a device."""
    if not profile.supports(word):
        return "–"
    kernels = CalibratedKernels(profile)
    for name, own in priced_by(profile, word):
        if kernels.find("gemm", name) is not None:
            return "measured" if own else f"by {name}"
    return "analytic"


def caches() -> Iterator[Iterable[str]]:
    """A row for each KV format, with heads of 128."""
    for dtype, stored in KV_FORMATS.items():
        yield (
            f"`{dtype}`", f"{kv_bytes(dtype):.4g}", f"{stored.expand:g}" if stored.expand else "", stored.kernels,
            *(_read(catalog.device(name), dtype) for name in DEVICES),
        )  # fmt: skip


def _read(profile: HardwareProfile, dtype: KvDtype) -> str:
    if not profile.supports_kv(dtype):
        return "–"
    measured = CalibratedKernels(profile).file("decode_attention", "bf16" if dtype == "fp16" else dtype)
    if KV_FORMATS[dtype].expand:
        return f"{(profile.vector_flops or 0) / 1e12:g} TFLOP/s"
    return "measured" if measured else "analytic"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [tuple(header), *map(tuple, rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]) + "\n"


TABLES = {
    "number formats": ("docs/precision.md", lambda: _table(PAIR, pairs())),
    "kv formats": ("docs/precision.md", lambda: _table(KV, caches())),
}
