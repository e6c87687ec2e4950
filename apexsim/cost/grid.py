"""A coarse correction grid: what a fitted roofline misses, as log(measured / law) over the logarithms of the shape.

Multilinear between knots and constant beyond the outer ones, so that outside its measured range a calibrated model
follows the slope of the roofline it corrects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CorrectionGrid:
    """``values[i, j, …]`` at the knots of each axis; a coordinate is log2 of a size of the operator."""

    axes: tuple[str, ...]
    knots: tuple[Floats, ...]
    values: Floats

    def __post_init__(self) -> None:
        shape = tuple(len(knots) for knots in self.knots)
        if self.values.shape != shape or len(self.axes) != len(shape):
            raise ValueError(f"a grid over {self.axes} with knots {shape} cannot have values {self.values.shape}")

    def factor(self, sizes: Sequence[Floats]) -> Floats:
        """What to multiply the law's seconds with; ``sizes`` are one array an axis, all > 0, that broadcast."""
        return np.exp(multilinear(self.values, cells(self.knots, sizes)))


def cells(knots: Sequence[Floats], sizes: Sequence[Floats]) -> list[tuple[NDArray[np.int64], Floats]]:
    """For each axis: the index of the knot below log2(size), and the position between it and the next in [0, 1]."""
    found = []
    for axis, size in zip(knots, sizes, strict=True):
        where = np.log2(np.maximum(size, 1e-9))
        below = np.clip(np.searchsorted(axis, where, side="right") - 1, 0, len(axis) - 2)
        share = np.clip((where - axis[below]) / (axis[below + 1] - axis[below]), 0.0, 1.0)
        found.append((below.astype(np.int64), share))
    return found


def multilinear(values: Floats, found: Sequence[tuple[NDArray[np.int64], Floats]]) -> Floats:
    """Interpolate ``values`` in cells found by ``cells``; one term for each corner of the cell."""
    total: Floats = np.zeros(())
    for corner in product((0, 1), repeat=len(found)):
        weight: Floats = np.ones(())
        for side, (_, share) in zip(corner, found, strict=True):
            weight = weight * (share if side else 1.0 - share)
        total = total + weight * values[tuple(below + side for side, (below, _) in zip(corner, found, strict=True))]
    return total
