"""Latencies of requests: TTFT, TPOT, E2E and queueing, from the instants that the engine wrote down.

    queue = start − arrival      TTFT = first token − arrival      E2E = last token − arrival
    TPOT  = (E2E − TTFT) / (output tokens − 1), undefined for one output token
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED, RequestColumns
from apexsim.metrics.metric import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds, one value a request in the order of the trace; NaN where the request did not complete."""

    ttft_s: Floats
    tpot_s: Floats  # NaN for one output token, too
    itl_max_s: Floats  # largest gap between two tokens; NaN for one output token, too
    e2e_s: Floats
    queue_s: Floats


def latencies(requests: RequestColumns) -> Latencies:
    """Latencies of every completed request."""
    completed = requests.status == COMPLETED
    gaps = requests.output_tokens - 1
    ttft_s = np.where(completed, requests.first_token_s - requests.arrival_s, np.nan)
    e2e_s = np.where(completed, requests.finish_s - requests.arrival_s, np.nan)
    decode_s = np.where(completed & (gaps > 0), requests.finish_s - requests.first_token_s, np.nan)
    return Latencies(
        ttft_s=ttft_s,
        tpot_s=decode_s / np.maximum(gaps, 1),
        itl_max_s=np.where(completed & (gaps > 0), requests.itl_max_s, np.nan),
        e2e_s=e2e_s,
        queue_s=np.where(completed, requests.start_s - requests.arrival_s, np.nan),
    )


def counted_requests(arrival_s: Floats, warmup: float) -> NDArray[np.bool_]:
    """Which requests count: those that arrive after the first share ``warmup`` of the time of arrivals."""
    first, last = arrival_s.min(), arrival_s.max()  # a closed loop need not be in order
    counted: NDArray[np.bool_] = arrival_s >= first + warmup * (last - first)
    return counted


METRICS = (
    Metric("ttft", "TTFT", "s", "down", lambda summary: summary.ttft_s),
    Metric("tpot", "TPOT", "s", "down", lambda summary: summary.tpot_s),
    Metric("itl", "ITL", "s", "down", lambda summary: summary.itl_s),
    Metric("e2e", "E2E", "s", "down", lambda summary: summary.e2e_s),
    Metric("queue", "queueing", "s", "down", lambda summary: summary.queue_s),
)
