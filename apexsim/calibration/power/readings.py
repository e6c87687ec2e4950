"""What the published meter shows beside the law, as a coarse grid over the sizes of a kernel; a file a device.

The readings of ``power_*.parquet`` are not the steady watts of a kernel: NVML averages over longer than some of the
loops lasted, so that equal work was read at 440 and at 690 W, and some weights were memory that nobody had written,
whose zeros take half the power. Which rows that met depends on sweep and shape. The law (``fit.py``) follows the upper
readings and is what serving uses; this grid takes readings as they are, so that a report can be held against the
tables. Serving never sees it.

``hardware_profiles/<device>/power_readings.json``; values of a grid are packed whole numbers of ``GRID_UNIT``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.grid import CorrectionGrid
from apexsim.cost.packing import pack, unpack
from apexsim.spec.files import read_json

Floats = NDArray[np.float64]

GRID_UNIT = 0.01
"""Of a value, a natural logarithm: far below what the meter repeats."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The meter's readings of one operator and dtype under one engine, against the law."""

    operator: str
    dtype: str
    engine: str
    engine_version: str
    rows: int
    held_out: dict[str, float]  # error of the readings on random rows: n, median, p90, worst, bias
    held_out_shapes: dict[str, float]  # and on whole matrices, models or head counts
    repeats: dict[str, float]  # how far apart the same kernel on equal work was read: n pairs, median, p90
    grid: CorrectionGrid

    def factor(self, sizes: dict[str, Floats]) -> Floats:
        """What to multiply the law's watts with."""
        return self.grid.factor([sizes[axis] for axis in self.grid.axes])


@dataclass(frozen=True)
class ReadingFile:
    """All readings of a device."""

    source: str
    fitted: str
    readings: tuple[Reading, ...]

    def find(self, operator: str, dtype: str, engine: str) -> Reading | None:
        wanted = (operator, dtype, engine)
        return next((each for each in self.readings if (each.operator, each.dtype, each.engine) == wanted), None)

    def to_json(self) -> str:
        lines = ",\n".join("  " + json.dumps(_dump(each), separators=(",", ":")) for each in self.readings)
        head = json.dumps({"source": self.source, "fitted": self.fitted}, indent=1)[:-2]
        return f'{head},\n "readings": [\n{lines}\n ]\n}}\n'


def _dump(reading: Reading) -> dict[str, Any]:
    data = {name: getattr(reading, name) for name in reading.__dataclass_fields__ if name != "grid"}
    for errors in ("held_out", "held_out_shapes", "repeats"):
        data[errors] = {name: _short(value) for name, value in data[errors].items()}
    grid = reading.grid
    data["knots"] = {axis: [_short(k) for k in knots] for axis, knots in zip(grid.axes, grid.knots, strict=True)}
    data["unit"] = GRID_UNIT
    data["grid"] = pack(np.rint(grid.values.ravel() / GRID_UNIT).astype(np.int64))
    return data


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


@lru_cache(maxsize=16)
def load_readings(path: Path) -> ReadingFile:
    """The readings at ``path``.

    Raises:
        InputError: missing, truncated or no such file.
    """
    return read_json(path, "power readings", lambda data: ReadingFile(
        data["source"], data["fitted"], tuple(_parse(each) for each in data["readings"])
    ))  # fmt: skip


def _parse(data: dict[str, Any]) -> Reading:
    known = {name: data[name] for name in Reading.__dataclass_fields__ if name != "grid"}
    knots = tuple(np.array(each, dtype=np.float64) for each in data["knots"].values())
    values = unpack(data["grid"]).astype(np.float64) * data["unit"]
    shape = tuple(len(axis) for axis in knots)
    return Reading(**known, grid=CorrectionGrid(tuple(data["knots"]), knots, values.reshape(shape)))
