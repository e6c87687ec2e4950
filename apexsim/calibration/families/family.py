"""What the fit and the report must know of a family of operators; neither knows one by name.

To add a family: a law in ``apexsim/cost/laws/``, a file here that makes a ``Family``, and its name in
``apexsim/calibration/families/__init__.py``. To report another table: an entry in a family's ``tables``, or in
``TABLES`` there where no family is fitted on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.problem import Problem
from apexsim.calibration.rows import Recipe, Rows
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

MULTIPROCESSORS = {
    "h100-sxm": 132, "h200-sxm": 132, "a100-sxm-80gb": 108, "l40s": 142, "b200-sxm": 148, "b300-sxm": 148,
    "gb200": 148, "gb300": 148, "rtx-pro-6000": 188, "b60": 20,
}  # fmt: skip
"""Streaming multiprocessors, by NVIDIA's architecture papers, or Intel's Xe cores; other devices take 128."""


def units(profile: HardwareProfile) -> int:
    """Parallel units that run thread blocks."""
    return profile.units or MULTIPROCESSORS.get(profile.name, 128)


@dataclass(frozen=True)
class Verdict:
    """Prices of some rows of a table beside what was measured.

    ``skipped``: reason -> rows that have no price, which are not in the arrays. Several verdicts of one ``dtype`` add
    up to one line of the report.
    """

    dtype: str  # the table's own word, or words
    predicted: Floats  # seconds, or watts where ``dtype`` says so
    measured: Floats
    skipped: Mapping[str, int] = field(default_factory=dict)
    calibrated: bool = True  # by fits of the device, not by the analytic model


def skipped(dtype: str, reason: str, rows: int) -> Verdict:
    """Rows of ``dtype`` that have no price."""
    return Verdict(dtype, np.empty(0), np.empty(0), {reason: rows})


Columns = Mapping[str, NDArray[np.generic]]
"""Columns of one table on one device: words as strings, everything else as float64."""


@dataclass(frozen=True)
class Table:
    """How a table is priced: through the kernel model that serving uses, never by a fit of its own.

    ``price`` gets all rows of one device, with at least ``words`` and ``numbers`` as columns, all numbers positive
    and finite but those of ``may_be_zero``. It is called for devices that nobody calibrated, too.
    """

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    price: Callable[[Columns, HardwareProfile], Iterator[Verdict]]
    may_be_zero: tuple[str, ...] = ()


def _nothing_fixed(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return ({},)


@dataclass(frozen=True)
class Family:
    """One operator: where its rows are, how they become fitting problems, and what the fit searches."""

    operator: str  # a name of ``LAWS``
    recipes: tuple[Recipe, ...]
    problems: Callable[[Recipe, Rows, HardwareProfile], Iterator[Problem]]
    """The problems that the rows of a recipe make, one a variant; none where the device lacks the dtype."""
    search: Mapping[str, tuple[float, float, float]]
    """Parameter of the law -> where its search starts, its smallest and its largest value; all positive."""
    smoothness: float
    """Weight of a step between neighbouring knots of the grid against one row: the less, the closer to the rows."""
    fixed: Callable[[HardwareProfile], Sequence[Mapping[str, int]]] = _nothing_fixed
    """Sets of further parameters of the law that are tried in turn; the one that explains the rows best stays."""
    after: tuple[str, ...] = ()
    """Operators that are fitted before: ``problems`` prices what stands around its own by the files just made."""
    worst_p90: float = 0.4
    """A fit whose held-out p90 is worse is not kept: head dimension 512 (FlashAttention-4) is too rough for the law."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Name of a table -> how the report prices it."""
