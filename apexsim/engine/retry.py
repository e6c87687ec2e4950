"""What becomes of requests when a unit goes with them: they are offered again from scratch, or have failed.

A request belongs to the unit that prefills it (or serves it whole) until its KV has landed where it decodes, then to
that one. Where only its place to decode goes, before its KV has landed, it is given another and loses nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.course import CALLS, FIRST_CALL, NEXT, TO_DECODE, TO_DROP, TO_ENTER, TO_FREE
from apexsim.engine.disaggregated import CoupledRun
from apexsim.engine.eviction import clear_replica, cut_timeline, stop_series
from apexsim.engine.replica import NEEDS_RECORDS
from apexsim.engine.result import FAILED, FAILED_REPLICA, IN_FLIGHT
from apexsim.engine.state import NONE, OFFERED, RUNNING

OFFERS = (TO_ENTER, TO_DECODE)


class Call(NamedTuple):
    """An errand for the compiled loop (``course.CALL``)."""

    kind: int
    request: int
    unit: int


class Retries:
    """Requests of units that go, and how often each was offered."""

    def __init__(self, run: CoupledRun, retries: int) -> None:
        n = len(run.trace)
        self.run, self.retries = run, retries
        self.attempts = np.ones(n, np.int64)
        self.past_preemptions = np.zeros(n, np.int64)  # of attempts that were lost,
        self.lost_preemptions = [0] * len(run.states)  # and by pool
        self.first = 0  # no request before it is in flight
        self.booked_s = 0.0  # up to which the last unit that went is booked
        self.last_loss_s = 0.0  # up to which iterations are booked that were lost with requests

    def lose(self, u: int, now: float, calls: Sequence[Call] = ()) -> list[Call]:
        """Unit u goes at ``now``; returns what the others have to do, those that free what they hold first.

        ``calls``: those of this instant that nobody has heard yet, as where several units go at once. Returned with
        the rest, but for what unit u was to do, and for offers of requests that are lost with it.
        """
        run, journeys = self.run, self.run.course.journeys
        lost, displaced = self._of_unit(u)
        p, r = int(run.units.pool[u]), int(run.units.replica[u])
        self.booked_s = self._stop(p, r, now)
        if lost:
            self.last_loss_s = max(self.last_loss_s, self.booked_s)
        frees, offers = [], []
        for i in lost:
            sink = int(journeys.sink[i])
            if sink not in (NONE, u):
                frees += [Call(TO_DROP, i, NONE), Call(TO_FREE, i, sink)]
            offers += self._again(i, p, r)
        for i in displaced:
            frees.append(Call(TO_DROP, i, NONE))
            self._forget_sink(i)
            offers.append(Call(TO_DECODE, i, NONE))
        self._leave_lobby(set(lost))
        run.units.due[u] = 0
        clear_replica(run.states[p], r, now)
        unheard = [call for call in calls if call.kind not in OFFERS and (call.kind, call.unit) != (TO_FREE, u)]
        offers += [call for call in calls if call.kind in OFFERS and call.request not in lost]
        return unheard + frees + sorted(offers, key=lambda call: call.request)

    def left_over(self) -> NDArray[np.bool_]:
        """[n] who has not ended."""
        return self._in_flight(0, len(self.run.trace))

    def _of_unit(self, u: int) -> tuple[list[int], list[int]]:
        """Requests that are lost with unit u, and those that lose only their place to decode."""
        run, end = self.run, int(self.run.cursor[NEXT])
        flying = self._in_flight(self.first, end)
        journeys = run.course.journeys[self.first : end]
        landed = np.isfinite(journeys.landed_s)
        here, there = journeys.source == u, journeys.sink == u
        lost = flying & ((here & ~landed) | (there & landed))
        displaced = flying & there & ~landed & ~here
        first = self.first
        self.first += int(np.argmax(flying)) if flying.any() else len(flying)
        return (first + np.flatnonzero(lost)).tolist(), (first + np.flatnonzero(displaced)).tolist()

    def _in_flight(self, begin: int, end: int) -> NDArray[np.bool_]:
        """[end - begin] whether each of these requests has not ended."""
        run, journeys = self.run, self.run.course.journeys[begin:end]
        flying = np.ones(end - begin, np.bool_)
        for unit in (journeys.source, journeys.sink):
            pools = np.where(unit == NONE, NONE, run.units.pool[unit])
            for p, state in enumerate(run.states):
                flying &= (pools != p) | (state.requests.status[begin:end] == IN_FLIGHT)
        return flying

    def _stop(self, p: int, r: int, now: float) -> float:
        """What replica r of pool p has in flight ends here; returns when it would have, up to which it is booked."""
        run = self.run
        most = 4 * run.tables[p].context_knots.size + 16
        while run.states[p].filled[0] + most > len(run.states[p].itl) or (
            len(run.states[p].timeline) and run.states[p].filled[1] + most > len(run.states[p].timeline)
        ):
            run.lengthen(p, NEEDS_RECORDS)
        stop_series(run.book, p, r, now)
        if len(run.states[p].timeline):
            cut_timeline(run.states[p], r, now)
        groups = run.states[p].groups[r * run.states[p].stages : (r + 1) * run.states[p].stages]
        return float(max(now, groups.end_s[groups.phase == RUNNING].max(initial=now)))

    def _again(self, i: int, p: int, r: int) -> list[Call]:
        """Request i has lost its attempt with replica r of pool p: it is offered again, or has failed."""
        run, journeys = self.run, self.run.course.journeys
        for q in {int(run.units.pool[u]) for u in (journeys.source[i], journeys.sink[i]) if u != NONE}:
            times = int(run.states[q].requests.preemptions[i])
            self.past_preemptions[i] += times
            self.lost_preemptions[q] += times
            run.states[q].requests.preemptions[i] = 0
        run.states[p].requests.phase[i] = OFFERED
        self._forget_sink(i)
        journeys.left_s[i], journeys.entered[i] = np.nan, 0
        if self.attempts[i] > self.retries:
            self._fail(i, p, r)
            return []
        journeys.source[i] = NONE
        self.attempts[i] += 1
        return [Call(TO_ENTER, i, NONE)]

    def _forget_sink(self, i: int) -> None:
        journeys = self.run.course.journeys
        journeys.sink[i], journeys.sent[i] = NONE, 0.0
        journeys.reserved_s[i] = journeys.landed_s[i] = np.nan

    def _fail(self, i: int, p: int, r: int) -> None:
        """Request i has failed; in the pool that it entered by, and counted as ended at replica r of pool p."""
        run = self.run
        requests = run.states[int(run.units.pool[run.course.journeys.source[i]])].requests
        requests.status[i], requests.reason[i], requests.finish_s[i] = FAILED, FAILED_REPLICA, np.nan
        run.states[p].replicas.ended[r] += 1

    def _leave_lobby(self, lost: set[int]) -> None:
        """Those that wait in the lobby for a place to decode, and whose KV is gone, wait no more."""
        cursor, lobby = self.run.cursor, self.run.course.lobby
        rows = lobby[cursor[FIRST_CALL] : cursor[CALLS]].copy()
        kept = rows[[int(i) not in lost for i in rows.request]]
        cursor[FIRST_CALL], cursor[CALLS] = 0, len(kept)
        lobby[: len(kept)] = kept
