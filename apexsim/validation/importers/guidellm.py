"""GuideLLM's ``benchmarks.json``: one report, one run for each of its benchmarks (a sweep has ten).

``inter_token_latency_ms`` is weighted by tokens there, so its mean is the mean over all gaps (ITL); the gaps
themselves are not kept, hence no ITL percentiles. ``time_per_output_token_ms`` counts the first token and is not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apexsim.errors import InputError
from apexsim.validation.importers.base import (
    MS,
    ImportedRun,
    MeasuredRequests,
    found_in,
    json_object,
    known,
    latencies_of,
    lengths_of,
    number,
    requests_of,
    seconds,
)

CLOSED = ("concurrent", "synchronous")
OPEN = ("constant", "poisson")


class GuideLlm:
    """One JSON object a report."""

    name = "guidellm"
    about = "GuideLLM benchmarks.json"
    needs: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        data = json_object(text)
        runs = (data or {}).get("benchmarks")
        return isinstance(runs, list) and bool(runs) and isinstance(runs[0], dict) and "metrics" in runs[0]

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        data = json_object(text)
        if data is None:
            raise InputError(f"{path}: no complete JSON object (truncated?)")
        runs = [_run(path, data, run, place) for place, run in enumerate(data["benchmarks"], start=1)]
        kept = [run for run in runs if run is not None]
        if not kept:
            raise InputError(f"{path}: no request of any benchmark succeeded")
        return kept

    def example(self) -> Mapping[str, str]:
        def spread(mean: float) -> dict[str, Any]:
            percentiles = dict.fromkeys(("p50", "p90", "p95", "p99"), mean)
            return {"successful": {"mean": mean, "median": mean, "percentiles": percentiles}}

        request = {
            "request_start_time": 1000.0, "prompt_tokens": 128, "output_tokens": 5, "request_latency": 0.08,
            "time_to_first_token_ms": 40.0,
        }  # fmt: skip
        run = {
            "config": {"strategy": {"type_": "concurrent", "streams": 2}},
            "metrics": {
                "request_totals": {"successful": 2, "incomplete": 0, "errored": 0, "total": 2},
                "requests_per_second": spread(1.5), "output_tokens_per_second": spread(7.5),
                "request_latency": spread(0.08), "prompt_token_count": spread(128.0),
                "output_token_count": spread(5.0), "time_to_first_token_ms": spread(40.0),
                "inter_token_latency_ms": spread(10.0),
            },
            "requests": {"successful": [request, request | {"request_start_time": 1001.0}]},
        }  # fmt: skip
        return {"benchmarks.json": json.dumps({"args": {"model": "Qwen/Qwen3-8B"}, "benchmarks": [run]})}


def _run(path: Path, report: Mapping[str, Any], run: Mapping[str, Any], place: int) -> ImportedRun | None:
    metrics = run["metrics"]
    served = number((metrics.get("request_totals") or {}).get("successful"))
    if not served:
        return None
    requests = _requests(path, run, int(served))
    cells = {
        "model": found_in(report.get("args", {}), "model") or found_in(run, "model"), "ttft_anchor": "arrival",
        "requests": int(served),
        "input_tokens": _mean(metrics, "prompt_token_count"), "output_tokens": _mean(metrics, "output_token_count"),
        "requests_per_s": _mean(metrics, "requests_per_second"),
        "output_tokens_per_s": _mean(metrics, "output_tokens_per_second"),
        "itl_mean_s": seconds(_mean(metrics, "inter_token_latency_ms")),
        **_spread(metrics, "time_to_first_token_ms", "ttft", MS), **_spread(metrics, "request_latency", "e2e", 1.0),
    }  # fmt: skip
    strategy = found_in(run, "strategy") or {}
    if requests is not None:
        cells |= lengths_of(requests)
        tpot = {name: value for name, value in latencies_of(requests).items() if name.startswith("tpot")}
        cells |= tpot
    kind = str(strategy.get("type_", "")) if isinstance(strategy, Mapping) else ""
    return ImportedRun(known(cells | _load(strategy, kind, requests)), f"{place}-{kind or 'run'}", requests)


def _load(strategy: Any, kind: str, requests: MeasuredRequests | None) -> dict[str, Any]:
    if kind in CLOSED:
        return {"load": "concurrency", "concurrency": int(number(strategy.get("streams")) or 1)}
    if requests is not None and requests.arrival_s.any() and kind in OPEN:
        return {"load": "trace"}
    rate = number(strategy.get("rate")) if kind in OPEN else None
    if rate:
        return {"load": "rate", "rate_rps": rate, "burstiness_cv": 0.0 if kind == "constant" else 1.0}
    return {"load": "offline"} if kind == "throughput" else {}


def _mean(metrics: Mapping[str, Any], name: str) -> float | None:
    found = number((metrics.get(name) or {}).get("successful", {}).get("mean"))
    return found if found and found > 0 else None


def _spread(metrics: Mapping[str, Any], name: str, metric: str, unit_s: float) -> dict[str, Any]:
    stats = (metrics.get(name) or {}).get("successful", {})
    percentiles = {p: seconds(stats.get("percentiles", {}).get(p), unit_s) for p in ("p50", "p90", "p95", "p99")}
    return {f"{metric}_mean_s": seconds(stats.get("mean"), unit_s)} | {
        f"{metric}_{p}_s": value for p, value in percentiles.items()
    }


def _requests(path: Path, run: Mapping[str, Any], served: int) -> MeasuredRequests | None:
    """Each request, unless the report keeps a sample of them only."""
    rows = (run.get("requests") or {}).get("successful") or []
    if len(rows) != served:
        return None

    def column(name: str, older: str | None = None) -> list[float]:
        values = (number(row.get(name, row.get(older or name))) for row in rows)
        return [float("nan") if value is None else value for value in values]

    starts = column("request_start_time", "start_time")
    ttft = [value * MS for value in column("time_to_first_token_ms")]
    inputs, outputs = (np.nan_to_num(column(name)).tolist() for name in ("prompt_tokens", "output_tokens"))
    if not np.isfinite(starts).all():
        starts = [0.0] * served
    return requests_of(path, starts, inputs, outputs, ttft, column("request_latency"))
