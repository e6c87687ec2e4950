"""Measured kernels as columns: which rows of which table speak for which operator, dtype and engine.

Tables are Parquet files in the format of the published kernel database: columns ``system``, ``backend_version``, a
time (``latency_ms``) and the sizes. What is left out of them, and why, stands at the recipes of each family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from apexsim.errors import InputError

Floats = NDArray[np.float64]

SYSTEMS = {
    "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "a100-sxm-80gb": "a100_sxm", "l40s": "l40s",
    "b200-sxm": "b200_sxm", "b300-sxm": "b300_sxm", "gb200": "gb200", "gb300": "gb300",
    "rtx-pro-6000": "rtx_pro_6000_server", "b60": "b60",
}  # fmt: skip
"""Device profile -> ``system`` of the tables."""

DATABASE = "NVIDIA AIConfigurator performance database (aiconfigurator-core 0.12.0, Apache-2.0)"

UNITS = {"_ms": 1e-3, "_us": 1e-6}
"""End of a column's name -> seconds."""


@dataclass(frozen=True)
class Recipe:
    """Rows that one kernel file is fitted on."""

    operator: str
    dtype: str
    engine: str
    table: str
    sizes: tuple[str, ...]  # numeric columns that tell the shapes of the table apart
    where: dict[str, Any] = field(default_factory=dict)  # column -> the word that it must hold, or a tuple of words
    words: tuple[str, ...] = ()  # columns of words that tell the shapes apart
    time: str = "latency_ms"
    latest_version: bool = True  # a table with several versions gives its newest
    only_for: tuple[str, ...] = ()  # device profiles; all if empty
    not_for: tuple[str, ...] = ()
    database: str = DATABASE

    @property
    def name(self) -> str:
        """The name of its kernel file."""
        return f"{self.operator}.{self.dtype}.{self.engine}"

    def speaks_of(self, device: str) -> bool:
        """Whether its rows are fitted for a device profile of that name."""
        return device not in self.not_for and (not self.only_for or device in self.only_for)

    @property
    def source(self) -> str:
        """Provenance of its kernel file."""
        return f"{self.database}, {self.table}.parquet"


@dataclass(frozen=True)
class Rows:
    """Columns of the rows of a recipe: sizes as floats, ``seconds``, the engine's newest version, and words."""

    sizes: dict[str, Floats]
    seconds: Floats
    version: str
    words: dict[str, NDArray[np.str_]] = field(default_factory=dict)

    def take(self, mask: NDArray[np.bool_]) -> Rows:
        sizes = {name: size[mask] for name, size in self.sizes.items()}
        words = {name: word[mask] for name, word in self.words.items()}
        return Rows(sizes, self.seconds[mask], self.version, words)


def read_rows(folder: Path, recipe: Recipe, system: str) -> Rows | None:
    """The rows of ``recipe`` on ``system``; None where the folder lacks the table or the table has none.

    Equal shapes (repeated sweeps) are merged into their median.

    Raises:
        InputError: the table cannot be read.
    """
    path = folder / f"{recipe.table}.parquet"
    if not path.exists():
        return None
    where = {"system": system, **recipe.where}
    table = read_table(path, ("backend_version", recipe.time, *recipe.sizes, *recipe.words), where)
    if table.num_rows == 0:
        return None
    newest = max(set(table["backend_version"].to_pylist()), key=version_key)
    if recipe.latest_version:
        table = table.filter(pc.equal(table["backend_version"], newest))
    words = {name: np.unique(np.array(table[name].to_pylist()), return_inverse=True) for name in recipe.words}
    sizes = np.column_stack(
        [codes for _, codes in words.values()] + [table[name].to_numpy().astype(np.float64) for name in recipe.sizes]
    )
    shapes, seconds = _medians(sizes, table[recipe.time].to_numpy() * UNITS[recipe.time[-3:]])
    columns = dict(zip((*words, *recipe.sizes), shapes.T.copy(), strict=True))
    named = {name: known[columns.pop(name).astype(np.int64)] for name, (known, _) in words.items()}
    return Rows(columns, seconds, newest, named)


def read_table(path: Path, columns: Sequence[str], where: dict[str, Any]) -> pa.Table:
    """``columns`` of the rows whose other columns are as in ``where``.

    Raises:
        InputError: no Parquet file, or one without such a column.
    """
    try:
        known = pq.read_schema(path).names
        missing = [name for name in (*where, *columns) if name not in known]
        if missing:
            raise InputError(f"{path}: lacks the column {missing[0]!r} (has: {', '.join(known)})")
        filters = [(name, "in" if isinstance(value, tuple) else "=", value) for name, value in where.items()]
        return pq.read_table(path, columns=list(dict.fromkeys(columns)), filters=filters or None)
    except (OSError, ValueError, KeyError, pa.ArrowException) as problem:
        raise InputError(f"{path}: not a kernel table: {' '.join(str(problem).split())[:120]}") from None


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


def version_key(version: str) -> tuple[int, ...]:
    """Orders versions: 1.3.0rc10 after 1.3.0rc9. A release beside its own candidates does not occur in the tables."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.replace("rc", ".").split("."))
