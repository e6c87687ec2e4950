"""What a plan can reach at best: upper bounds on attainment and goodput, a lower bound on latency.

The argument, for any rate R: the counted requests arrive during A·R0/R seconds (A of them at the trace's own
rate R0). A request that meets the SLO has been prefilled within its TTFT limit and has finished within
TTFT + TPOT·(out − 1), or within E2E. So all work of those that are due within D seconds of their arrival was
done inside A·R0/R + D seconds by ``replicas`` servers of each kind. At least the target share must be among
them, the cheapest ones at best: up to 1 − target of the requests may be shed. Hence for every D

    Σ cheapest work ≤ replicas · (A · R0 / R + D),

which is solved for R (goodput) or for the share (attainment). Work is the least work of ``work.py``: never
more than what a replay does. ``SLACK`` covers rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from apexsim.search.work import Lengths, Work
from apexsim.spec.slo import SLO, Limit
from apexsim.workload.trace import Floats, Ints

SLACK = 1e-6
DRAINS = 4
"""How many drain times D are tried: quantiles of the requests' own deadlines. Each gives a valid bound."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The requests of a replay that count: how many have each of the lengths, and how they arrive."""

    number: Ints  # [U]
    arrivals_s: float  # from the first counted arrival to the last, when the trace runs at ``rate_rps``
    rate_rps: float


@dataclass(frozen=True, slots=True)
class Deadlines:
    """A share of the requests has its first and last token within so many seconds of arrival ([U]).

    ``relative`` is what attainment divides the share by (1 in a joint SLO); None where attainment does not look
    at just these limits.
    """

    share: float
    first_token_s: Floats
    last_token_s: Floats
    relative: float | None = 1.0


class Busy(NamedTuple):
    """Until ``drain_s`` after the last arrival, one replica's ``server`` has been busy for ``seconds`` at least."""

    drain_s: float
    seconds: float
    server: int


@dataclass(frozen=True, slots=True)
class Due:
    """The work that must be done within ``drain_s`` of its request's arrival, for one replica.

    Attributes:
        deadlines: whose work it is.
        seconds: [R, U] by server and length; infinite for requests that are never served.
    """

    drain_s: float
    deadlines: Deadlines
    seconds: Floats
    _order: dict[int, Ints] = field(default_factory=dict)  # lengths by work, of each server that was asked for

    def all_s(self, number: Ints) -> Floats:
        """[R] seconds of each server for all requests."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(number > 0, self.seconds * number, 0.0).sum(axis=1))

    def busiest(self, number: Ints, keep: float | None = None) -> Busy:
        """The server that the cheapest ``keep`` of the requests keep busy longest; a part of one counts by that part.

        ``keep`` is the deadlines' share, rounded up, where left out.
        """
        if keep is None:
            keep = float(np.ceil(self.deadlines.share * number.sum() - 1e-9))
        all_s = self.all_s(number)
        best_s, best = 0.0, 0
        for server in np.argsort(-all_s).tolist():
            if all_s[server] <= best_s:
                break
            busy_s = self._cheapest(server, number, keep)
            if busy_s > best_s:
                best_s, best = busy_s, server
        return Busy(self.drain_s, best_s, best)

    def most(self, server: int, number: Ints, capacity_s: float) -> float:
        """The largest share of the requests whose work, cheapest first, keeps ``server`` within its capacity."""
        order = self._ordered(server)
        each, alike = self.seconds[server][order], number[order]
        taken = alike > 0
        each, alike = each[taken], alike[taken]
        done_s = np.cumsum(each * alike)
        full = int(np.searchsorted(done_s, capacity_s, side="right"))
        served = float(alike[:full].sum())
        if full < len(each):
            before_s = done_s[full - 1] if full else 0.0
            served += np.floor((capacity_s - before_s) / each[full])
        return min(1.0, served / float(number.sum()))

    def _cheapest(self, server: int, number: Ints, keep: float) -> float:
        order = self._ordered(server)
        alike = number[order]
        taken = np.clip(keep - (np.cumsum(alike) - alike), 0, alike)
        some = taken > 0
        return float((self.seconds[server][order][some] * taken[some]).sum())

    def _ordered(self, server: int) -> Ints:
        if server not in self._order:
            self._order[server] = np.argsort(self.seconds[server])
        return self._order[server]


def due_to_meet(work: Work, lengths: Lengths, slo: SLO) -> tuple[Due, ...]:
    """The work that any run which meets the SLO has done in time; empty where nothing is due."""
    return tuple(due for deadlines in must_meet(slo, lengths) for due in _due_work(work, deadlines))


def _due_work(work: Work, deadlines: Deadlines) -> Iterator[Due]:
    """What is due within D of its request's arrival, for a few D."""
    due_s = np.unique(np.concatenate([deadlines.first_token_s, deadlines.last_token_s]))
    due_s = due_s[np.isfinite(due_s)]
    if len(due_s) == 0:
        return
    for drain_s in np.unique(np.quantile(due_s, np.linspace(0, 1, DRAINS), method="lower")):
        prefill = np.where(deadlines.first_token_s <= drain_s, work.prefill_s, 0.0)
        seconds = np.where(deadlines.last_token_s <= drain_s, work.total_s, prefill)
        yield Due(float(drain_s), deadlines, np.where(work.served, seconds, np.inf))


