"""Rows of a metered table as groups of one engine and one set of words, with what makes a row unfit left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families.family import Columns
from apexsim.calibration.power.tables import METERED, Ideal, Metered
from apexsim.calibration.rows import read_table
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

SHORTEST_S = 5e-5
"""NVML averages over longer than short kernels take, so their readings are too low."""

LAUNCH_FLOOR_S = {"h200-sxm": 55e-6, "b200-sxm": 151e-6, "gb200": 240e-6}
"""vLLM's fp8_block GEMMs were timed without CUDA graphs: below this the host's launches are what was timed."""

CLEAR_OF_LAUNCHES = 2.0
"""Times the launch floor from which on such a kernel keeps the device busy by itself."""

TOO_SHORT = "shorter than 0.05 ms: the meter averages over longer"
LAUNCHES = "within twice the launch time of a kernel that was timed without a CUDA graph"
UNKNOWN_DTYPE = "a dtype without a model"

ENGINES = {"vllm": "vllm", "trtllm": "tensorrt-llm"}
"""``backend`` of the tables -> engine."""


@dataclass(frozen=True)
class Group:
    """Rows of one engine and one set of words, on one device."""

    table: str
    words: tuple[str, ...]
    engine: str
    version: str
    dtype: str  # of the law
    columns: Columns
    ideal: Ideal
    seconds: Floats
    watts: Floats
    skipped: dict[str, int]

    @property
    def metered(self) -> Metered:
        return METERED[self.table]

    @property
    def title(self) -> str:
        """What a report calls the rows."""
        return "/".join(self.words[: self.metered.title])

    @property
    def uses(self) -> tuple[Floats, Floats]:
        """Shares of peak FLOP/s and of memory bandwidth in use."""
        return self.ideal.compute_s / self.seconds, self.ideal.memory_s / self.seconds

    @property
    def sizes(self) -> dict[str, Floats]:
        return self.metered.sizes(self.columns)


def words_of(metered: Metered) -> tuple[str, ...]:
    """Columns of words that a table must have."""
    return ("backend", "backend_version", *metered.words)


def numbers_of(metered: Metered) -> tuple[str, ...]:
    """Columns of numbers that a table must have."""
    return ("latency_ms", "power_w", *metered.numbers)


def groups(table: str, columns: Columns, profile: HardwareProfile) -> Iterator[Group]:
    """The groups that the rows of one device make; rows that say nothing of power are counted in ``skipped``."""
    metered = METERED[table]
    keys = list(zip(*(columns[name].tolist() for name in ("backend", *metered.words)), strict=True))
    seconds = np.asarray(columns["latency_ms"], dtype=np.float64) * 1e-3
    for key in sorted(set(keys)):
        mine = np.array([each == key for each in keys])
        dtype = metered.dtype(key[1:])
        supported = dtype is not None and _runs(metered, key[1:], profile)
        short = mine & (seconds < SHORTEST_S)
        launches = mine & ~short & _launch_bound(table, key, seconds, profile)
        keep = mine & ~short & ~launches if supported else np.zeros_like(mine)
        skipped = {TOO_SHORT: int(short.sum()), LAUNCHES: int(launches.sum())}
        if not supported:
            skipped = {UNKNOWN_DTYPE: int(mine.sum())}
        kept = {name: column[keep] for name, column in columns.items()}
        yield Group(
            table, key[1:], ENGINES.get(key[0], key[0]), str(columns["backend_version"][mine][0]), dtype or "", kept,
            metered.ideal(kept, key[1:], profile) if keep.any() else Ideal(np.zeros(0), np.zeros(0)), seconds[keep],
            np.asarray(kept["power_w"], dtype=np.float64), {why: rows for why, rows in skipped.items() if rows},
        )


def _runs(metered: Metered, words: tuple[str, ...], profile: HardwareProfile) -> bool:
    """Whether the device has the units that the rows' arithmetic needs."""
    try:
        metered.ideal(_one_row(metered), words, profile)
    except (KeyError, ValueError):
        return False
    return True


def _one_row(metered: Metered) -> Columns:
    return {name: np.ones(1) for name in metered.numbers}


def _launch_bound(
    table: str, key: tuple[str, ...], seconds: Floats, profile: HardwareProfile
) -> NDArray[np.bool_]:
    if table != "power_gemm" or key != ("vllm", "fp8_block"):
        return np.zeros(seconds.shape, dtype=np.bool_)
    return np.asarray(seconds < CLEAR_OF_LAUNCHES * LAUNCH_FLOOR_S.get(profile.name, 0.0))


def read_groups(folder: Path, table: str, system: str, profile: HardwareProfile) -> list[Group]:
    """All groups of a table for one device; none where the folder lacks the table or the table the device.

    Raises:
        InputError: the table cannot be read.
    """
    path = folder / f"{table}.parquet"
    if not path.exists():
        return []
    metered = METERED[table]
    read = read_table(path, (*words_of(metered), *numbers_of(metered)), {"system": system})
    columns: dict[str, NDArray[np.generic]] = {
        name: np.array(read[name].to_pylist(), dtype=str) for name in words_of(metered)
    }
    columns |= {name: read[name].to_numpy().astype(np.float64) for name in numbers_of(metered)}
    return list(groups(table, columns, profile)) if read.num_rows else []
