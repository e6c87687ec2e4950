"""The routed experts of a mixture-of-experts layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns, Family, Table, Verdict, skipped
from apexsim.calibration.problem import Problem, device_problem, even_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.experts import grouped_work
from apexsim.cost.kernels import CalibratedKernels, expert_run
from apexsim.cost.operators import GroupedGemm
from apexsim.cost.precision import compute_dtype
from apexsim.cost.routing import TILES
from apexsim.cost.shapes import Work
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

SIZES = (
    "tokens", "hidden_size", "moe_intermediate_size", "experts", "experts_per_token", "moe_tp", "moe_ep",
)  # fmt: skip

WORDS: dict[str, WeightDtype] = {
    "bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8-block", "int4_wo": "w4a16", "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4",
}  # fmt: skip
"""``dtype`` of the tables -> weights of a plan."""

WEIGHT_ONLY: dict[str, dict[str, WeightDtype]] = {"b60": {"fp8": "w8a16"}}
"""Device -> words whose weights it only stores so: its matrix units have no such format."""

SET_ASIDE = {(device, "fp8"): "vllm+modelopt" for device in ("h100-sxm", "h200-sxm")}
"""Rows that no serving step is priced by. vLLM's experts in fp8 with one scale a tensor were measured on Hopper with
FlashInfer's CUTLASS kernels for ModelOpt checkpoints: 2 to 4 times as long as those with one scale a block, and longer
than bf16. Llama-4-Scout-FP8 under vLLM 0.15.1 runs like the latter."""

UNGATED = {(2688, 1856, 128), (1024, 2688, 512), (2048, 5120, 512), (4096, 2688, 512)}
"""Hidden size, width of an expert and experts of the models among the tables (Nemotron-H, squared ReLU) whose experts
have two matrices, not three: with three, their rows would read memory faster than it is. In nvfp4 they took a half
longer, and so were given three."""

KNOTS = {"each": 12, "touched": 6, "width": 8, "tokens": 5}
FINER = {"held": 6, "tokens": 8}

LIMITED = {(7168, 2048, 256): ":8/4"}
"""The same three of DeepSeek-V3 -> how its router limits what the benchmark dealt (``apexsim.cost.dealt``)."""

OLDER = ("a100-sxm-80gb",)
"""Devices that were measured by an older release of the benchmark (vLLM 0.14), which dealt tokens otherwise and gave
all experts three matrices."""

MIN_ROWS = 100
"""A kernel with fewer rows is not fitted: the one that most models run stands for it."""


def _operator(shape: Sequence[float], weights: WeightDtype, routing: str, profile: HardwareProfile) -> GroupedGemm:
    """One rank's experts, from ``SIZES`` without the tokens."""
    hidden, width, experts, per_token, tp, ep = (int(size) for size in shape)
    gated = (hidden, width, experts) not in UNGATED or weights == "nvfp4" or profile.name in OLDER
    dealt = routing + (":fullest" if profile.name in OLDER else LIMITED.get((hidden, width, experts), ""))
    return GroupedGemm(
        "experts", hidden, width // tp, experts, experts // ep, per_token, gated, weights, 1, dealt,
    )  # fmt: skip


def _groups(
    sizes: Mapping[str, Floats], routing: NDArray[np.str_], weights: WeightDtype, profile: HardwareProfile
) -> Iterator[tuple[GroupedGemm, NDArray[np.int64]]]:
    """Each operator of the rows, with the rows that ran it."""
    words, codes = np.unique(routing, return_inverse=True)
    keys = np.column_stack([codes.astype(np.float64), *(sizes[name] for name in SIZES[1:])])
    shapes, of_row = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(of_row.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(of_row.ravel(), minlength=len(shapes)))
    for shape, rows in zip(shapes, np.split(order, ends[:-1]), strict=True):
        yield _operator(shape[1:], weights, str(words[int(shape[0])]), profile), rows


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """One a kernel: a library picks it by what the model is and by whether its experts are spread over ranks."""
    weights = next(word for word in get_args(WeightDtype) if word == recipe.dtype)
    if not profile.supports(weights):
        return
    kernels, counts = np.unique(rows.words["kernel"], return_counts=True)
    for kernel in kernels[np.argsort(-counts, kind="stable")]:
        mine = rows.take(rows.words["kernel"] == kernel)
        if mine.seconds.size >= MIN_ROWS:
            yield _problem(str(kernel), mine, weights, profile)


