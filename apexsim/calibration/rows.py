"""Measured kernels as columns: which rows of which table speak for which operator, dtype and engine.

Tables are Parquet files in the format of the published kernel database (columns ``system``, ``backend``,
``backend_version``, ``latency_ms`` and the sizes). What is left out, and why, stands at each recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from apexsim.errors import InputError

Floats = NDArray[np.float64]

SYSTEMS = {
    "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "a100-sxm-80gb": "a100_sxm", "l40s": "l40s",
    "b200-sxm": "b200_sxm", "b300-sxm": "b300_sxm", "gb200": "gb200", "gb300": "gb300",
    "rtx-pro-6000": "rtx_pro_6000_server",
}  # fmt: skip
"""Device profile -> ``system`` of the tables."""


@dataclass(frozen=True)
class Recipe:
    """Rows that one kernel file is fitted on."""

    operator: str
    dtype: str
    engine: str
    table: str
    where: dict[str, Any] = field(default_factory=dict)
    latest_version: bool = True  # a table with several versions gives its newest

    @property
    def name(self) -> str:
        return f"{self.operator}-{self.dtype}-{self.engine}"


def _attention(operator: str, table: str) -> Iterator[Recipe]:
    for engine, suffix in (("vllm", ""), ("tensorrt-llm", "_trtllm")):
        for dtype, word in (("bf16", "bfloat16"), ("fp8", "fp8")):
            # With attn_dtype fp8 TensorRT-LLM multiplies in fp8 too; the law's peak is that of 16 bits.
            where = {"kv_dtype": word, "attn_dtype": "bfloat16"}
            yield Recipe(operator, dtype, engine, f"{table}{suffix}", where)


RECIPES: tuple[Recipe, ...] = (
    Recipe("gemm", "bf16", "vllm", "gemm", {"dtype": "bfloat16"}),
    Recipe("gemm", "bf16", "tensorrt-llm", "gemm_trtllm", {"dtype": "bfloat16"}),
    Recipe("gemm", "fp8", "vllm", "gemm", {"dtype": "fp8"}),
    Recipe("gemm", "fp8", "tensorrt-llm", "gemm_trtllm", {"dtype": "fp8"}),
    # vLLM's own fp8-block rows were timed without CUDA graphs (55 us floor on H100) and with one warm weight matrix.
    Recipe("gemm", "fp8-block", "tensorrt-llm", "gemm_trtllm", {"dtype": "fp8_block"}),
    *_attention("prefill_attention", "context_attention"),
    *_attention("decode_attention", "generation_attention"),
    *(
        # vLLM's per-tensor fp8 rows (FlashInfer CUTLASS for ModelOpt checkpoints) take 3 to 6 x the time to read the
        # weights, slower than bf16; Llama-4-Scout-FP8 under vLLM 0.15.1 runs like the fp8-block rows.
        Recipe("grouped_gemm", dtype, "vllm", "moe", {"dtype": word, "routing": "balanced"})
        for dtype, word in (
            ("bf16", "bfloat16"), ("fp8", "fp8_block"), ("fp8-block", "fp8_block"), ("w4a16", "int4_wo"),
            ("mxfp4", "w4a16_mxfp4"),
        )
    ),
    # Eager variants hold 20 to 44 us of launches, which a running engine hides or replays in a graph.
    Recipe("all_reduce", "bf16", "vllm", "allreduce", {"variant": "vllm_graph"}),
    Recipe("all_reduce", "bf16", "tensorrt-llm", "allreduce", {"variant": "trtllm"}),
    Recipe("all_gather", "bf16", "nccl", "nccl", {"op": "all_gather", "dtype": "half"}),
)


@dataclass(frozen=True)
class Rows:
    """Columns of the rows of a recipe: sizes as floats, ``seconds``, and the engine's version."""

    sizes: dict[str, Floats]
    seconds: Floats
    version: str

    def take(self, mask: NDArray[np.bool_]) -> Rows:
        return Rows({name: size[mask] for name, size in self.sizes.items()}, self.seconds[mask], self.version)


_SIZES = (
    "m", "n", "k", "batch", "prompt_tokens", "kv_tokens", "q_heads", "kv_heads", "head_dim", "window_tokens",
    "gpus", "bytes", "tokens", "hidden_size", "moe_intermediate_size", "experts", "experts_per_token", "moe_tp",
    "moe_ep",
)  # fmt: skip


def read_rows(folder: Path, recipe: Recipe, system: str) -> Rows | None:
    """The rows of ``recipe`` on ``system``; None where the folder lacks the table or the table has none.

    Equal shapes (repeated sweeps) are merged into their median.

    Raises:
        InputError: the table cannot be read.
    """
    path = folder / f"{recipe.table}.parquet"
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, filters=[("system", "=", system), *((k, "=", v) for k, v in recipe.where.items())])
    except (OSError, ValueError, KeyError) as problem:
        raise InputError(f"{path}: not a kernel table: {' '.join(str(problem).split())[:120]}") from None
    if recipe.latest_version and table.num_rows:
        versions = sorted(set(table["backend_version"].to_pylist()), key=_version_key)
        table = table.filter(pc.equal(table["backend_version"], versions[-1]))
    if table.num_rows == 0:
        return None
    names = [name for name in _SIZES if name in table.column_names]
    sizes = np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
    shapes, seconds = _medians(sizes, table["latency_ms"].to_numpy() * 1e-3)
    columns = {name: shapes[:, i].copy() for i, name in enumerate(names)}
    return Rows(columns, seconds, table["backend_version"][0].as_py())


def held_out(count: int, seed: int = 0, share: float = 0.2) -> NDArray[np.bool_]:
    """A random share of ``count`` shapes, drawn with ``seed``; rows are sorted by shape, so it is always the same."""
    return np.random.default_rng(seed).random(count) < share


def _medians(sizes: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    shapes, where = np.unique(sizes, axis=0, return_inverse=True)
    where = where.ravel()
    order = np.lexsort((seconds, where))
    counts = np.bincount(where)
    first = np.cumsum(counts) - counts
    low, high = order[first + (counts - 1) // 2], order[first + counts // 2]
    return shapes, (seconds[low] + seconds[high]) / 2


def _version_key(version: str) -> tuple[int, ...]:
    """1.3.0rc10 after 1.3.0rc9; a release candidate before its release does not occur in the tables."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.replace("rc", ".").split("."))
