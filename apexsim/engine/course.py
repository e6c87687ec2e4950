"""The ways of requests between pools: units, journeys, and errands at units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.jit import kernel
from apexsim.engine.pool import Candidates
from apexsim.engine.state import Rows, rows

UNIT = np.dtype(
    [
        ("pool", "i8"), ("replica", "i8"),
        ("hands_over", "i8"),  # 1 where requests go on from it
        # Where units come and go only (``life.py``).
        ("entry", "i8"),  # 1 where requests may enter now,
        ("exit", "i8"),  # and where they may decode
        ("draining", "i8"),  # 1 from when it takes no more until it has ended what it had
        ("due", "i8"),  # requests that will be prefilled here once their blocks are reserved elsewhere
    ]
)  # fmt: skip
"""A unit's place: its pool and its number there; and what it does now."""

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
        ("entered", "i8"),  # 1 once it has been offered to its source
    ]
)
"""A request's way from pool to pool; NaN and NONE where it never came so far."""

TO_ENTER, TO_DECODE, TO_FREE, TO_DELIVER, TO_CUT, TO_DROP, TO_EMBED = 0, 1, 2, 3, 4, 5, 6
ERRAND = np.dtype([("kind", "i8"), ("request", "i8"), ("unit", "i8")])
"""What has to be done at one unit at this instant: offer a request, free what it left, say that its KV has come, end a
series with the iteration in flight; drop the transfer of a request, or send what its images were encoded to.
"""

CALL = np.dtype([("kind", "i8"), ("request", "i8"), ("unit", "i8"), ("at_s", "f8")])
"""An errand that waits for its instant in the lobby; inf where it waits for a unit that is open."""

NEXT, KNOWN, FULL, FIRST_CALL, CALLS, DRAINING, DRAINED = 0, 1, 2, 3, 4, 5, 6
"""Places of the cursor: the next request to arrive, how many arrivals are known, the pool whose arrays are full; the
next call of the lobby and how many there are; units that drain, and 1 where the run stopped because one has ended."""


class Course(NamedTuple):
    """U units, and how n requests go through them."""

    units: Rows  # UNIT [U]
    journeys: Rows  # JOURNEY [n]
    errands: Rows  # ERRAND [rows]
    entry: Candidates  # [n or 1, c] units that a request may enter at,
    exit: Candidates  # [n or 1, c] and at which it may decode; [1, 0] where nobody hands over
    paths: NDArray[np.int64]  # [U, U, k] ways from unit to unit, of which a request takes one
    arrivals: NDArray[np.float64]  # [n] at the door
    lobby: Rows  # CALL [rows]; [0] where no unit ever goes
    stopped_s: NDArray[np.float64]  # [1] when the run stopped for a unit that has drained


class Rules(NamedTuple):
    """Numbers that hold for all pools."""

    pools: int
    entry_load: int  # what decides among the candidates (``pool.BY_…``)
    exit_load: int
    push: bool
    early: float  # share of the KV that may leave as it is computed
    shown: bool  # the client sees the first token when the prefill ends; else when its KV has landed
    life: bool  # units come and go


@kernel
def need(course: Course, errands: int, kind: int, i: int, unit: int) -> int:
    """One errand more; returns how many there are."""
    course.errands[errands].kind = kind
    course.errands[errands].request = i
    course.errands[errands].unit = unit
    return errands + 1


@kernel
def hashed(i: int) -> int:
    """A 32-bit word that looks like chance, the same for request i every time."""
    word = (i * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    word = ((word ^ (word >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return word ^ (word >> 16)


@kernel
def path_of(course: Course, i: int) -> int:
    """The way of request i: by its number, where there are several (a hash on its addresses, as ECMP has it)."""
    return way_between(course, course.journeys[i].source, course.journeys[i].sink, i)


@kernel
def way_between(course: Course, source: int, sink: int, i: int) -> int:
    """The way of request i from unit to unit, as ``path_of`` has it."""
    ways = course.paths[source, sink]
    return ways[hashed(i) % ways.size]


def lobby_with(calls: Sequence[tuple[int, int, int]], at_s: float) -> Rows:
    """Rows of a lobby: (kind, request, unit) each, due at ``at_s``."""
    made = rows(CALL, len(calls))
    made.kind, made.request, made.unit = np.array(calls, np.int64).reshape(-1, 3).T
    made.at_s = at_s
    return made
