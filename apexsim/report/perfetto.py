"""A run as a trace that Perfetto opens (https://ui.perfetto.dev): the Trace Event Format, JSON.

One process a pool and one thread a track: what an iteration is, follows another on it and never overlaps. Requests and
transfers are asynchronous events, waiting requests and KV in use are counters. Instants are microseconds after the
first arrival, whole nanoseconds of them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim import __version__
from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.metrics.tracks import Spans, sample, spans

REQUESTS, FIRST_POOL = 1, 2
"""Process numbers: of requests and transfers, and of the plan's first pool."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Thinned:
    """What stands in a trace, of what there was."""

    iterations: int
    spans: int
    requests: int
    of_requests: int

    def __str__(self) -> str:
        merged = "" if self.spans == self.iterations else f" in {self.spans:,} spans"
        return f"{self.iterations:,} iterations{merged}, {self.requests:,} of {self.of_requests:,} requests"


def trace_text(result: SimulationResult, pools: Sequence[str], title: str) -> tuple[str, Thinned]:
    """The JSON of a run that was made with its timeline, an event a line; and what of the run is in it.

    Args:
        pools: what each is called.
        title: what was simulated, for the reader.

    Raises:
        ValueError: the result has no timeline.
    """
    merged, chosen = spans(result), sample(result)
    thinned = Thinned(int(merged.iterations.sum()), len(merged.pool), len(chosen), len(result.requests.arrival_s))
    clock = Clock(float(np.min(result.requests.arrival_s, initial=np.inf)))
    events = [
        *_names(merged, pools), *_iterations(merged, clock), *_counters(result, merged, clock),
        *_requests(result, chosen, clock), *_fleet(result, clock),
    ]  # fmt: skip
    head = {"displayTimeUnit": "ms", "otherData": {"apexsim": __version__, "plan": title, "holds": str(thinned)}}
    lines = ",\n".join(json.dumps(event, allow_nan=False, separators=(",", ":")) for event in events)
    return json.dumps(head)[:-1] + ', "traceEvents": [\n' + lines + "\n]}\n", thinned


def packed(text: str) -> bytes:
    """The text gzipped; equal texts give equal bytes."""
    return gzip.compress(text.encode(), mtime=0)


@dataclass(frozen=True, slots=True)
class Clock:
    """Instants of the run in the trace's microseconds."""

    origin_s: float

    def __call__(self, at_s: float) -> float:
        return round((at_s - self.origin_s) * 1e9) / 1e3


def _names(merged: Spans, pools: Sequence[str]) -> Iterator[Event]:
    yield _name("process_name", REQUESTS, 0, "requests and transfers")
    for p, called in enumerate(pools):
        yield _name("process_name", FIRST_POOL + p, 0, called)
    tracks = np.unique(np.column_stack((merged.pool, merged.replica, merged.slot)), axis=0)
    several = bool((merged.slot > 0).any())
    for p, replica, slot in tracks.tolist():
        batch = f", batch {slot}" if several else ""
        yield _name("thread_name", FIRST_POOL + p, _thread(merged, replica, slot), f"replica {replica}{batch}")


