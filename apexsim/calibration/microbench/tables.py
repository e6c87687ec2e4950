"""The journal as tables of measured kernels, in the format that ``apexsim calibrate fit`` reads.

``tables/<name>.parquet`` has the columns ``system, backend, backend_version, kernel``, the sizes, ``latency_ms``, and
how the time is known: ``spread``, ``samples``, ``disturbed``, ``noisy``. One row a case and pass.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from apexsim.spec.files import write_atomically

BACKEND = "torch"
"""Word of the column ``backend``, and the engine of the kernel files that are fitted on such rows."""

KERNELS = {
    "gemm": "linear", "context_attention": "sdpa", "generation_attention": "sdpa", "memory": "copy_or_sum",
    "elementwise": "eager", "nccl": "torch_distributed",
}  # fmt: skip
"""Table -> word of its column ``kernel``."""

TABLES = "tables"
"""Folder beside the journal."""


def tables_of(entries: Iterable[Mapping[str, Any]], system: str, version: str) -> dict[str, pa.Table]:
    """Name -> table, rows sorted by their sizes, of the entries that have a time.

    Args:
        version: of the library that ran the kernels.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if "skipped" in entry:
            continue
        name = entry["table"]
        row = {"system": system, "backend": BACKEND, "backend_version": version, "kernel": KERNELS.get(name, BACKEND)}
        row |= entry["columns"] | {"latency_ms": entry["seconds"] * 1e3}
        row |= {key: entry[key] for key in ("spread", "samples", "disturbed", "noisy")}
        rows.setdefault(name, []).append(row)
    return {name: pa.Table.from_pylist(sorted(found, key=_sizes)) for name, found in sorted(rows.items())}


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> list[Path]:
    """Write each as ``folder/<name>.parquet`` and return the paths. Raises UsageError where it cannot be written."""
    paths = []
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        paths.append(folder / f"{name}.parquet")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def _sizes(row: Mapping[str, Any]) -> list[tuple[bool, Any]]:
    """By columns in their order; words before numbers, which never share a column anyway."""
    return [(not isinstance(value, str), value) for value in row.values()]