def _problem(kernel: str, rows: Rows, weights: WeightDtype, profile: HardwareProfile) -> Problem:
    parts, runs = [], set()
    for op, where in _groups(rows.sizes, rows.words["routing"], weights, profile):
        parts.append((where, *grouped_work(rows.sizes["tokens"][where], op)))
        runs.add(expert_run(op))
    order = np.argsort(np.concatenate([where for where, *_ in parts]))
    work = Work(*(np.concatenate(column)[order] for column in zip(*(part[1] for part in parts), strict=True)))
    sizes = {name: np.concatenate([part[2][name] for part in parts])[order] for name in parts[0][2]}
    knots = {name: even_knots(sizes[name], count) for name, count in KNOTS.items()}
    problem = device_problem(
        profile, compute_dtype(profile, weights), work, sizes, rows.seconds, knots,
        # The tables hold all tokens and routings of a model's split or none: a split is what has to be predicted.
        shape=("parameters", "width", "held"),
        finer=({name: even_knots(sizes[name], count) for name, count in FINER.items()},),
    )  # fmt: skip
    return problem.told_apart(kernel, tuple(sorted(runs)))


def _tiles(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"tile": tile} for tile in TILES]


def _price(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """As a serving step is priced; what was set aside, by its own fit."""
    words = columns["dtype"].astype(str)
    for word in map(str, np.unique(words)):
        rows = words == word
        weights = WEIGHT_ONLY.get(profile.name, {}).get(word) or WORDS.get(word)
        if weights is None or not profile.supports(weights):
            yield skipped(word, f"{profile.name} has no matrix units for {word}", int(rows.sum()))
            continue
        kernels = CalibratedKernels(profile, SET_ASIDE.get((profile.name, word), "vllm"))
        sizes = {name: columns[name][rows].astype(np.float64) for name in SIZES}
        predicted, calibrated = np.empty(int(rows.sum())), True
        for op, where in _groups(sizes, columns["routing"][rows].astype(str), weights, profile):
            price = kernels.grouped_gemm(sizes["tokens"][where], op)
            predicted[where], calibrated = price.seconds, calibrated and price.calibrated
        measured = columns["latency_ms"][rows].astype(np.float64) * 1e-3
        yield Verdict(word, predicted, measured, calibrated=calibrated)


def _recipes() -> Iterator[Recipe]:
    for words, weights in (("bfloat16", "bf16"), ("fp8", "fp8"), ("fp8_block", "fp8-block"), ("nvfp4", "nvfp4"),
                           ("int4_wo", "w4a16"), (("w4a16_mxfp4", "w4a8_mxfp4_mxfp8"), "mxfp4")):  # fmt: skip
        apart = {device: engine for (device, word), engine in SET_ASIDE.items() if word == words}
        stored = {device: kept[str(words)] for device, kept in WEIGHT_ONLY.items() if words in kept}
        yield _recipe(words, weights, not_for=(*apart, *stored))
        yield from (_recipe(words, weights, engine, only_for=(device,)) for device, engine in apart.items())
        yield from (_recipe(words, kept_as, only_for=(device,)) for device, kept_as in stored.items())


def _recipe(
    words: str | tuple[str, ...], weights: str, engine: str = "vllm", only_for: tuple[str, ...] = (),
    not_for: tuple[str, ...] = (),
) -> Recipe:
    return Recipe(
        "grouped_gemm", weights, engine, "moe", SIZES, {"dtype": words}, words=("routing", "kernel"),
        only_for=only_for, not_for=not_for,
    )  # fmt: skip


EXPERTS = Family(
    operator="grouped_gemm",
    recipes=tuple(_recipes()),
    problems=_problems,
    search={
        "compute": (0.5, 0.02, 1.2), "memory": (0.8, 0.1, 1.3), "sharpness": (2, 0.7, 20),
        "latency_s": (2e-5, 1e-6, 3e-4), "expert_s": (1e-8, 1e-12, 1e-5), "token_s": (1e-8, 1e-12, 1e-6),
        "pair_bytes": (1.0, 1e-3, 20), "wide_bytes": (0.5, 1e-3, 20), "rank_bytes": (2.0, 1e-3, 50),
        "depth_s": (1e-9, 1e-13, 1e-7),
    },
    smoothness=0.2,
    worst_p90=0.6,  # a split that was held out whole, with all its tokens; the alternative is another dtype's fit
    fixed=_tiles,
    tables={"moe": Table(("dtype", "routing"), (*SIZES, "latency_ms"), _price)},
)  # fmt: skip
