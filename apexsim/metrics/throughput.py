"""Requests and tokens per second over the whole run, the drain included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from apexsim.engine.result import (
    COMPLETED,
    FAILED,
    IN_FLIGHT,
    REJECTED,
    REJECTED_LATE,
    REJECTED_QUEUE,
    REJECTED_WAIT,
    RequestColumns,
)
from apexsim.metrics.metric import Metric

SHED = {REJECTED_QUEUE: "queue_full", REJECTED_WAIT: "waited_too_long", REJECTED_LATE: "deadline_passed"}
"""Reasons for which admission control turns a request away."""


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Every request of the trace is in exactly one of the four states."""

    total: int
    completed: int
    rejected: int
    failed: int
    in_flight: int
    shed: Mapping[str, int] = field(default_factory=dict)
    """Rejected ones that admission control turned away, by reason; not in the JSON where there are none."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of completed requests, per second of the run; None where nothing completed."""

    requests_per_s: float | None = None
    input_tokens_per_s: float | None = None
    output_tokens_per_s: float | None = None
    output_tokens_per_s_per_device: float | None = None


def count_requests(requests: RequestColumns) -> RequestCounts:
    """How many requests ended in each way; the counts sum to ``total``."""
    by_status = np.bincount(requests.status, minlength=4)
    by_reason = np.bincount(requests.reason, minlength=max(SHED) + 1)
    return RequestCounts(
        total=len(requests.status),
        completed=int(by_status[COMPLETED]),
        rejected=int(by_status[REJECTED]),
        failed=int(by_status[FAILED]),
        in_flight=int(by_status[IN_FLIGHT]),
        shed={name: int(by_reason[code]) for code, name in SHED.items() if by_reason[code]},
    )


def completed_tokens(requests: RequestColumns) -> tuple[int, int]:
    """Input and output tokens of the completed requests."""
    completed = requests.status == COMPLETED
    return int(requests.input_tokens[completed].sum()), int(requests.output_tokens[completed].sum())


def throughput(requests: RequestColumns, duration_s: float, devices: float) -> Throughput:
    """Completed requests and their tokens per second of the run, drain included."""
    if duration_s <= 0:
        return Throughput()
    inputs, outputs = completed_tokens(requests)
    return Throughput(
        requests_per_s=count_requests(requests).completed / duration_s,
        input_tokens_per_s=inputs / duration_s,
        output_tokens_per_s=outputs / duration_s,
        output_tokens_per_s_per_device=outputs / duration_s / devices,
    )


METRICS = (
    Metric("requests_per_s", "request throughput", "requests/s", "up", lambda s: s.throughput.requests_per_s),
    Metric("input_tokens_per_s", "input throughput", "tokens/s", "up",
           lambda s: s.throughput.input_tokens_per_s),
    Metric("output_tokens_per_s", "output throughput", "tokens/s", "up",
           lambda s: s.throughput.output_tokens_per_s),
    Metric("output_tokens_per_s_per_device", "output throughput per device", "tokens/s", "up",
           lambda s: s.throughput.output_tokens_per_s_per_device),
)
