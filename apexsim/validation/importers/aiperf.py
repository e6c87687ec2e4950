"""AIPerf's ``profile_export_aiperf.json`` or ``.csv``, and GenAI-Perf's ``profile_export_genai_perf`` files.

A metric is ``{unit, avg, p50, …}``, or a line of a CSV with the unit in brackets. Their "inter token latency" is the
mean gap of one request, (E2E − TTFT)/(output tokens − 1): what this format calls TPOT. Where AIPerf's
``profile_export.jsonl`` lies beside the file, each request is read from it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apexsim.errors import InputError
from apexsim.validation.importers.base import (
    ImportedRun,
    MeasuredRequests,
    found_in,
    json_object,
    known,
    lengths_of,
    number,
    requests_of,
)

LATENCIES = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e"}
FIGURES = {
    "output_token_throughput": "output_tokens_per_s", "total_token_throughput": "total_tokens_per_s",
    "request_throughput": "requests_per_s", "benchmark_duration": "makespan_s", "request_count": "requests",
    "input_sequence_length": "input_tokens", "output_sequence_length": "output_tokens",
}  # fmt: skip
SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "us": 1e-6, "ns": 1e-9}
PERCENTILE = re.compile(r"p\d{1,2}")
RECORDS = "profile_export.jsonl"


class AiPerf:
    """One JSON object, or two small tables, a run."""

    name = "aiperf"
    about = "AIPerf profile_export_aiperf.json or .csv, GenAI-Perf profile_export_genai_perf.json or .csv"
    needs: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        metrics, _ = _parsed(text)
        return "request_throughput" in metrics and bool(LATENCIES.keys() & metrics)

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        metrics, config = _parsed(text)
        cells = known({column: _value(metrics, tag) for tag, column in FIGURES.items()})
        for tag, metric in LATENCIES.items():
            cells |= _latency(metrics.get(tag, {}), metric)
        if not LATENCIES.keys() & metrics.keys():
            raise InputError(f"{path}: no request succeeded: the file has none of {', '.join(LATENCIES)}")
        if "requests" in cells:
            cells["requests"] = int(cells["requests"])
        requests = _requests(path)
        if requests is not None:
            cells |= lengths_of(requests)
        power = _power(config)
        return [ImportedRun(cells | known({"power_w_per_device": power}) | _load(config, requests), requests=requests)]

    def example(self) -> Mapping[str, str]:
        stats = {"unit": "ms", "avg": 30.0, "p50": 29.0, "p90": 35.0, "p99": 40.0}
        data = {
            "request_throughput": {"unit": "requests/sec", "avg": 0.8},
            "request_count": {"unit": "requests", "avg": 2.0}, "time_to_first_token": stats,
            "inter_token_latency": stats | {"avg": 12.0, "p50": 12.0}, "request_latency": stats | {"avg": 66.0},
            "output_token_throughput": {"unit": "tokens/sec", "avg": 3.2},
            "input_sequence_length": {"unit": "tokens", "avg": 150.0},
            "output_sequence_length": {"unit": "tokens", "avg": 4.0},
            "input_config": {
                "endpoint": {"model_names": ["meta-llama/Llama-3.1-8B-Instruct"], "streaming": True},
                "loadgen": {"concurrency": 2, "request_count": 2},
            },
        }  # fmt: skip
        lines = "".join(json.dumps(_record(second)) + "\n" for second in (0, 1))
        return {"profile_export_aiperf.json": json.dumps(data), RECORDS: lines}


def _record(second: int) -> dict[str, Any]:
    metrics = {"input_sequence_length": 100 + 100 * second, "output_sequence_length": 4}
    times = {"time_to_first_token": 30.0, "request_latency": 66.0}
    return {
        "metadata": {"request_start_ns": (1700 + second) * 10**9, "benchmark_phase": "profiling"},
        "metrics": {tag: {"value": value, "unit": "tokens"} for tag, value in metrics.items()}
        | {tag: {"value": value, "unit": "ms"} for tag, value in times.items()},
        "error": None,
    }


def _parsed(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics by their tag, and the whole object for what else it says; both empty for anything else."""
    data = json_object(text)
    if data is not None:
        records = data.get("records")
        found = records if isinstance(records, dict) else data
        metrics = {tag: stats for tag, stats in found.items() if isinstance(stats, dict) and "avg" in stats}
        return metrics, data
    return (_tables(text), {}) if text.lstrip("\ufeff").startswith("Metric,") else ({}, {})


