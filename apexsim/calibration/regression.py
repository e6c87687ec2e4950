"""Fitting one law and its correction grid to measured seconds.

The law's parameters minimise a robust loss of log(law / measured). The grids then take what is left: a ridge
regression of the residual on multilinear hat functions, smoothed by penalising steps between neighbouring knots, so
that cells without rows take their neighbours' values; reweighted a few times towards the median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse import block_diag, csc_matrix, csr_matrix, diags, hstack, identity, vstack
from scipy.sparse.linalg import splu

from apexsim.cost.grid import CorrectionGrid, cells

Floats = NDArray[np.float64]

REWEIGHTINGS = 3
ROBUST_SCALE = 0.02
"""Residuals above this count linearly, not squared."""


def fit_parameters(
    predict: Callable[[Floats], Floats], seconds: Floats, start: Sequence[float], low: Sequence[float],
    high: Sequence[float],
) -> tuple[Floats, float]:
    """Positive parameters within bounds that minimise the robust loss, and the loss; searched in logarithms."""

    def residual(logs: Floats) -> Floats:
        return np.asarray(np.log(predict(np.exp(logs)) / seconds))

    bounds = (np.log(low), np.log(high))
    found = least_squares(residual, np.log(start), bounds=bounds, loss="soft_l1", f_scale=0.05)
    return np.exp(found.x), float(found.cost)


def fit_grids(
    shapes: Sequence[Mapping[str, Floats]], sizes: Mapping[str, Floats], residual: Floats, smoothness: float
) -> tuple[CorrectionGrid, ...]:
    """Grids whose sum is closest to ``residual`` = log(measured / law), all found together.

    The first takes the trend. The others, of fewer axes and more knots, take what is peculiar to a size whatever the
    rest is; they are drawn to zero, so that nothing is theirs that the first can say.

    Args:
        shapes: of each grid, axis -> log2 of the sizes at its knots.
        sizes: at least every axis -> sizes of the rows.
        smoothness: weight of a step between neighbouring knots, and of a finer grid's value, against one row's
            residual.
    """
    counts = [tuple(len(axis) for axis in knots.values()) for knots in shapes]
    design = hstack([
        _design(tuple(knots.values()), [sizes[axis] for axis in knots], count)
        for knots, count in zip(shapes, counts, strict=True)
    ]).tocsr()  # fmt: skip
    smooth = block_diag([_smooth(count, shrunk=index > 0) for index, count in enumerate(counts)]).tocsr()
    penalty = smoothness**2 * (smooth.T @ smooth)
    weights = np.ones(residual.size)
    values = np.zeros(design.shape[1])
    for _ in range(REWEIGHTINGS):
        # Solved outright: the last digits of an iterative solver differ with the threads that it runs on.
        normal = csc_matrix(design.T @ diags(weights) @ design + penalty)
        values = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(
            design.T @ (weights * residual)
        )
        weights = ROBUST_SCALE / np.maximum(np.abs(residual - design @ values), ROBUST_SCALE)
    parts = np.split(values, np.cumsum([int(np.prod(count)) for count in counts])[:-1])
    return tuple(
        CorrectionGrid(tuple(knots), tuple(knots.values()), part.reshape(count))
        for knots, part, count in zip(shapes, parts, counts, strict=True)
    )


def _smooth(shape: tuple[int, ...], shrunk: bool) -> csr_matrix:
    steps = _steps(shape)
    return csr_matrix(vstack([steps, identity(steps.shape[1])])) if shrunk else steps


def _design(knots: Sequence[Floats], sizes: Sequence[Floats], shape: tuple[int, ...]) -> csr_matrix:
    """[rows, knots] weights of multilinear interpolation."""
    found = cells(knots, sizes)
    count = len(sizes[0])
    columns, weights = [], []
    for corner in product((0, 1), repeat=len(shape)):
        index = [below + side for side, (below, _) in zip(corner, found, strict=True)]
        columns.append(np.ravel_multi_index(index, shape))
        weights.append(np.prod([s if side else 1 - s for side, (_, s) in zip(corner, found, strict=True)], axis=0))
    rows = np.tile(np.arange(count), len(columns))
    entries = (np.concatenate(weights), (rows, np.concatenate(columns)))
    return csr_matrix(entries, shape=(count, int(np.prod(shape))))


def _steps(shape: tuple[int, ...]) -> csr_matrix:
    """[pairs of neighbouring knots, knots] differences along every axis."""
    index = np.arange(int(np.prod(shape))).reshape(shape)
    blocks = []
    for axis in range(len(shape)):
        after = np.take(index, range(1, shape[axis]), axis).ravel()
        before = np.take(index, range(shape[axis] - 1), axis).ravel()
        row = np.arange(after.size)
        entries = (np.repeat([1.0, -1.0], after.size), (np.tile(row, 2), np.concatenate([after, before])))
        blocks.append(csr_matrix(entries, shape=(after.size, index.size)))
    return vstack(blocks).tocsr()


def error_summary(predicted: Floats, measured: Floats) -> dict[str, float]:
    """n, median, p90, worst and bias (median signed) of the relative error."""
    error = predicted / measured - 1.0
    size = np.abs(error)
    return {
        "n": int(size.size), "median": float(np.median(size)), "p90": float(np.quantile(size, 0.9)),
        "worst": float(size.max()), "bias": float(np.median(error)),
    }
