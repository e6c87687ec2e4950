"""Dense matrix products of linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns, Family, Table, Verdict, skipped, units
from apexsim.calibration.problem import Problem, device_problem, even_knots, measured_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.precision import INPUT_BYTES, compute_dtype
from apexsim.cost.shapes import gemm_work
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

TILES = ((64, 128), (128, 128), (128, 256), (256, 128), (64, 256))
"""Tiles that GEMM kernels use, rows × columns; the fit takes the pair that explains the rows best."""

SIZES = ("m", "n", "k")

WORDS: dict[str, WeightDtype] = {
    "bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8-block", "nvfp4": "nvfp4", "sq": "int8",
    "int8_wo": "w8a16", "int4_wo": "w4a16",
}  # fmt: skip
"""``dtype`` of the tables -> weights of a plan."""

ENGINES = {"vllm": "gemm", "tensorrt-llm": "gemm_trtllm", "sglang": "gemm_sglang"}
"""Engine -> table of its linear layers."""

ROWS = (1, 4, 8, 16, 17, 32, 33, 48, 64, 65, 80, 96, 97, 128, 129, 160, 192, 193, 256, 257, 512, 513, 768, 1024,
        1280, 1536, 2048, 2560, 3072, 4096, 8192, 16384, 32768)  # fmt: skip
"""Rows at which the trend has knots: engines and kernel libraries choose another kernel just above a power of two."""

WIDTHS = 8
"""Knots of the trend along n and k."""


SET_ASIDE = {
    ("gemm", "fp8_block"): "vllm+eager",
    ("gemm_trtllm", "fp8"): "tensorrt-llm+quantised",
    ("gemm_trtllm", "nvfp4"): "tensorrt-llm+quantised",
}
"""Rows that no serving step is priced by. vLLM's fp8-block layers were timed without CUDA graphs, with one warm weight
matrix: they show the host's launches (55 us on H100, 282 us on L40S) wherever the kernel is shorter. TensorRT-LLM's fp8
and nvfp4 layers were timed with kernels of their own for the quantisation of the activations (some 8 us), which a
serving engine fuses into the norm before: its decode steps are 2 to 3 ms shorter than they say (Llama-3.1-70B)."""


WEIGHT_ONLY: dict[str, dict[str, WeightDtype]] = {"b60": {"fp8": "w8a16"}}
"""Device -> words whose weights it only stores so: its matrix units have no such format."""


def _recipes(engine: str, table: str) -> Iterator[Recipe]:
    for word, weights in WORDS.items():
        kept_as = SET_ASIDE.get((table, word), engine)
        without = tuple(device for device, words in WEIGHT_ONLY.items() if word in words)
        yield Recipe("gemm", weights, kept_as, table, SIZES, {"dtype": word}, not_for=without)
    for device, words in WEIGHT_ONLY.items():
        for word, weights in words.items():
            yield Recipe("gemm", weights, engine, table, SIZES, {"dtype": word}, only_for=(device,))


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    weights = next(word for word in get_args(WeightDtype) if word == recipe.dtype)
    if not profile.supports(weights):
        return
    compute = compute_dtype(profile, weights)
    m, n, k = (rows.sizes[name] for name in SIZES)
    work = gemm_work(m, n, k, weight_bytes(weights), INPUT_BYTES[compute])
    yield device_problem(
        profile, compute, work, {"m": m, "n": n, "k": k}, rows.seconds,
        {"m": _trend_rows(m), "n": even_knots(n, WIDTHS), "k": even_knots(k, WIDTHS)},
        # Tiles and waves make a step at the same m for every k, and at the same m for every n.
        finer=({"m": measured_knots(m), "n": measured_knots(n)}, {"m": measured_knots(m), "k": measured_knots(k)}),
        # The tables hold all m of a weight matrix or none: a model's next matrix is what has to be predicted.
        shape=("n", "k"),
    )  # fmt: skip


def _price(columns: Columns, profile: HardwareProfile, *, engine: str) -> Iterator[Verdict]:
    """As a serving step of ``engine`` is priced; what was set aside, by its own fit."""
    words = columns["dtype"]
    for word in map(str, np.unique(words)):
        m, n, k, milliseconds = (columns[name][words == word] for name in (*SIZES, "latency_ms"))
        weights = WEIGHT_ONLY.get(profile.name, {}).get(word) or WORDS.get(word)
        if weights is None:
            yield skipped(word, f"{word} is no format of weights that a plan can name", m.size)
        elif not profile.supports(weights):
            yield skipped(word, f"{profile.name} has no matrix units for {weights}", m.size)
        else:
            price = CalibratedKernels(profile, SET_ASIDE.get((ENGINES[engine], word), engine)).gemm(m, n, k, weights)
            yield Verdict(word, price.seconds, milliseconds * 1e-3, calibrated=price.calibrated)


def _trend_rows(m: Floats) -> Floats:
    """Those of ``ROWS`` that were measured."""
    known = np.intersect1d(m, ROWS)
    return measured_knots(known) if known.size > 1 else even_knots(m, 2)


def _tiles(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"tile_m": rows, "tile_n": columns, "units": units(profile)} for rows, columns in TILES]


GEMM = Family(
    operator="gemm",
    recipes=tuple(recipe for engine, table in ENGINES.items() for recipe in _recipes(engine, table)),
    problems=_problems,
    search={
        "compute": (0.8, 0.1, 1.2), "memory": (0.85, 0.2, 1.2), "sharpness": (4, 1, 30),
        "latency_s": (2.5e-6, 1e-7, 5e-5), "quantisation": (0.5, 0.01, 1), "k_half": (50, 0.1, 3000),
    },
    # A smaller one changed no held-out error, but moved real models' shapes, which lie between the measured ones, away
    # from measured step times.
    smoothness=0.3,
    fixed=_tiles,
    tables={
        table: Table(("dtype",), (*SIZES, "latency_ms"), partial(_price, engine=engine))
        for engine, table in ENGINES.items()
    },
)  # fmt: skip
