"""A server's ``/metrics`` page: queue, step and latency metrics of vLLM (``vllm:*``) or SGLang (``sglang:*``).

Counters and histograms since the server started: fetch the page after one run on a fresh server. A histogram's sum and
count give a mean, nothing else. TTFT and E2E start where the server hands a request to its engine: HTTP is not in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apexsim.errors import InputError
from apexsim.validation.importers.base import ImportedRun, known

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

MEANS = {
    "ttft_mean_s": ("time_to_first_token_seconds",),
    # called time per output token in older versions: the gap between two tokens in both engines
    "itl_mean_s": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "tpot_mean_s": ("request_time_per_output_token_seconds",),
    "e2e_mean_s": ("e2e_request_latency_seconds",),
    "queue_mean_s": ("request_queue_time_seconds", "queue_time_seconds"),
    "input_tokens": ("request_prompt_tokens", "prompt_tokens_histogram"),
    "output_tokens": ("request_generation_tokens", "generation_tokens_histogram"),
    "step_tokens_mean": ("iteration_tokens_total",),
}
"""Column -> histograms whose sum ÷ count it is, newest name first."""


class Prometheus:
    """One scrape of one server."""

    name = "prometheus"
    about = "the text of /metrics of an OpenAI-compatible server (vLLM, SGLang)"
    needs: tuple[str, ...] = ("load",)

    def matches(self, text: str) -> bool:
        return _engine(_samples(text)) is not None

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        samples = _samples(text)
        engine = _engine(samples)
        if engine is None:
            raise InputError(f"{path}: no sample of vllm:* or sglang:* (allowed: the text of a server's /metrics)")
        served = _sum(samples, f"{engine}:e2e_request_latency_seconds_count")
        if not served:
            raise InputError(f"{path}: the server has served no request yet ({engine}:e2e_request_latency_seconds)")
        cells: dict[str, Any] = {column: _mean(samples, engine, names) for column, names in MEANS.items()}
        for column, counter in (("input_tokens", "prompt_tokens"), ("output_tokens", "generation_tokens")):
            total = _sum(samples, f"{engine}:{counter}_total")
            cells[column] = cells[column] or (total / served if total else None)
        cells |= {
            "engine": engine, "requests": int(served), "measured_at": "server", "ttft_anchor": "arrival",
            "model": _label(samples, "model_name"), "prefix_hit_share": _hits(samples, engine),
            **_cache(samples, engine),
        }  # fmt: skip
        notes = ("counters since the server started: one run on a fresh server is assumed",)
        return [ImportedRun(known(cells), notes=notes)]

    def example(self) -> Mapping[str, str]:
        model = '{model_name="meta-llama/Llama-3.1-8B-Instruct"}'
        means = {"time_to_first_token_seconds": (0.2, 4), "inter_token_latency_seconds": (1.0, 100),
                 "e2e_request_latency_seconds": (1.2, 4), "request_queue_time_seconds": (0.01, 4),
                 "iteration_tokens_total": (904, 40)}  # fmt: skip
        lines = ["# TYPE vllm:time_to_first_token_seconds histogram"]
        for name, (total, count) in means.items():
            lines += [f"vllm:{name}_sum{model} {total}", f"vllm:{name}_count{model} {count}"]
        lines += [f"vllm:prompt_tokens_total{model} 800.0", f"vllm:generation_tokens_total{model} 104.0"]
        lines += ['vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",enable_prefix_caching="True"} 1.0']
        return {"metrics.txt": "\n".join(lines) + "\n"}


def _samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample of the text."""
    found = []
    for line in text.splitlines():
        match = SAMPLE.match(line.strip())
        if match and not line.startswith("#"):
            try:
                found.append((match[1], dict(LABEL.findall(match[2] or "")), float(match[3])))
            except ValueError:
                continue
    return found


def _engine(samples: list[tuple[str, dict[str, str], float]]) -> str | None:
    return next((e for e in ("vllm", "sglang") if any(name.startswith(f"{e}:") for name, _, _ in samples)), None)


def _sum(samples: list[tuple[str, dict[str, str], float]], name: str) -> float:
    """Over all label sets: several engines or ranks behind one page."""
    return sum(value for other, _, value in samples if other == name)


def _mean(samples: list[tuple[str, dict[str, str], float]], engine: str, names: tuple[str, ...]) -> float | None:
    for name in names:
        total, count = (_sum(samples, f"{engine}:{name}_{part}") for part in ("sum", "count"))
        if count and total > 0:
            return total / count
    return None


def _hits(samples: list[tuple[str, dict[str, str], float]], engine: str) -> float | None:
    queries, hits = (_sum(samples, f"{engine}:prefix_cache_{part}_total") for part in ("queries", "hits"))
    return hits / queries if queries else None


def _label(samples: list[tuple[str, dict[str, str], float]], label: str) -> str | None:
    return next((labels[label] for _, labels, _ in samples if labels.get(label)), None)


def _cache(samples: list[tuple[str, dict[str, str], float]], engine: str) -> dict[str, Any]:
    """The KV cache as vLLM reports it in the labels of ``cache_config_info``."""
    info = next((labels for name, labels, _ in samples if name == f"{engine}:cache_config_info"), {})
    blocks, size = info.get("num_gpu_blocks", ""), info.get("block_size", "")
    share, caching = info.get("gpu_memory_utilization", ""), info.get("enable_prefix_caching", "").lower()
    return {
        "kv_capacity_tokens": int(blocks) * int(size) if blocks.isdigit() and size.isdigit() else None,
        "gpu_memory_utilization": float(share) if re.fullmatch(r"0?\.\d+|1(\.0+)?", share) else None,
        "prefix_caching": {"true": True, "false": False}.get(caching),
    }