def goodput_bound(busy: Sequence[Busy], load: Counted, replicas: float) -> tuple[float, int]:
    """No rate (requests/s) above this meets the SLO, inf = any may; and the server (row) that says so."""
    best, server = float("inf"), -1
    for entry in busy:
        room_s = entry.seconds / replicas - entry.drain_s
        rate = load.arrivals_s * load.rate_rps / room_s if room_s > 0 else float("inf")
        if rate < best:
            best, server = rate, entry.server
    return best * (1 + SLACK), server


def attainment_bound(dues: Sequence[Due], load: Counted, replicas: float) -> float:
    """No replay at the trace's own rate has a higher attainment than this."""
    best = 1.0
    for due in dues:
        if due.deadlines.relative is None:
            continue
        capacity_s = replicas * (load.arrivals_s + due.drain_s) * (1 + SLACK)
        for server in np.flatnonzero(due.all_s(load.number) > capacity_s).tolist():
            best = min(best, due.most(server, load.number, capacity_s) / due.deadlines.relative)
    return best


def median_e2e_bound(work: Work, number: Ints) -> float:
    """The median E2E (seconds) of the completed requests is at least this; 0 where none completes."""
    alone_s, alike = work.alone_s[work.served], number[work.served]
    if alike.sum() == 0:
        return 0.0
    order = np.argsort(alone_s)
    middle = (int(alike.sum()) - 1) // 2
    position = int(np.searchsorted(np.cumsum(alike[order]), middle, side="right"))
    return float(alone_s[order][position]) * (1 - SLACK)


def must_meet(slo: SLO, lengths: Lengths) -> Iterator[Deadlines]:
    """The deadlines that a run must keep to meet the SLO; each clause may be missed by other requests."""
    if slo.mode == "joint":
        yield _all_limits(slo, lengths)
        return
    yield from _single_clauses(slo, lengths)
    for first in _clauses(slo, "ttft"):
        for gap in _clauses(slo, "tpot"):
            both = _share(first) + _share(gap) - 1.0
            last_s = first.seconds + gap.seconds * (lengths.output_tokens - 1).astype(np.float64)
            yield Deadlines(max(0.0, both), np.full(len(last_s), first.seconds), last_s, relative=None)


def _single_clauses(slo: SLO, lengths: Lengths) -> Iterator[Deadlines]:
    """One clause gives a deadline by itself where it counts from the arrival."""
    never = np.full(len(lengths.output_tokens), np.inf)
    for limit in _clauses(slo, "ttft"):
        yield Deadlines(_share(limit), np.full_like(never, limit.seconds), never, relative=_share(limit))
    for limit in _clauses(slo, "e2e"):
        within = np.full_like(never, limit.seconds)
        yield Deadlines(_share(limit), within, within, relative=_share(limit))


def _clauses(slo: SLO, metric: str) -> tuple[Limit, ...]:
    return tuple(limit for limit in slo.limits if limit.metric == metric)


def _share(limit: Limit) -> float:
    return 1.0 if limit.share is None else limit.share


def _all_limits(slo: SLO, lengths: Lengths) -> Deadlines:
    """The deadlines of a request that meets every limit of a joint SLO."""
    limit_s = {limit.metric: limit.seconds for limit in slo.limits}
    never = float("inf")
    first_s, last_s = limit_s.get("ttft", never), limit_s.get("e2e", never)
    gap_s = min(limit_s.get("tpot", never), limit_s.get("itl", never))  # the mean gap is at most the largest
    steps = (lengths.output_tokens - 1).astype(np.float64)
    decode_s = np.where(steps > 0, gap_s * np.maximum(steps, 1), 0.0)
    first_token_s = np.full(len(steps), min(first_s, last_s))
    return Deadlines(slo.target, first_token_s, np.minimum(last_s, first_s + decode_s))
