"""A fitting problem: measured seconds beside what an operator had to do, for one variant of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.rows import held_out
from apexsim.cost.coefficients import KNOT_UNIT
from apexsim.cost.floor import floor_s
from apexsim.cost.shapes import Work
from apexsim.spec.dtypes import ComputeDtype
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]


Knots = Mapping[str, Floats]
"""Axis of a grid (a name of ``sizes``) -> log2 of the sizes where it has knots."""


@dataclass(frozen=True)
class Problem:
    """What a law and its grid are fitted on: work, sizes and measured seconds, row by row."""

    work: Work
    sizes: Mapping[str, Floats]
    seconds: Floats
    floor: Floats  # 0.95 × roofline
    peak: float
    bandwidth: float
    knots: Knots
    variant: int = 0
    windowed: bool = False
    finer: tuple[Knots, ...] = ()  # grids of fewer axes and more knots, which take what the first one leaves
    shape: tuple[str, ...] = ()  # sizes that make one shape, held out whole; every row is one of its own if empty
    label: str = ""  # see ``Fit``
    runs: tuple[tuple[int, ...], ...] = ()  # see ``Fit``
    around: Floats = field(default_factory=lambda: np.zeros(()))
    """Seconds of what was measured together with the operator, and was taken off: errors are of the whole."""

    def take(self, rows: NDArray[np.int64]) -> Problem:
        """The same problem on some of the rows."""
        return replace(
            self, work=Work(*(column[rows] for column in self.work)),
            sizes={name: size[rows] for name, size in self.sizes.items()},
            seconds=self.seconds[rows], floor=self.floor[rows],
            around=self.around[rows] if self.around.shape else self.around,
        )

    def told_apart(self, label: str, runs: tuple[tuple[int, ...], ...] = ()) -> Problem:
        """The same problem with what its fit is known by; see ``Fit``."""
        return replace(self, label=label, runs=runs)

    def beside(self, around: Floats) -> Problem:
        """The same problem whose rows were measured with ``around`` seconds [rows] of something else."""
        return replace(self, around=around)

    def held_out(self) -> NDArray[np.bool_]:
        """[rows] whether a row belongs to the fifth of the shapes, drawn at random, that a fit does not see."""
        if not self.shape:
            return held_out(self.seconds.size)
        keys = np.column_stack([self.sizes[name] for name in self.shape])
        shapes, of_row = np.unique(keys, axis=0, return_inverse=True)
        return held_out(len(shapes))[of_row.ravel()]


def device_problem(
    profile: HardwareProfile, compute: ComputeDtype, work: Work, sizes: Mapping[str, Floats], seconds: Floats,
    knots: Knots, *, variant: int = 0, windowed: bool = False,
    finer: tuple[Knots, ...] = (), shape: tuple[str, ...] = (),
) -> Problem:
    """The problem of an operator that computes in ``compute`` and reads the memory of ``profile``."""
    floor = floor_s(profile, compute, work.flops, work.moved)
    return Problem(
        work, sizes, seconds, floor, profile.peak_flops[compute], profile.memory_bandwidth, knots, variant, windowed,
        finer, shape,
    )


def even_knots(sizes: Floats, count: int) -> Floats:
    """``count`` knots evenly spaced in log2 over the measured sizes."""
    low, high = np.log2(sizes.min()), np.log2(sizes.max())
    return _rounded(np.linspace(low, max(high, low + 1.0), count))


def measured_knots(sizes: Floats) -> Floats:
    """A knot at every measured size."""
    found = np.log2(np.unique(sizes))
    return _rounded(found if found.size > 1 else np.array([found[0], found[0] + 1.0]))


def _rounded(knots: Floats) -> Floats:
    """As the file will hold them; two sizes that are one then share a knot."""
    return np.unique(np.rint(knots / KNOT_UNIT)) * KNOT_UNIT
