"""Dispatch and combine: tokens on their way to the ranks of their experts, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns, Family, Table, Verdict
from apexsim.calibration.problem import Problem, even_knots, measured_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.experts import exchange_links, exchange_work
from apexsim.cost.floor import FLOOR
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import ExpertExchange, Phase
from apexsim.cost.shapes import Work
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]

MODEL = ("hidden_size", "experts", "experts_per_token")

MIN_ROWS = 20
"""A transport with fewer rows is not fitted."""

NODE = {"gb200": 4, "gb300": 4}
"""Ranks of a node in the tables of DeepEP, which tell nodes only; 8 on other devices."""

WIRE = {"default": "bf16", "bfloat16": "bf16"}
"""Words of the tables -> dtype on the wire; "default" is the source's word for what vLLM sends."""

DEEPEP_WIRE: dict[Phase, str] = {"dispatch": "fp8", "combine": "bf16"}
"""What DeepEP's tables, which do not say it, sent: their GB/s and microseconds tell."""

AXES = {"item": 5, "units": 6, "ranks": 6, "copies": 3}
"""Most knots of the grid along sizes other than the tokens; an axis of one size is left out."""

TOKENS = 12
"""Knots along the tokens of a rank."""

RACK: dict[str, tuple[Phase, str]] = {
    "alltoall_dispatch": ("dispatch", ""), "alltoall_combine": ("combine", ""),
    "alltoall_combine_low_precision": ("combine", "fp4"), "alltoall_prepare": ("prepare", ""),
}  # fmt: skip
"""``op_name`` over the NVLinks of a rack -> phase, and the dtype on the wire where it is not the row's."""


def _operators(
    numbers: Mapping[str, Floats], transport: str, dtype: str, profile: HardwareProfile
) -> Iterator[tuple[ExpertExchange, NDArray[np.int64]]]:
    """Each operator of some rows of any of the tables, with the rows that ran it."""
    count = len(numbers["tokens"])
    nodes = numbers.get("nodes", np.ones(count))
    ranks = numbers.get("ep_size", numbers.get("moe_ep", nodes * NODE.get(profile.name, 8)))
    units = next((column for name, column in numbers.items() if name.endswith("sms")), np.zeros(count))
    columns = np.column_stack([*(numbers[name] for name in MODEL), ranks, nodes, units])
    shapes, of_row = np.unique(columns, axis=0, return_inverse=True)
    for index, shape in enumerate(shapes.astype(np.int64).tolist()):
        hidden, experts, per_token, devices, boxes, multiprocessors = shape
        balanced = transport.startswith("NVLink")
        yield ExpertExchange(
            "exchange", hidden, experts, per_token, devices, boxes, transport, dtype, multiprocessors, balanced,
        ), np.flatnonzero(of_row.ravel() == index)  # fmt: skip


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """One a transport and a number of nodes."""
    own = recipe.table.removeprefix("moe_alltoall_")
    transports = rows.words[recipe.words[0]] if recipe.words else np.full(rows.seconds.size, own)
    nodes = rows.sizes.get("nodes", np.ones(rows.seconds.size))
    for transport in np.unique(transports):
        for count in np.unique(nodes):
            mine = rows.take((transports == transport) & (nodes == count))
            if mine.seconds.size >= MIN_ROWS:
                yield _problem(recipe, str(transport), int(count), mine, profile)


def _problem(recipe: Recipe, transport: str, nodes: int, rows: Rows, profile: HardwareProfile) -> Problem:
    phase: Phase = recipe.operator  # type: ignore[assignment]  # recipes of these families hold words of Phase
    tokens, (near, far) = rows.sizes["tokens"], exchange_links(profile)
    sizes: dict[str, Floats] = {}
    moved = np.zeros_like(tokens)
    for op, where in _operators(rows.sizes, transport, recipe.dtype, profile):
        work, part = exchange_work(phase, tokens[where], op)
        moved[where] = work.moved
        for name, size in part.items():
            sizes.setdefault(name, np.zeros_like(tokens))[where] = size
    knots = {"tokens": even_knots(tokens, TOKENS)}
    for axis, most in AXES.items():
        if (count := np.unique(sizes[axis]).size) > 1:
            knots[axis] = measured_knots(sizes[axis]) if count <= most else even_knots(sizes[axis], most)
    none = np.zeros_like(moved)
    floor = FLOOR * np.maximum(sizes["least_near"] / near, sizes["least_far"] / far)
    return Problem(
        Work(none, moved, none, none, none), sizes, rows.seconds, floor, far, near, knots, nodes, label=transport,
    )  # fmt: skip


def _price(
    phase: Phase, columns: Columns, transports: Strings, dtypes: Strings, rows: NDArray[np.bool_],
    profile: HardwareProfile,
) -> Floats:
    """[all rows] seconds of those that are asked for, 0 elsewhere."""
    predicted = np.zeros(rows.shape)
    kernels = CalibratedKernels(profile)
    numbers = {name: column.astype(np.float64) for name, column in columns.items() if column.dtype.kind in "fiu"}
    for transport, dtype in {(t, d) for t, d in zip(transports[rows], dtypes[rows], strict=True)}:
        mine = np.flatnonzero(rows & (transports == transport) & (dtypes == dtype))
        part = {name: column[mine] for name, column in numbers.items()}
        for op, where in _operators(part, str(transport), str(dtype), profile):
            predicted[mine[where]] = kernels.exchange(phase, part["tokens"][where], op).seconds
    return predicted


