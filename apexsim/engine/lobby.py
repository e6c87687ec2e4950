"""The lobby: errands that wait for their instant, or for a unit that is open. Empty where no unit ever goes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.course import CALLS, FIRST_CALL, TO_DROP, Course, need
from apexsim.engine.jit import rare_kernel
from apexsim.engine.links import Traffic, drop_flow
from apexsim.engine.state import NONE, instant


@rare_kernel
def call_later(course: Course, cursor: NDArray[np.int64], kind: int, i: int) -> None:
    """No unit is open for request i: it waits."""
    k = cursor[CALLS]
    course.lobby[k].kind, course.lobby[k].request, course.lobby[k].unit = kind, i, NONE
    course.lobby[k].at_s = np.inf
    cursor[CALLS] = k + 1


@rare_kernel
def next_call(course: Course, cursor: NDArray[np.int64]) -> float:
    """When the next errand is due."""
    at_s = np.inf
    if cursor[FIRST_CALL] < cursor[CALLS]:
        at_s = course.lobby[cursor[FIRST_CALL]].at_s
    return at_s


@rare_kernel
def read_lobby(course: Course, traffic: Traffic, cursor: NDArray[np.int64], errands: int, now: float) -> int:
    """Calls that are due by ``now`` become errands; returns how many there are."""
    while next_call(course, cursor) <= now + instant(now):
        call = course.lobby[cursor[FIRST_CALL]]
        if call.kind == TO_DROP:
            drop_flow(traffic, call.request)
        else:
            errands = need(course, errands, call.kind, call.request, call.unit)
        cursor[FIRST_CALL] += 1
    return errands
