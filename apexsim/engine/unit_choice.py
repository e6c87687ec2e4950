"""Built-in routers among the units of several pools: ``pool.choose`` once more, pool by pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.book import Book, pool_at
from apexsim.engine.course import TO_DECODE, Course, Rules, hashed
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import resident_tokens
from apexsim.engine.pages import most_pages
from apexsim.engine.pool import BY_PLACE, BY_PREFIX, BY_REQUESTS, unfinished
from apexsim.engine.state import LONGEST, NONE, Limits, State


@kernel
def load_of(state: State, limits: Limits, r: int, load: int, i: int) -> int:
    """What a router compares at replica r: the smallest is the best."""
    if load == BY_REQUESTS:
        return unfinished(state, r)
    if load == BY_PREFIX:
        return -resident_tokens(state, limits, r, i)
    tokens: int = state.replicas[r].prompt_tokens
    return tokens


@kernel
def could_run(state: State, limits: Limits, i: int) -> bool:
    """False where request i is too long for any replica of this pool."""
    length = state.requests[i].prompt + state.requests[i].output
    return length <= limits.max_model_len and most_pages(limits, length - 1) <= limits.kv_blocks


@kernel
def is_open(course: Course, rules: Rules, kind: int, unit: int) -> bool:
    """True where a unit takes requests now."""
    if not rules.life:
        return True
    return bool((course.units[unit].exit if kind == TO_DECODE else course.units[unit].entry) == 1)


@rare_kernel
def first_open(course: Course, rules: Rules, kind: int, i: int, row: NDArray[np.int64]) -> int:
    """The first candidate that is open; where none is, one of all that are, by a hash of the request; else NONE."""
    for c in range(row.size):
        if is_open(course, rules, kind, row[c]):
            return row[c]
    there = 0
    for unit in range(course.units.size):
        there += is_open(course, rules, kind, unit)
    turn = hashed(i) % there if there > 0 else NONE
    for unit in range(course.units.size):
        if is_open(course, rules, kind, unit):
            if turn == 0:
                return unit
            turn -= 1
    return NONE


@rare_kernel
def choose_unit(book: Book, course: Course, rules: Rules, kind: int, i: int) -> int:
    """The candidate with the least load that could ever run request i, the first on a tie; else the first of all.

    Where prefixes decide, as in ``pool.by_prefix``: not among those that are overloaded, and ties go to the fewest
    requests. Units that are closed do not count; NONE where all are.
    """
    candidates, load = course.entry, rules.entry_load
    if kind == TO_DECODE:
        candidates, load = course.exit, rules.exit_load
    row = candidates[i if candidates.shape[0] > 1 else 0]
    if load == BY_PLACE:
        return first_open(course, rules, kind, i, row)
    most = LONGEST
    if load == BY_PREFIX:
        fewest = LONGEST
        for p in range(rules.pools):
            fewest = min(fewest, fewest_in(book, p, course, rules, kind, row))
        most = (16 + 3 * fewest) // 2
    best, least, second = NONE, LONGEST, LONGEST
    for p in range(rules.pools):
        best, least, second = best_in(book, p, course, rules, kind, row, load, i, most, best, least, second)
    return first_open(course, rules, kind, i, row) if best == NONE else best


@rare_kernel
def fewest_in(book: Book, p: int, course: Course, rules: Rules, kind: int, row: NDArray[np.int64]) -> int:
    """Unfinished requests of the candidate in pool p that has fewest."""
    state, _, _ = pool_at(book, p)
    fewest = LONGEST
    for c in range(row.size):
        if course.units[row[c]].pool == p and is_open(course, rules, kind, row[c]):
            fewest = min(fewest, unfinished(state, course.units[row[c]].replica))
    return fewest


@rare_kernel
def best_in(
    book: Book, p: int, course: Course, rules: Rules, kind: int, row: NDArray[np.int64], load: int, i: int, most: int,
    best: int, least: int, second: int,
) -> tuple[int, int, int]:  # fmt: skip
    """The best candidate so far, its load and its requests, once those in pool p with ``most`` of these are seen."""
    state, _, limits = pool_at(book, p)
    for c in range(row.size):
        if course.units[row[c]].pool != p or not is_open(course, rules, kind, row[c]):
            continue
        if not could_run(state, limits, i):
            break
        r = course.units[row[c]].replica
        requests, found = unfinished(state, r), load_of(state, limits, r, load, i)
        tied = load == BY_PREFIX and found == least and requests < second
        if requests <= most and (best == NONE or found < least or tied):
            best, least, second = row[c], found, requests
    return best, least, second
