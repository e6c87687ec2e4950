"""Fitted coefficients as files: one JSON for each (operator, dtype, engine), with provenance and held-out errors.

``hardware_profiles/<device>/kernels/<operator>.<dtype>.<engine>.json`` holds one or more fits; attention has one a
head dimension, a collective one a number of ranks. Values of a grid are whole numbers of ``GRID_UNIT``, natural
logarithms, its knots of ``KNOT_UNIT``, logarithms to base 2; both are packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.grid import CorrectionGrid
from apexsim.cost.laws import LAWS, Law, Sizes
from apexsim.cost.packing import pack, unpack
from apexsim.cost.shapes import Work
from apexsim.spec.files import read_json

Floats = NDArray[np.float64]
GRID_UNIT = 4e-3
"""Grid values are rounded to 0.4 %: a tenth of the errors that are left."""

KNOT_UNIT = 1e-3
"""Knots are rounded to 0.07 % of a size, before anything is fitted on them."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A law, its correction, and the sizes it was measured at."""

    variant: int  # head dimension of attention, ranks of a collective, 0 otherwise
    windowed: bool  # attention with a sliding window
    law: Law
    grid: CorrectionGrid
    measured: dict[str, tuple[float, float]]  # smallest and largest size of each axis of the grid
    rows: int
    beyond_roofline: int  # rows that beat 0.95 × roofline and were left out
    held_out: dict[str, float]  # n, median, p90, worst absolute relative error
    finer: tuple[CorrectionGrid, ...] = ()  # grids of fewer axes and more knots, which multiply with the first
    label: str = ""  # engine version of a collective, kernel of a grouped GEMM: what else tells fits apart
    runs: tuple[tuple[int, ...], ...] = ()  # models that this kernel ran, where an operator has several

    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """Law times grids; no floor."""
        seconds = self.law.seconds(work, sizes, peak, bandwidth)
        for grid in (self.grid, *self.finer):
            seconds = seconds * grid.factor([sizes[axis] for axis in grid.axes])
        return seconds

    def extrapolated(self, sizes: Sizes) -> NDArray[np.bool_]:
        """True where a size lies outside the measured ones."""
        outside = np.zeros((), dtype=np.bool_)
        for axis, (low, high) in self.measured.items():
            outside = outside | (sizes[axis] < low) | (sizes[axis] > high)
        return np.asarray(outside)


@dataclass(frozen=True, eq=False)
class KernelFile:
    """All fits of one operator in one dtype as one engine runs it."""

    operator: str
    dtype: str
    engine: str
    engine_version: str
    source: str
    fitted: str  # date
    fits: tuple[Fit, ...]

    @property
    def name(self) -> str:
        return f"{self.operator}.{self.dtype}.{self.engine}"

    def to_json(self) -> str:
        """The text of the file: one line a fit, so that a changed fit shows as one changed line."""
        head = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "fits"}
        lines = ",\n".join("  " + json.dumps(_dump(fit), separators=(",", ":")) for fit in self.fits)
        body = json.dumps(head, indent=1)[:-2]
        return f'{body},\n "fits": [\n{lines}\n ]\n}}\n'


def _dump(fit: Fit) -> dict[str, Any]:
    told_apart = {"label": fit.label, "runs": fit.runs} if fit.label else {}
    return {
        "variant": fit.variant, "windowed": fit.windowed, **told_apart,
        "law": {name: _short(value) for name, value in asdict(fit.law).items()},
        "measured": {axis: [_short(low), _short(high)] for axis, (low, high) in fit.measured.items()},
        "rows": fit.rows, "beyond_roofline": fit.beyond_roofline,
        "held_out": {name: _short(value) for name, value in fit.held_out.items()},
        "unit": GRID_UNIT, "grids": [_dump_grid(grid) for grid in (fit.grid, *fit.finer)],
    }


def _dump_grid(grid: CorrectionGrid) -> dict[str, Any]:
    knots = {axis: pack(_whole(knots, KNOT_UNIT)) for axis, knots in zip(grid.axes, grid.knots, strict=True)}
    return {"knots": knots, "values": pack(_whole(grid.values.ravel(), GRID_UNIT))}


def _whole(values: Floats, unit: float) -> NDArray[np.int64]:
    return np.rint(values / unit).astype(np.int64)


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def parse(data: dict[str, Any]) -> KernelFile:
    """A kernel file from its JSON; KeyError, TypeError and ValueError say that it is not one."""
    law = LAWS[data["operator"]]
    fits = tuple(_parse_fit(fit, law) for fit in data["fits"])
    head = {name: data[name] for name in ("operator", "dtype", "engine", "engine_version", "source", "fitted")}
    return KernelFile(**head, fits=fits)


def _parse_fit(fit: dict[str, Any], law: Callable[..., Law]) -> Fit:
    grid, *finer = (_parse_grid(found, fit["unit"]) for found in fit["grids"])
    return Fit(
        variant=fit["variant"], windowed=fit["windowed"], law=law(**fit["law"]), grid=grid,
        measured={axis: (low, high) for axis, (low, high) in fit["measured"].items()},
        rows=fit["rows"], beyond_roofline=fit["beyond_roofline"], held_out=fit["held_out"],
        finer=tuple(finer), label=fit.get("label", ""),
        runs=tuple(tuple(run) for run in fit.get("runs", ())),
    )


def _parse_grid(grid: dict[str, Any], unit: float) -> CorrectionGrid:
    knots = tuple(unpack(axis).astype(np.float64) * KNOT_UNIT for axis in grid["knots"].values())
    values = unpack(grid["values"]).astype(np.float64) * unit
    return CorrectionGrid(tuple(grid["knots"]), knots, values.reshape([len(axis) for axis in knots]))


@lru_cache(maxsize=256)
def load(path: Path) -> KernelFile:
    """The kernel file at ``path``.

    Raises:
        InputError: it is missing, truncated or no kernel file.
    """
    return read_json(path, "fitted kernels", parse)
