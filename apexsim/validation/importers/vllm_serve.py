"""``vllm bench serve --save-result``, with or without ``--save-detailed`` (and the older benchmark_serving.py).

Milliseconds under ``mean_ttft_ms``, ``p99_e2el_ms``, …; ``e2el`` is the time to the last token. ``request_rate`` is a
number or ``"inf"``; ``burstiness`` is the shape of Gamma gaps, 1 / CV². In detail: ``ttfts`` and ``itls`` in seconds,
``input_lens``, ``output_lens`` and, in newer versions, ``start_times``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apexsim.errors import InputError
from apexsim.validation.importers.base import (
    ImportedRun,
    MeasuredRequests,
    json_object,
    known,
    latencies_of,
    lengths_of,
    measured_seconds,
    number,
    requests_of,
)

STATISTIC = re.compile(r"(mean|median|p\d{1,2}(?:\.\d+)?)_(ttft|tpot|itl|e2el)_ms")


class VllmServe:
    """One JSON object a run."""

    name = "vllm-bench-serve"
    about = "vllm bench serve --save-result [--save-detailed], JSON"
    needs: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        data = json_object(text)
        return data is not None and "mean_ttft_ms" in data and "request_throughput" in data

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        data = json_object(text)
        if data is None:
            raise InputError(f"{path}: no complete JSON object (truncated?)")
        if not number(data.get("completed")):
            raise InputError(f"{path}: no request succeeded (completed is {data.get('completed')!r})")
        requests = _requests(path, data)
        measured = _statistics(path, data)
        cells = _load(data, requests) | _lengths(data) | _figures(data)
        if requests is not None:
            cells |= lengths_of(requests)
            measured = latencies_of(requests) | measured
        failed = number(data.get("failed")) or 0
        notes = (f"{failed:.0f} requests failed and are not among them",) if failed else ()
        return [ImportedRun(known(cells | measured), requests=requests, notes=notes)]

    def example(self) -> Mapping[str, str]:
        data = {
            "date": "20260101-120000", "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct",
            "num_prompts": 3, "request_rate": 2.0, "burstiness": 1.0, "max_concurrency": None, "duration": 4.0,
            "completed": 3, "failed": 0, "total_input_tokens": 600, "total_output_tokens": 9,
            "request_throughput": 0.75, "output_throughput": 2.25, "total_token_throughput": 152.25,
            "input_lens": [100, 200, 300], "output_lens": [2, 3, 4], "ttfts": [0.02, 0.03, 0.04],
            "itls": [[0.01], [0.01, 0.012], [0.01, 0.01, 0.016]], "start_times": [50.0, 50.5, 51.0],
            "errors": ["", "", ""], "mean_ttft_ms": 30.0, "median_ttft_ms": 30.0, "p99_ttft_ms": 39.8,
            "mean_tpot_ms": 11.0, "mean_itl_ms": 11.33, "mean_e2el_ms": 52.67,
        }  # fmt: skip
        return {"serve.json": json.dumps(data)}


def _statistics(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    cells = {}
    for key, value in data.items():
        match = STATISTIC.fullmatch(key)
        if match:
            statistic = "p50" if match[1] == "median" else match[1]
            cells[f"{'e2e' if match[2] == 'e2el' else match[2]}_{statistic}_s"] = measured_seconds(path, key, value)
    return known(cells)


def _figures(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "output_tokens_per_s": number(data.get("output_throughput")),
        "total_tokens_per_s": number(data.get("total_token_throughput")),
        "requests_per_s": number(data.get("request_throughput")),
        "makespan_s": number(data.get("duration")),
    }


def _lengths(data: Mapping[str, Any]) -> dict[str, Any]:
    completed = number(data.get("completed")) or 1.0
    totals = (number(data.get(f"total_{side}_tokens")) for side in ("input", "output"))
    inputs, outputs = (None if total is None else total / completed for total in totals)
    return {"requests": int(completed), "input_tokens": inputs, "output_tokens": outputs}


def _load(data: Mapping[str, Any], requests: MeasuredRequests | None) -> dict[str, Any]:
    """A limit on the requests in flight is a closed loop; else a rate, or all at once."""
    rate, limit = number(data.get("request_rate")), number(data.get("max_concurrency"))
    shape = number(data.get("burstiness")) or 1.0
    cells = {"model": data.get("model_id"), "engine": data.get("backend"), "ttft_anchor": "arrival"}
    if limit is not None and rate is None:
        return cells | {"load": "concurrency", "concurrency": int(limit)}
    if requests is not None and requests.arrival_s.any():
        return cells | {"load": "trace"}
    if rate is not None:
        return cells | {"load": "rate", "rate_rps": rate, "burstiness_cv": shape**-0.5}
    return cells | {"load": "offline"}


def _requests(path: Path, data: Mapping[str, Any]) -> MeasuredRequests | None:
    columns = [data.get(key) for key in ("input_lens", "output_lens", "ttfts", "itls")]
    if not all(isinstance(column, list) and column for column in columns):
        return None
    counts = sorted({len(column) for column in columns if column})
    if len(counts) > 1:
        raise InputError(f"{path}: lists of {counts} requests (allowed: one length)")
    inputs, outputs, ttfts, itls = ([] if column is None else column for column in columns)
    e2e = [ttft + sum(gaps) for ttft, gaps in zip(ttfts, itls, strict=True)]
    # a request that failed has no first token
    outputs = [n if ttft else 0 for n, ttft in zip(outputs, ttfts, strict=True)]
    return requests_of(path, data.get("start_times") or [0.0] * counts[0], inputs, outputs, ttfts, e2e)