def _wires(words: Strings) -> Strings:
    return np.array([WIRE.get(str(word), str(word)) for word in words], dtype=np.str_)


def _one_node(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """vLLM's and TensorRT-LLM's transports within a node: a verdict for each dtype on the wire."""
    transports, words, phases = (columns[name].astype(str) for name in ("comm_backend", "comm_dtype", "phase"))
    measured = columns["latency_us"].astype(np.float64) * 1e-6
    predicted = np.zeros(measured.shape)
    for phase in DEEPEP_WIRE:
        predicted += _price(phase, columns, transports, _wires(words), phases == phase, profile)
    for word in np.unique(words):
        yield Verdict(str(word), predicted[words == word], measured[words == word])


def _deepep(transport: str, time: str, columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """DeepEP as SGLang runs it, fp8 on the way out and bf16 on the way back: a verdict for each."""
    count = len(columns["tokens"])
    for phase, dtype in DEEPEP_WIRE.items():
        own = {name: column for name, column in columns.items() if not name.endswith("_sms") or name.startswith(phase)}
        words = np.full(count, transport), np.full(count, dtype)
        predicted = _price(phase, own, *words, np.ones(count, dtype=np.bool_), profile)
        yield Verdict(f"{phase} {dtype}", predicted, columns[f"{phase}{time}"].astype(np.float64) * 1e-6)


def _rack(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
    """TensorRT-LLM over the NVLinks of a rack: a verdict for each dtype."""
    ops, words, transports = (columns[name].astype(str) for name in ("op_name", "dtype", "kernel"))
    measured = columns["latency_ms"].astype(np.float64) * 1e-3
    predicted = np.zeros(measured.shape)
    for op in np.unique(ops):
        phase, wire = RACK[str(op)]
        dtypes = np.full(ops.shape, wire) if wire else _wires(words)
        predicted += _price(phase, columns, transports, dtypes, ops == op, profile)
    for word in np.unique(words):
        yield Verdict(str(word), predicted[words == word], measured[words == word])


def _recipes(phase: Phase) -> Iterator[Recipe]:
    if phase != "prepare":
        yield from _one_node_recipes(phase)
        wire, sizes, table = DEEPEP_WIRE[phase], ("tokens", "nodes", *MODEL), "moe_alltoall_deepep"
        yield Recipe(phase, wire, "deepep-low-latency", f"{table}_low_latency", sizes, time=f"{phase}_us",
                     latest_version=False)  # fmt: skip
        yield Recipe(phase, wire, "deepep-normal", f"{table}_normal", (*sizes, f"{phase}_sms"),
                     time=f"{phase}_transmit_us", latest_version=False)  # fmt: skip
    for op, (found, wire) in RACK.items():
        for word in ("nvfp4",) if wire else ("bfloat16", "fp8", "nvfp4"):
            if found == phase:
                yield Recipe(
                    phase, wire or WIRE.get(word, word), "tensorrt-llm-mnnvl", "moe_alltoall_trtllm_mnnvl",
                    ("tokens", "moe_ep", *MODEL), {"op_name": op, "dtype": word}, words=("kernel",),
                )  # fmt: skip


def _one_node_recipes(phase: Phase) -> Iterator[Recipe]:
    for engine, backend, words in (("vllm", "vllm", ("default",)),
                                   ("tensorrt-llm", "trtllm", ("bfloat16", "fp8", "fp4", "nvfp4"))):  # fmt: skip
        for word in words:
            yield Recipe(
                phase, WIRE.get(word, word), engine, "moe_alltoall", ("tokens", "ep_size", "sms", *MODEL),
                {"phase": phase, "comm_dtype": word, "backend": backend}, words=("comm_backend",), time="latency_us",
            )  # fmt: skip


PHASES: tuple[Phase, ...] = ("dispatch", "combine", "prepare")

EXCHANGES = tuple(
    Family(
        operator=phase,
        recipes=tuple(_recipes(phase)),
        problems=_problems,
        search={
            "latency_s": (3e-5, 1e-6, 1e-3), "link": (0.6, 1e-3, 1.5), "network": (0.8, 1e-2, 1.5),
            "unit_rate": (2e10, 1e8, 1e14), "token_s": (1e-9, 1e-13, 1e-6), "expert_s": (1e-9, 1e-12, 1e-6),
            "sharpness": (2, 0.7, 20),
        },
        smoothness=0.3,  # some were timed once, and scatter by a third
        worst_p90=np.inf,
    )
    for phase in PHASES
)  # fmt: skip
"""One family a phase."""

TABLES = {
    "moe_alltoall": Table(
        ("comm_backend", "comm_dtype", "phase"), ("tokens", "ep_size", "sms", *MODEL, "latency_us"), _one_node,
        may_be_zero=("sms",),
    ),
    "moe_alltoall_deepep_low_latency": Table(
        (), ("tokens", "nodes", *MODEL, "dispatch_us", "combine_us"), partial(_deepep, "deepep_low_latency", "_us"),
    ),
    "moe_alltoall_deepep_normal": Table(
        (), ("tokens", "nodes", *MODEL, "dispatch_sms", "combine_sms", "dispatch_transmit_us", "combine_transmit_us"),
        partial(_deepep, "deepep_normal", "_transmit_us"),
    ),
    "moe_alltoall_trtllm_mnnvl": Table(
        ("op_name", "dtype", "kernel"), ("tokens", "moe_ep", *MODEL, "latency_ms"), _rack,
    ),
}  # fmt: skip
