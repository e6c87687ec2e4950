"""Collectives between the devices of a node: engines' own all-reduces, and the libraries'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns, Family, Table, Verdict, skipped
from apexsim.calibration.problem import Problem, measured_knots
from apexsim.calibration.rows import Recipe, Rows, version_key
from apexsim.cost.collectives import sent_bytes
from apexsim.cost.experts import exchange_links
from apexsim.cost.floor import FLOOR
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.shapes import collective_work
from apexsim.spec.cluster import Cluster
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

MIN_ROWS = 6
"""A number of ranks with fewer rows is not fitted."""

SIZES = ("gpus", "bytes")

SEARCH = {"latency_s": (5e-6, 1e-7, 1e-2), "link": (0.7, 1e-4, 1.5), "sharpness": (1.5, 0.5, 10.0)}

VARIANTS = {
    "vllm": ("vllm_graph",), "sglang": ("sglang_graph",), "tensorrt-llm": ("trtllm", ""),
    "vllm+eager": ("vllm_eager",), "sglang+eager": ("sglang_eager",),
}  # fmt: skip
"""Engine of the kernel file -> ``variant`` of the table. Eager variants hold 20 to 70 us of launches, which a running
engine hides or replays in a graph: no engine is served by them. Rows without a variant are all TensorRT-LLM's."""

OPS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
       "all_to_all": "alltoall"}  # fmt: skip
"""Kind of collective -> ``op`` of the tables."""

DTYPES = {"bf16": "half", "int8": "int8"}

SIXTEEN_BIT = ("bfloat16", "half", "float16")
"""``dtype`` of engines' own all-reduces: a price goes by bytes."""

LIBRARIES = {"NCCL": "nccl", "oneCCL": "oneccl"}
"""``kernel`` of the table -> engine of the kernel file."""

ONE_VERSION = ("nccl",)
"""Libraries whose versions measured alike: their rows are merged."""


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """One a version, the newest first, and a number of ranks; over PCIe where a device has no scale-up links."""
    bandwidth, _ = exchange_links(profile)
    versions = rows.words["backend_version"] if recipe.words else np.full(rows.seconds.size, "")
    for version in sorted(set(versions), key=version_key, reverse=True):
        for ranks in np.unique(rows.sizes["gpus"]):
            mine = rows.take((rows.sizes["gpus"] == ranks) & (versions == version))
            if mine.seconds.size < MIN_ROWS:
                continue
            size = mine.sizes["bytes"]
            sent = sent_bytes(recipe.operator, size, int(ranks))
            problem = Problem(
                collective_work(sent), {"bytes": size}, mine.seconds, FLOOR * sent / bandwidth, 0.0, bandwidth,
                {"bytes": measured_knots(size)}, int(ranks),
            )
            yield problem.told_apart(str(version))


def _price(
    kind: str, engine: str, columns: Columns, chosen: NDArray[np.bool_], profile: HardwareProfile, dtype: str = "bf16"
) -> Floats:
    """Seconds of the chosen rows: those of one collective by one engine or library."""
    predicted = np.zeros(chosen.shape)
    versions, ranks = columns["backend_version"].astype(str), columns["gpus"].astype(np.int64)
    for version, count in {(v, n) for v, n in zip(versions[chosen], ranks[chosen], strict=True)}:
        rows = chosen & (versions == version) & (ranks == count)
        link = Cluster.model_validate(f"{count}x{profile.name}").link(profile, int(count))
        kernels = CalibratedKernels(profile, engine, str(version))
        message = columns["bytes"].astype(np.float64)[rows]
        predicted[rows] = kernels.collective(kind, message, int(count), link, dtype).seconds
    return predicted


def _all_reduces(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """The engines' own, priced as each version of each engine is."""
    measured = columns["latency_ms"].astype(np.float64) * 1e-3
    variants, dtypes = columns["variant"].astype(str), columns["dtype"].astype(str)
    known = np.isin(variants, [name for names in VARIANTS.values() for name in names])
    for word in map(str, np.unique(dtypes)):
        mine = dtypes == word
        if word not in SIXTEEN_BIT:
            yield skipped(word, f"{word} is no dtype of an engine's all-reduce", int(mine.sum()))
            continue
        predicted = np.zeros(measured.shape)
        for engine, names in VARIANTS.items():
            predicted += _price("all_reduce", engine, columns, np.isin(variants, names) & mine, profile)
        yield Verdict(word, predicted[mine & known], measured[mine & known])
        if (mine & ~known).any():
            yield skipped(word, "a variant that nobody knows", int((mine & ~known).sum()))


def _library(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """A verdict for each collective and dtype."""
    measured = columns["latency_ms"].astype(np.float64) * 1e-3
    ops, dtypes, kernels = (columns[name].astype(str) for name in ("op", "dtype", "kernel"))
    known = np.isin(kernels, list(LIBRARIES))
    priced = np.isin(ops, list(OPS.values())) & np.isin(dtypes, list(DTYPES.values())) & known
    for op, word in sorted(set(zip(ops[~priced].tolist(), dtypes[~priced].tolist(), strict=True))):
        count = int((~priced & (ops == op) & (dtypes == word)).sum())
        yield skipped(f"{op} {word}", "a collective, dtype or library without a price", count)
    for kind, op in OPS.items():
        for dtype, word in DTYPES.items():
            chosen = (ops == op) & (dtypes == word) & known
            if not chosen.any():
                continue
            predicted = np.zeros(measured.shape)
            for kernel, engine in LIBRARIES.items():
                predicted += _price(kind, engine, columns, chosen & (kernels == kernel), profile, dtype)
            yield Verdict(f"{op} {word}", predicted[chosen], measured[chosen])


def _recipes(kind: str) -> tuple[Recipe, ...]:
    engines = tuple(
        Recipe(kind, "bf16", engine, "allreduce", SIZES, {"variant": names}, latest_version=False,
               words=("backend_version",))
        for engine, names in VARIANTS.items() if kind == "all_reduce"
    )  # fmt: skip
    libraries = tuple(
        Recipe(kind, dtype, engine, "nccl", SIZES, {"op": OPS[kind], "dtype": word, "kernel": kernel},
               latest_version=False, words=() if engine in ONE_VERSION else ("backend_version",))
        for kernel, engine in LIBRARIES.items() for dtype, word in DTYPES.items()
    )  # fmt: skip
    return engines + libraries


COLLECTIVES = {
    kind: Family(
        operator=kind, recipes=_recipes(kind), problems=_problems, search=SEARCH, smoothness=0.1, worst_p90=np.inf,
    )
    for kind in OPS
}  # fmt: skip
"""Kind -> its family. All fits are kept: a number of ranks has some twenty rows, of which one may be far off."""

TABLES = {
    "allreduce": Table(("backend_version", "variant", "dtype"), (*SIZES, "latency_ms"), _all_reduces),
    "nccl": Table(("backend_version", "kernel", "op", "dtype"), (*SIZES, "latency_ms"), _library),
}
