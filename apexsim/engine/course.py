"""The ways of requests between pools: units, journeys, and errands at units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.jit import kernel
from apexsim.engine.pool import Candidates
from apexsim.engine.state import Rows

UNIT = np.dtype([("pool", "i8"), ("replica", "i8"), ("hands_over", "i8")])
"""A unit's place: its pool and its number there; and whether requests go on from it."""

JOURNEY = np.dtype(
    [
        ("source", "i8"),  # the unit that prefills, or serves
        ("sink", "i8"),  # the unit that decodes
        ("reserved_s", "f8"),  # its blocks there are
        ("left_s", "f8"),  # its prefill has ended
        ("landed_s", "f8"),  # its KV has come
        ("kv_bytes", "f8"),  # of that,
        ("sent", "f8"),  # and those released so far
        ("more", "i8"),  # 1 where tokens are left after the first
    ]
)
"""A request's way from pool to pool; NaN and NONE where it never came so far."""

TO_ENTER, TO_DECODE, TO_FREE, TO_DELIVER = 0, 1, 2, 3
ERRAND = np.dtype([("kind", "i8"), ("request", "i8"), ("unit", "i8")])
"""What has to be done at one unit at this instant: offer a request, free what it left, or say that its KV has come."""


class Course(NamedTuple):
    """U units, and how n requests go through them."""

    units: Rows  # UNIT [U]
    journeys: Rows  # JOURNEY [n]
    errands: Rows  # ERRAND [rows]
    entry: Candidates  # [n or 1, c] units that a request may enter at,
    exit: Candidates  # [n or 1, c] and at which it may decode; [1, 0] where nobody hands over
    paths: NDArray[np.int64]  # [U, U, k] ways from unit to unit, of which a request takes one
    arrivals: NDArray[np.float64]  # [n] at the door


class Rules(NamedTuple):
    """Numbers that hold for all pools."""

    pools: int
    entry_load: int  # what decides among the candidates (``pool.BY_…``)
    exit_load: int
    push: bool
    early: float  # share of the KV that may leave as it is computed
    shown: bool  # the client sees the first token when the prefill ends; else when its KV has landed


@kernel
def need(course: Course, errands: int, kind: int, i: int, unit: int) -> int:
    """One errand more; returns how many there are."""
    course.errands[errands].kind = kind
    course.errands[errands].request = i
    course.errands[errands].unit = unit
    return errands + 1


@kernel
def path_of(course: Course, i: int) -> int:
    """The way of request i: by its number, where there are several (a hash on its addresses, as ECMP has it)."""
    ways = course.paths[course.journeys[i].source, course.journeys[i].sink]
    word = (i * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    word = ((word ^ (word >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return ways[(word ^ (word >> 16)) % ways.size]
