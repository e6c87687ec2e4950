"""What lies between pools, as kernels read it: a row of machine words, as the pools themselves are (``book.py``)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from apexsim.engine.book import Book, reader_of, written
from apexsim.engine.course import CALL, ERRAND, JOURNEY, UNIT, Course, Rules
from apexsim.engine.encoding import ENCODER, PICTURE, TASK, TIMER, Encoding
from apexsim.engine.links import Traffic, new_traffic
from apexsim.engine.state import rows

Between = tuple[Traffic, Course, Rules, Encoding]


def book_between(between: Between) -> Book:
    """A book of one row. Whoever makes it keeps its arrays alive.

    Raises:
        TypeError: an array is of another type, or not contiguous.
    """
    return written([between], KIND)


def _smallest() -> Between:
    """Nothing at all, for its types."""
    nobody, always = np.zeros((1, 0), np.int64), np.zeros(1)
    course = Course(
        rows(UNIT, 0), rows(JOURNEY, 0), rows(ERRAND, 0), nobody, nobody, np.zeros((1, 1, 1), np.int64), always,
        rows(CALL, 0), always,
    )  # fmt: skip
    encoding = Encoding(
        rows(PICTURE, 0), rows(TASK, 0), rows(ENCODER, 0), rows(TIMER, 0), np.zeros(2, np.int64), nobody, always,
        load=0, irp=False, most=1, first=0,
    )  # fmt: skip
    rules = Rules(1, 0, 0, push=False, early=0.0, shown=False, life=False)
    return new_traffic(always, [[0]], always, 1), course, rules, encoding


KIND: Any = numba.typeof(_smallest())
"""The one type that kernels are compiled for."""

between_at: Any = reader_of(KIND)
"""``between_at(book, 0)``: (traffic, course, rules, encoding), inside a kernel."""