def _tables(text: str) -> dict[str, Any]:
    """Lines ``Time to First Token (ms),30.8,…`` under a header of statistics, then ``Metric,Value`` lines."""
    metrics: dict[str, Any] = {}
    header: list[str] = []
    for line in csv.reader(io.StringIO(text.lstrip("\ufeff"))):
        if not line:
            continue
        if line[0] == "Metric":
            header = ["avg" if name == "Value" else name for name in line[1:]]
            continue
        name, _, unit = line[0].partition(" (")
        tag = re.sub(r"\W+", "_", name.strip().lower())
        values = {key: _plain(cell) for key, cell in zip(header, line[1:], strict=False)}
        metrics[tag] = {"unit": unit.rstrip(")"), **known(values)}
    return {tag: stats for tag, stats in metrics.items() if "avg" in stats}


def _plain(cell: str) -> float | None:
    try:
        return number(float(cell.replace(",", "")))
    except ValueError:
        return None


def _value(metrics: Mapping[str, Any], tag: str) -> float | None:
    found = number(metrics.get(tag, {}).get("avg"))
    return found if found and found > 0 else None


def _latency(stats: Mapping[str, Any], metric: str) -> dict[str, Any]:
    unit_s = SECONDS.get(str(stats.get("unit", "ms")), 1e-3)
    names = {"avg": "mean"} | {name: name for name in stats if PERCENTILE.fullmatch(name)}
    values = {f"{metric}_{to}_s": number(stats.get(name)) for name, to in names.items()}
    return {column: value * unit_s for column, value in values.items() if value}


def _load(config: Mapping[str, Any], requests: MeasuredRequests | None) -> dict[str, Any]:
    model = found_in(config.get("input_config", {}), "model_names", "model")
    cells = {"model": model[0] if isinstance(model, list) and model else model, "ttft_anchor": "arrival"}
    concurrency = number(found_in(config.get("input_config", {}), "concurrency"))
    rate = number(found_in(config.get("input_config", {}), "request_rate"))
    if concurrency is not None and rate is None:
        cells |= {"load": "concurrency", "concurrency": int(concurrency)}
    elif requests is not None:
        cells |= {"load": "trace"}
    elif rate is not None:
        cells |= {"load": "rate", "rate_rps": rate}
    return known(cells)


def _power(config: Mapping[str, Any]) -> float | None:
    """Mean watts of a device over all devices that the run watched; None where it watched none."""
    endpoints = config.get("telemetry_data", {})
    endpoints = endpoints.get("endpoints", {}) if isinstance(endpoints, dict) else {}
    watts = [
        number(found_in(gpu, "gpu_power_usage") and gpu["metrics"]["gpu_power_usage"].get("avg"))
        for endpoint in endpoints.values()
        for gpu in endpoint.get("gpus", {}).values()
    ]
    measured = [value for value in watts if value]
    return float(np.mean(measured)) if measured else None


def _requests(path: Path) -> MeasuredRequests | None:
    beside = path.with_name(RECORDS)
    if not beside.is_file():
        return None
    rows = []
    for number_, line in enumerate(beside.read_text("utf-8").splitlines(), start=1):
        record = json_object(line)
        if record is None:
            raise InputError(f"{beside}: line {number_}: no complete JSON object (truncated?)")
        kept = record.get("error") is None and record.get("metadata", {}).get("benchmark_phase") != "warmup"
        if kept:
            rows.append(_row(record))
    columns = tuple(zip(*rows, strict=True)) if rows else ((),) * 5
    return requests_of(beside, *columns)


def _row(record: Mapping[str, Any]) -> tuple[float, float, float, float, float]:
    def value(tag: str) -> float:
        stats = record["metrics"].get(tag, {})
        found = number(stats.get("value"))
        scale = SECONDS.get(str(stats.get("unit")), 1.0)
        return float("nan") if found is None else found * scale

    start = record["metadata"]["request_start_ns"] / 1e9
    inputs, outputs = (np.nan_to_num(value(f"{side}_sequence_length")) for side in ("input", "output"))
    return start, float(inputs), float(outputs), value("time_to_first_token"), value("request_latency")