def _name(kind: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _thread(merged: Spans, replica: int, slot: int) -> int:
    return int(replica * (merged.slot.max() + 1) + slot + 1)


def _iterations(merged: Spans, clock: Clock) -> Iterator[Event]:
    for row in range(len(merged.pool)):
        begin, end = clock(merged.begin_s[row]), clock(merged.end_s[row])
        iterations, prefill = int(merged.iterations[row]), int(merged.prefill_tokens[row])
        decode = int(merged.decode_tokens[row])
        kind = "prefill" if decode == 0 else "decode" if prefill == 0 else "prefill and decode"
        args = {
            "iterations": iterations, "prefill_tokens": prefill, "decode_tokens": decode,
            "requests": int(merged.requests[row]), "kv_blocks": int(merged.kv_blocks[row]),
            "busy_s": round(float(merged.busy_s[row]), 9),
        }  # fmt: skip
        yield {
            "ph": "X", "name": f"{kind} × {iterations:,}" if iterations > 1 else kind, "cat": "iteration",
            "pid": FIRST_POOL + int(merged.pool[row]),
            "tid": _thread(merged, int(merged.replica[row]), int(merged.slot[row])),
            "ts": begin, "dur": round(end - begin, 3), "args": args,
        }  # fmt: skip


def _counters(result: SimulationResult, merged: Spans, clock: Clock) -> Iterator[Event]:
    """Who waits and the share of the KV cache in use, where they change."""
    known: dict[tuple[int, str], float] = {}
    for row in np.argsort(merged.begin_s, kind="stable").tolist():
        p, replica = int(merged.pool[row]), int(merged.replica[row])
        used = float(merged.kv_blocks[row] / max(1, result.pools[p].kv_blocks))
        for name, unit, value in (
            (f"replica {replica}: waiting", "requests", float(merged.waiting[row])),
            (f"replica {replica}: KV in use", "percent", round(100.0 * used, 2)),
        ):
            if known.get((p, name)) != value:
                known[p, name] = value
                at = clock(merged.begin_s[row])
                yield {"ph": "C", "name": name, "pid": FIRST_POOL + p, "tid": 0, "ts": at, "args": {unit: value}}


def _requests(result: SimulationResult, chosen: NDArray[np.int64], clock: Clock) -> Iterator[Event]:
    """Each request from its arrival to its end, and in it what it went through."""
    columns = result.requests
    for i in chosen.tolist():
        phases = [(name, begin, end) for name, begin, end in _phases(result, i) if begin <= end]  # NaN drops out
        last_s = max((end for _, _, end in phases), default=float(columns.arrival_s[i]))
        args = {
            "input_tokens": int(columns.input_tokens[i]), "output_tokens": int(columns.output_tokens[i]),
            "preemptions": int(columns.preemptions[i]), "completed": bool(columns.status[i] == COMPLETED),
        }  # fmt: skip
        yield _async("b", "request", i, f"request {i}", clock(columns.arrival_s[i]), args)
        for name, begin, end in phases:
            category = "transfer" if name == "transfer" else "request"
            yield _async("b", category, i, name, clock(begin), {})
            yield _async("e", category, i, name, clock(end), {})
        yield _async("e", "request", i, f"request {i}", clock(last_s), {})


def _phases(result: SimulationResult, i: int) -> Iterator[tuple[str, float, float]]:
    """What request i went through, in its order; NaN where it never came so far."""
    columns, transfers = result.requests, result.transfers
    start_s, first_s = float(columns.start_s[i]), float(columns.first_token_s[i])
    yield "queue", float(columns.arrival_s[i]), start_s
    if transfers is None or np.isnan(transfers.left_s[i]):
        yield "prefill", start_s, first_s
    else:
        left_s, reserved_s = float(transfers.left_s[i]), float(transfers.reserved_s[i])
        yield "prefill", start_s, left_s
        yield "transfer", max(left_s, reserved_s), float(transfers.landed_s[i])
    yield "decode", first_s, float(columns.finish_s[i])


def _fleet(result: SimulationResult, clock: Clock) -> Iterator[Event]:
    """What happened to replicas, each at its instant on its pool."""
    for event in result.fleet_events:
        yield {
            "ph": "i", "s": "p", "name": f"replica {event.replica} {event.kind}", "cat": "fleet",
            "pid": FIRST_POOL + event.pool, "tid": 0, "ts": clock(event.at_s),
        }  # fmt: skip


def _async(phase: str, category: str, i: int, name: str, at: float, args: Event) -> Event:
    return {
        "ph": phase, "cat": category, "id": i, "name": name, "pid": REQUESTS, "tid": 0, "ts": at, "args": args
    }  # fmt: skip
