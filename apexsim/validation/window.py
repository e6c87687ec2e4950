"""The stretch of a run that was measured: all of it, or its steady state.

Steady, as ML.ENERGY cuts it: from the moment when ``max_num_seqs`` requests have sent a first token until all but
``max_num_seqs + 1`` have ended. Throughput, power and mean batch are then of that window alone; percentiles of
latencies are of the whole run in either case.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from apexsim.engine.result import COMPLETED, Counters, RequestColumns, SimulationResult, Timeline
from apexsim.metrics.throughput import completed_tokens
from apexsim.scenario import Prepared, replay
from apexsim.workload.trace import Trace


@dataclass(frozen=True)
class Window:
    """A stretch of a run, and what happened in it.

    Attributes:
        begin_s, end_s: on the trace's clock.
        counters: the engine's sums over the window.
    """

    begin_s: float
    end_s: float
    output_tokens: int
    input_tokens: int
    completed: int
    counters: Counters

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


def whole(result: SimulationResult) -> Window:
    """From the first arrival to the last token."""
    begin_s = float(result.requests.arrival_s.min())
    inputs, outputs = completed_tokens(result.requests)
    completed = int((result.requests.status == COMPLETED).sum())
    return Window(begin_s, begin_s + result.duration_s, outputs, inputs, completed, result.pools[0])


def steady(prepared: Prepared, trace: Trace, result: SimulationResult, seed: int = 0) -> Window | None:
    """The steady state of an open-loop run; None where it has none: too few requests for their batch.

    The run is replayed once more, since nobody knows before its end where its window lies.
    """
    bounds = steady_bounds(result.requests, prepared.policy.max_num_seqs * prepared.pool.replicas * prepared.pool.dp)
    if bounds is None:
        return None
    first, last = replay(prepared, trace, seed=seed, marks=bounds).snapshots
    if not last.at_s > first.at_s:
        return None
    counters = between(first.counters, last.counters)
    requests = result.requests
    return Window(
        first.at_s, last.at_s, output_tokens=yielded(counters),
        input_tokens=int(requests.input_tokens[_within(requests.first_token_s, first.at_s, last.at_s)].sum()),
        completed=int(_within(requests.finish_s, first.at_s, last.at_s).sum()), counters=counters,
    )  # fmt: skip


def steady_bounds(requests: RequestColumns, at_once: int) -> tuple[float, float] | None:
    """When ``at_once`` requests have sent a first token, and when all but ``at_once + 1`` have ended."""
    completed = requests.status == COMPLETED
    first, finish = (np.sort(column[completed]) for column in (requests.first_token_s, requests.finish_s))
    ended = len(finish) - at_once - 1
    if ended < 1 or at_once > len(first):
        return None
    begin_s, end_s = float(first[at_once - 1]), float(finish[ended - 1])
    return (begin_s, end_s) if begin_s < end_s else None


def yielded(counters: Counters) -> int:
    """Tokens that went out: each iteration gives one to every sequence that is sampled, and its accepted drafts."""
    return int(np.arange(len(counters.sampled)) @ counters.sampled) + counters.accepted_tokens


def between(early: Counters, late: Counters) -> Counters:
    """What was counted from one snapshot to the other; the KV cache and its tiers stay those of the later one."""
    changes: dict[str, Any] = {}
    for field in fields(Counters):
        value = getattr(late, field.name)
        kept = field.name.startswith("kv_") or field.name in ("tiers", "adapters")
        changes[field.name] = value if kept else value - getattr(early, field.name)
    return Counters(**changes)


def mean_scheduled(timeline: Timeline, begin_s: float, end_s: float) -> float:
    """Mean number of requests in the iterations of a window, time without an iteration counting as none."""
    overlap = np.minimum(timeline.end_s, end_s) - np.maximum(timeline.begin_s, begin_s)
    return float(np.maximum(overlap, 0.0) @ timeline.requests) / (end_s - begin_s)


def mean_admitted(requests: RequestColumns, begin_s: float, end_s: float) -> float:
    """Mean number of requests between their first scheduling and their last token, in a window."""
    ran = ~np.isnan(requests.start_s) & ~np.isnan(requests.finish_s)
    overlap = np.minimum(requests.finish_s[ran], end_s) - np.maximum(requests.start_s[ran], begin_s)
    return float(np.maximum(overlap, 0.0).sum()) / (end_s - begin_s)


def _within(instants: Any, begin_s: float, end_s: float) -> Any:
    return (instants > begin_s) & (instants <= end_s)
