"""The columns of ``runs.csv``: the format of a measured serving run, and what each cell may hold.

One row is one run. An empty cell is "not known" or "not measured", a column that is not there is an empty one, and a
column that is not listed here is kept as text and has no meaning to the product.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from apexsim.workload.limits import LEAST_RATE, MOST_RATE, MOST_TOKENS
from apexsim.workload.synthetic import LEAST_CV, MOST_CV

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Kind:
    """What a cell may hold: ``read`` turns its text into a value, or raises ValueError."""

    allowed: str
    read: Callable[[str], Value]
    words: tuple[str, ...] = ()  # all of them, where only a few are allowed


def _text(cell: str) -> str:
    return cell


def _number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    def read(cell: str) -> float:
        value = float(cell)
        if not (math.isfinite(value) and (value > least if above else value >= least) and value <= most):
            raise ValueError(cell)
        return value

    return read


def count(most: int) -> Kind:
    """A whole number of at least 1."""

    def read(cell: str) -> int:
        value = float(cell)  # 2048.0 is what a table program makes of 2048
        if not (value.is_integer() and 1 <= value <= most):
            raise ValueError(cell)
        return int(value)

    limit = "1 or more" if most == MOST_TOKENS else f"1 to {most:,}"
    return Kind(f"a whole number, {limit}", read)


def _flag(cell: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[cell.lower()]


def _variation(cell: str) -> float:
    value = float(cell)
    if not (value == 0 or LEAST_CV <= value <= MOST_CV):
        raise ValueError(cell)
    return value


def choice(*words: str) -> Kind:
    """One of a few words, upper and lower case alike."""

    def read(cell: str) -> str:
        if cell.lower() not in words:
            raise ValueError(cell)
        return cell.lower()

    return Kind(", ".join(words), read, words)


TEXT = Kind("text", _text)
COUNT = count(MOST_TOKENS)
FEW = count(100_000)
"""Of devices or sequences: tables have a row for each."""
POSITIVE_RATE = Kind(f"a number from {LEAST_RATE:g} to {MOST_RATE:g}", _number(LEAST_RATE, MOST_RATE))
VARIATION = Kind(f"0, or a number from {LEAST_CV:g} to {MOST_CV:g}", _variation)
POSITIVE = Kind("a number above 0", _number(0.0, above=True))
SHARE = Kind("a number above 0, at most 1", _number(0.0, 1.0, above=True))
PART = Kind("a number from 0 to 1", _number(0.0, 1.0))
FLAG = Kind("true or false", _flag)
DTYPE = choice(
    "bf16", "fp16", "fp8", "fp8-block", "int8", "int4", "w8a16", "w4a16", "w4a8", "nvfp4", "mxfp4", "auto"
)  # fmt: skip

POOL_COLUMNS = ("workers", "batch", "tp", "pp", "dp", "ep", "moe_tp")
"""Of each pool of a disaggregated run."""

LOADS = ("trace", "rate", "concurrency", "offline", "static")

COLUMNS: dict[str, Kind] = {
    "run": TEXT, "source": TEXT, "notes": TEXT, "model": TEXT, "device": TEXT, "devices": FEW,
    "tp": FEW, "pp": FEW, "dp": FEW, "ep": FEW, "moe_tp": FEW,
    "weights": DTYPE, "activations": DTYPE, "kv_cache": DTYPE,
    "engine": choice("vllm", "sglang", "tensorrt-llm", "transformers"), "engine_version": TEXT,
    "max_num_batched_tokens": count(10_000_000), "max_num_seqs": FEW,
    "gpu_memory_utilization": SHARE, "max_model_len": COUNT,
    "chunked_prefill": FLAG, "prefix_caching": FLAG, "cuda_graphs": FLAG, "async_scheduling": FLAG,
    "kv_capacity_tokens": COUNT,
    "load": choice(*LOADS), "trace": TEXT, "rate_rps": POSITIVE_RATE, "burstiness_cv": VARIATION,
    "concurrency": COUNT, "batch_size": COUNT, "requests": COUNT,
    "input_tokens": POSITIVE, "output_tokens": POSITIVE, "fixed_lengths": FLAG,
    "lengths": TEXT, "output_histogram": TEXT, "prompt_repeats": COUNT, "prefix_hit_share": PART,
    "length_range_ratio": SHARE,
    "ttft_anchor": choice("arrival", "engine"), "measured_at": choice("client", "server", "engine"),
    "window": choice("all", "steady"), "scheduler": TEXT, "modality": choice("text", "multimodal"),
    "speculative": choice("none", "mtp", "mtp-or-none"), "num_speculative_tokens": FEW, "draft_acceptance": PART,
    "attention_dp_timeout_iters": FEW,
    **{f"{role}_{name}": FEW for role in ("prefill", "decode") for name in POOL_COLUMNS},
    "workload": TEXT, "plan": TEXT, "mode": choice("agg", "disagg"), "regime": choice("light", "moderate", "overload"),
}  # fmt: skip
"""Every column that means something, but for the metrics. ``modality``, ``measured_at``, ``scheduler``,
``length_range_ratio``, ``prompt_repeats``, ``prefix_hit_share``, ``speculative``, ``num_speculative_tokens``,
``draft_acceptance``, ``attention_dp_timeout_iters``, ``workload`` and ``plan`` are additions of this product to the
published format."""

LATENCY = re.compile(r"(ttft|tpot|itl|e2e|queue)_(mean|p\d{1,2}(?:\.\d+)?|max)_s")
"""``ttft_mean_s``, ``itl_p99_s``, … : any percentile."""

FIGURES = (
    "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "makespan_s", "mean_running_requests",
    "power_w_per_device", "energy_j_per_output_token", "step_tokens_mean",
)  # fmt: skip
"""Metrics that are one number of a whole run. ``step_tokens_mean``: prompt and output tokens over engine steps."""

CAPACITY = "kv_capacity_tokens"
"""Reported by the engine: compared with the simulated capacity, never used as an input."""


def is_metric(column: str) -> bool:
    """Whether a column holds something measured that a simulation can be held against."""
    return column in FIGURES or column == CAPACITY or LATENCY.fullmatch(column) is not None


def kind_of(column: str) -> Kind | None:
    """What the cells of a column may hold; None for a column without a meaning here."""
    if column in COLUMNS:
        return COLUMNS[column]
    return POSITIVE if is_metric(column) else None


def read_cell(column: str, cell: str) -> Value:
    """The value of a cell that is not empty.

    Raises:
        ValueError: no such value is allowed; the message says what is.
    """
    kind = kind_of(column) or TEXT
    try:
        return kind.read(cell)
    except (ValueError, KeyError, OverflowError):
        close = difflib.get_close_matches(cell.lower(), kind.words, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{cell!r}{hint} (allowed: {kind.allowed})") from None


@dataclass(frozen=True)
class Row:
    """One run as its table says it.

    Attributes:
        file: the table, as messages call it.
        number: counts from 1, the header not counted.
        values: column -> value, of the cells that are not empty.
    """

    file: str
    number: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.values["run"])

    def get(self, column: str) -> Any:
        """The value, or None where it is not known."""
        return self.values.get(column)

    def where(self, column: str) -> str:
        """The cell, for a message: file, row and column."""
        return f"{self.file}: row {self.number} ({self.name}): column {column!r}"

    def measured(self) -> dict[str, float]:
        """Every metric that the row has, in the order of its columns."""
        return {column: float(value) for column, value in self.values.items() if is_metric(column)}
