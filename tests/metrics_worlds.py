"""Simulation results written by hand, for the tests of metrics, scenario and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from apexsim.cost.accounting import Account
from apexsim.engine.result import COMPLETED, REJECTED, Counters, ItlRuns, RequestColumns, SimulationResult

NAN = float("nan")


def request(
    arrival: float, start: float = NAN, first: float = NAN, finish: float = NAN, *, inputs: int = 100,
    outputs: int = 1, status: int = COMPLETED, itl_max: float = NAN, preemptions: int = 0, cached: int = 0,
) -> dict[str, Any]:
    return {
        "arrival_s": arrival, "start_s": start, "first_token_s": first, "finish_s": finish,
        "input_tokens": inputs, "output_tokens": outputs, "status": status, "reason": 0,
        "replica": 0 if status == COMPLETED else -1, "preemptions": preemptions, "cached_tokens": cached,
        "itl_max_s": itl_max,
    }


def rejected(arrival: float, **columns: Any) -> dict[str, Any]:
    return request(arrival, status=REJECTED, **columns)


_TYPES = {
    "input_tokens": np.int64, "output_tokens": np.int64, "status": np.int8, "reason": np.int8,
    "replica": np.int32, "preemptions": np.int32, "cached_tokens": np.int64,
}


def columns(requests: Sequence[dict[str, Any]]) -> RequestColumns:
    return RequestColumns(**{
        name: np.array([row[name] for row in requests], _TYPES.get(name, np.float64)) for name in requests[0]
    })


def gaps(*rows: tuple[float, float, int, int]) -> ItlRuns:
    """Runs of gaps: (start, slope, count, sequences) each."""
    start, slope, count, sequences = zip(*rows, strict=True) if rows else ((), (), (), ())
    whole = np.array([count, sequences], np.int64).reshape(2, -1)
    return ItlRuns(np.array(start, float), np.array(slope, float), whole[0], whole[1])


def counters(**changes: Any) -> Counters:
    empty = np.zeros(1, np.int64)
    values: dict[str, Any] = {
        "mixed": empty, "decode": empty, "sampled": empty, "scheduled": empty, "iterations": 0, "busy_s": 0.0,
        "prefill_attention_s": 0.0, "decode_attention_s": 0.0, "prefill_tokens": 0, "decode_tokens": 0,
        "prefill_pairs": 0.0, "decode_kv_tokens": 0.0, "prefill_pairs_windowed": 0.0,
        "decode_kv_tokens_windowed": 0.0, "preemptions": 0, "kv_peak_blocks": 0, "kv_blocks": 100,
    }
    return Counters(**(values | changes))


def result(
    requests: Sequence[dict[str, Any]], itl: ItlRuns | None = None, replicas: int = 1, **changes: Any
) -> SimulationResult:
    return SimulationResult(
        columns(requests), itl or gaps(), (counters(**changes),), (replicas,), seed=0, notes=()
    )


def account(energy_j: float | None = 0.0, **changes: Any) -> Account:
    parts = dict.fromkeys(("gemm", "attention", "moe", "communication", "host", "idle"), 0.0)
    nothing = Account(parts, energy_j, None, 0.0, 0.0, 0.0, 0.0)
    return replace(nothing, **changes)
