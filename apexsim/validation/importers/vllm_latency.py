"""``vllm bench latency --output-json``: seconds of one batch, run again and again in the engine's own process.

The file does not say how large the batch was (``requests``) nor how long its prompts and answers: they must be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from apexsim.errors import InputError
from apexsim.validation.importers.base import ImportedRun, json_object, number


class VllmLatency:
    """One JSON object a run."""

    name = "vllm-bench-latency"
    about = "vllm bench latency --output-json, JSON"
    needs: tuple[str, ...] = ("requests", "input_tokens", "output_tokens")

    def matches(self, text: str) -> bool:
        data = json_object(text)
        return data is not None and {"avg_latency", "latencies"} <= set(data)

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        data = json_object(text)
        latency = number((data or {}).get("avg_latency"))
        if latency is None or latency <= 0:
            raise InputError(f"{path}: key 'avg_latency' holds no time (truncated?)")
        cells = {
            "engine": "vllm", "load": "offline", "fixed_lengths": True, "measured_at": "engine",
            "prefix_caching": False, "makespan_s": latency,
        }  # fmt: skip
        repeated = len((data or {})["latencies"])
        return [ImportedRun(cells, notes=(f"mean over {repeated} runs of one batch",))]

    def example(self) -> Mapping[str, str]:
        data = {
            "avg_latency": 1.5, "std_latency": 0.01, "latencies": [1.49, 1.51],
            "percentiles": {"10": 1.49, "50": 1.5, "99": 1.51},
        }  # fmt: skip
        return {"latency.json": json.dumps(data)}
