"""Conversations: which requests of a stream belong together.

The stream's arrivals are given, so their law stays what it is; sessions are threaded through them. A request
takes the turn that is due longest, or opens a new session where none is due. The sparser the stream, the
longer a turn waits for its request: at BurstGPT's own rate pauses of median 131 s come out at 260 s, in dense
streams they are as asked.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from apexsim.workload.trace import Floats, Ints


@dataclass(frozen=True, slots=True)
class SessionLaw:
    """Turns = ceil(exp(turns_mu + turns_sigma · z)), no more than ``turns_most``.

    Seconds between two turns = exp(gap_mu + gap_sigma · z).
    """

    turns_mu: float
    turns_sigma: float
    turns_most: int
    gap_mu: float
    gap_sigma: float


def thread_sessions(arrival_s: Floats, law: SessionLaw, rng: np.random.Generator) -> Ints:
    """int64[n]: session of each request, numbered by first appearance.

    Args:
        arrival_s: float64[n], never decreasing.
        law: how many turns a session has and how long it pauses; a turn is taken by the next request after
            its pause.
    """
    n = len(arrival_s)
    turns = np.ceil(np.exp(rng.normal(law.turns_mu, law.turns_sigma, n)))
    turns_of = np.minimum(turns, law.turns_most).astype(np.int64).tolist()
    pause_s = np.exp(rng.normal(law.gap_mu, law.gap_sigma, n)).tolist()
    # A turn goes to the request nearest to its due time, so that pauses are right on average.
    until = np.append((arrival_s[:-1] + arrival_s[1:]) / 2.0, np.inf).tolist()
    session = np.empty(n, np.int64)
    due: list[tuple[float, int, int]] = []  # (second from which it may come, session, turns left)
    opened = 0
    for i, now in enumerate(arrival_s.tolist()):
        if due and due[0][0] <= until[i]:
            _, current, left = heapq.heappop(due)
        else:
            current, left = opened, turns_of[opened]
            opened += 1
        session[i] = current
        if left > 1:
            heapq.heappush(due, (now + pause_s[i], current, left - 1))
    return session


def grow_with_turns(session: Ints, *columns: Ints) -> tuple[Ints, ...]:
    """The columns reordered within each session so that the first one never falls from turn to turn.

    A prompt holds the conversation before it, so later prompts are longer. Only the order changes: the values
    of a session, their pairing, and so every marginal law stay. All arrays are int64[n], in order of arrival.
    """
    slots = np.argsort(session, kind="stable")
    ranked = np.lexsort((columns[0], session))
    grown = []
    for column in columns:
        new = np.empty_like(column)
        new[slots] = column[ranked]
        grown.append(new)
    return tuple(grown)
