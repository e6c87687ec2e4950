"""The bound on goodput, over all the lengths that a goodput run can have.

Goodput at rate R is measured on enough copies k of the trace for 300 s of arrivals at R, so a higher rate
means more copies. For each k the bound b_k of ``bounds.py`` holds for the rates that use k copies,

    most_{k−1} < R ≤ most_k,        most_k = (k · n − 1) / 300,

and the plan's bound is the largest min(b_k, most_k) with b_k > most_{k−1}. Where to stop: of k copies at
least q = k − ⌈0.1 k⌉ are counted whole, during at most q + 1 copies' time, and at least share − (1 − share)/q
of their requests meet the SLO. The bound β_q from these alone falls with q, so beyond the k where β_q drops
below most_{k−1} no rate is possible. From there, or from the most copies that are tested at all, the exact b_k are
tried downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from apexsim.metrics.goodput import MIN_REQUESTS, MIN_SPAN_S, WARMUP, goodput_requests, goodput_trace
from apexsim.metrics.latency import counted_requests
from apexsim.search.bounds import SLACK, Busy, Counted, Due, goodput_bound
from apexsim.search.work import Lengths, lengths_of
from apexsim.workload.trace import Trace

MOST_REQUESTS = 3_000_000
"""Of one replay: no rate is tested that needs more (10,000 req/s, or what fits into one copy of a longer trace).
It keeps the memory of a worker within a gigabyte."""

MOST_HASHES = 40_000_000
"""Of the blocks of prompts in one replay: where a trace has hashes, they are what fills the memory."""


class GoodputLoads:
    """The loads that goodput runs of one trace offer, by the number of copies; made when first asked for."""

    def __init__(self, trace: Trace) -> None:
        # Only when requests arrive: prompts' hashes in millions of copies would fill the memory.
        self._trace = Trace(trace.name, trace.arrival_s, trace.input_tokens, trace.output_tokens)
        self._loads: dict[int, Counted] = {}
        self.requests = len(trace)
        self.fewest = -(-MIN_REQUESTS // self.requests)
        hashes = 0 if trace.hash_ids is None else len(trace.hash_ids)
        most = min(MOST_REQUESTS, MOST_HASHES * self.requests // max(hashes, 1))
        self.most = max(self.fewest, -(-most // self.requests))
        self.highest_rps = self.most_rps(self.most)  # no higher rate is tested
        self.lengths: Lengths = lengths_of(trace)
        self.one_copy = self.lengths.number()

    def most_rps(self, copies: int) -> float:
        """The highest rate that is tested on so many copies; 0 below the fewest."""
        return (copies * self.requests - 1) / MIN_SPAN_S if copies >= self.fewest else 0.0

    def requests_at(self, rate_rps: float) -> int:
        """Requests of a goodput run at this rate."""
        return -(-goodput_requests(rate_rps) // self.requests) * self.requests

    def of(self, copies: int) -> Counted:
        """What is counted of a goodput run on so many copies (at least the fewest)."""
        if copies not in self._loads:
            trace = goodput_trace(self._trace, self.most_rps(copies) * (1 - 1e-9))
            counted = counted_requests(trace.arrival_s, WARMUP)
            which = np.tile(self.lengths.which, copies)[counted]
            number = np.bincount(which, minlength=len(self.one_copy))
            arrivals_s = float(trace.arrival_s[-1] - trace.arrival_s[counted][0])
            self._loads[copies] = Counted(number, arrivals_s, trace.rate_rps)
        return self._loads[copies]


class GoodputBound:
    """The highest goodput of one kind of replica, by their number; ``dues`` are of ``loads.lengths``."""

    def __init__(self, loads: GoodputLoads, dues: Sequence[Due], servers: Sequence[str]) -> None:
        self._loads = loads
        self._dues = dues
        self._servers = servers
        # what one replica must do does not depend on their number
        self._exactly = lru_cache(self._busy_exactly)
        self._at_least = lru_cache(self._busy_at_least)

    def of(self, replicas: float) -> tuple[float, str]:
        """(requests/s that no run of so many replicas exceeds, the server that says so); inf, "" for none."""
        if not math.isfinite(self._relaxed(1 << 30, replicas)):
            return float("inf"), ""
        for copies in range(self._most_copies(replicas), self._loads.fewest - 1, -1):
            rate, server = goodput_bound(self._exactly(copies), self._loads.of(copies), replicas)
            if rate > self._loads.most_rps(copies - 1):
                return min(rate, self._loads.most_rps(copies)), "" if server < 0 else self._servers[server]
        return 0.0, ""  # more are rejected than the SLO forgives

    def _busy_exactly(self, copies: int) -> tuple[Busy, ...]:
        number = self._loads.of(copies).number
        return tuple(due.busiest(number) for due in self._dues)

    def _busy_at_least(self, whole: int) -> tuple[Busy, ...]:
        """By one copy, where ``whole`` of them are counted and one more in part.

        A part of a request may be kept of one copy: of many copies some keep it whole, and others not at all.
        """
        number = self._loads.one_copy
        shares = (max(0.0, due.deadlines.share - (1 - due.deadlines.share) / whole) for due in self._dues)
        return tuple(
            due.busiest(number, max(0.0, share * self._loads.requests - 1e-9))
            for due, share in zip(self._dues, shares, strict=True)
        )

    def _most_copies(self, replicas: float) -> int:
        """A number of copies beyond which no rate meets the SLO, or none is tested."""
        loads, low = self._loads, self._loads.fewest
        high = low
        while high < loads.most and self._relaxed(high + 1, replicas) > loads.most_rps(high):
            low, high = high + 1, min(2 * high, loads.most)
        while low < high:  # the answer is in low … high; at the most copies it is not asked whether more would do
            middle = (low + high) // 2
            if self._relaxed(middle + 1, replicas) > loads.most_rps(middle):
                low = middle + 1
            else:
                high = middle
        return high

    def _relaxed(self, copies: int, replicas: float) -> float:
        """β_q: no rate above this that is tested on ``copies`` or more copies meets the SLO."""
        whole = copies - math.ceil(WARMUP * copies)
        if whole < 1:
            return float("inf")
        best = float("inf")
        for busy in self._at_least(whole):
            room_s = whole * busy.seconds / replicas - busy.drain_s
            rate = (whole + 1) * self._loads.requests / room_s if room_s > 0 else float("inf")
            best = min(best, rate)
        return best * (1 + SLACK)
