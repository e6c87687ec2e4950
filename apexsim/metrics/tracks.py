"""The timeline of a run, thinned out so that a viewer stays quick: iterations by track, and a sample of requests.

A *track* is what runs one thing at a time: a replica, one of the batches that a pipeline has in flight, or a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import SimulationResult, Timeline

Number = TypeVar("Number", np.int64, np.float64)

ITERATIONS, REQUESTS = 50_000, 2_000
"""Events and requests that a thinned timeline holds at most, but for one event a track."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of a track, by (pool, replica, slot, begin): iterations that follow each other, merged.

    Attributes:
        busy_s: of the stretch, in iterations; less than its length where there are gaps in it.
        requests: most in one iteration.
        decode_tokens: Σ over iterations of the sequences that decode.
        kv_blocks: most in use on the replica.
        waiting: requests that had come to the replica at ``begin_s`` and were not scheduled yet.
    """

    pool: NDArray[np.int64]
    replica: NDArray[np.int64]
    slot: NDArray[np.int64]
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    iterations: NDArray[np.int64]
    requests: NDArray[np.int64]
    decode_tokens: NDArray[np.int64]
    prefill_tokens: NDArray[np.int64]
    kv_blocks: NDArray[np.int64]
    waiting: NDArray[np.int64]


def spans(result: SimulationResult, most: int = ITERATIONS) -> Spans:
    """The iterations of a run that was made with ``timeline``, in at most ``most`` spans and one a track.

    Each track is cut into stretches of equal length, and iterations that begin in the same one are merged: every
    iteration and every token is in one span, and spans of one track do not overlap.

    Raises:
        ValueError: the result has no timeline.
    """
    if result.timeline is None:
        raise ValueError("the run was made without its timeline")
    line = _sorted(result.timeline)
    begins = np.ones(len(line.begin_s), bool)
    if len(line.begin_s) > most:
        tracks = _changes(line.pool, line.replica, line.slot)
        since_s = line.begin_s - line.begin_s.min()
        stretch_s = (line.end_s.max() - line.begin_s.min()) * tracks.sum() / most
        begins = tracks | _changes(np.floor(since_s / stretch_s))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(begins))[: len(first)] - 1  # no span where nothing ran
    pool, replica, begin_s = line.pool[first], line.replica[first], line.begin_s[first]
    return Spans(
        pool, replica, line.slot[first], begin_s, line.end_s[last],
        busy_s=_over(np.add, line.end_s - line.begin_s, first),
        iterations=_over(np.add, line.steps, first),
        requests=_over(np.maximum, line.requests, first),
        decode_tokens=_over(np.add, line.steps * line.decoding, first),
        prefill_tokens=_over(np.add, line.prefill_tokens, first),
        kv_blocks=_over(np.maximum, line.kv_blocks, first),
        waiting=_waiting(result, pool, replica, begin_s),
    )  # fmt: skip


def sample(result: SimulationResult, most: int = REQUESTS) -> NDArray[np.int64]:
    """Numbers of at most ``most`` requests, evenly spread over the trace."""
    requests = len(result.requests.arrival_s)
    return np.unique(np.linspace(0, requests - 1, min(most, requests)).round().astype(np.int64))


def _sorted(line: Timeline) -> Timeline:
    order = np.lexsort((line.end_s, line.begin_s, line.slot, line.replica, line.pool))
    return Timeline(*(getattr(line, name)[order] for name in Timeline.__slots__))


def _changes(*columns: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a row differs from the one before it in any column; the first row does."""
    changed = np.zeros(len(columns[0]), bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _over(operation: np.ufunc, column: NDArray[Number], first: NDArray[np.int64]) -> NDArray[Number]:
    """``operation`` over each stretch of the column that begins at ``first``."""
    return np.asarray(operation.reduceat(column, first), column.dtype) if len(first) else column[:0]


def _waiting(
    result: SimulationResult, pool: NDArray[np.int64], replica: NDArray[np.int64], at_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Requests that have come to a unit by an instant and are not yet scheduled there; those turned away apart.

    Where KV is handed on they wait for blocks, from the instant at which they asked for them.
    """
    requests, transfers = result.requests, result.transfers
    first = np.cumsum((0, *result.units))
    at, unit = first[pool] + replica, requests.replica.astype(np.int64)
    came, waiting = requests.arrival_s, np.zeros(len(at_s), np.int64)
    _count(waiting, at, at_s, unit, came, requests.start_s)
    if transfers is not None:
        asked = np.where(transfers.reserved_s < transfers.left_s, came, transfers.left_s)
        _count(waiting, at, at_s, first[transfers.pool] + transfers.replica, asked, transfers.reserved_s)
    return waiting


def _count(
    waiting: NDArray[np.int64], at: NDArray[np.int64], at_s: NDArray[np.float64],
    unit: NDArray[np.int64], came_s: NDArray[np.float64], went_s: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add to ``waiting``, at unit ``at`` and instant ``at_s``, those who wait there from ``came_s`` to ``went_s``."""
    known = np.isfinite(came_s) & np.isfinite(went_s)
    for u in np.unique(at):
        here, mine = at == u, known & (unit == u)
        came, went = np.sort(came_s[mine]), np.sort(went_s[mine])
        waiting[here] += np.searchsorted(came, at_s[here], "right") - np.searchsorted(went, at_s[here], "right")
