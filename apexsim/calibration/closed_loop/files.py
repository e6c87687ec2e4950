"""The measured runs as a validation set: ``apexsim validate FOLDER`` shows them again.

    FOLDER/runs.csv            one row a load
    FOLDER/traces/*.csv        the requests as they came
    FOLDER/requests/*.csv      what was measured of each
    FOLDER/model.json          the model
    FOLDER/<device>/           the device, the engine's host terms with it
    FOLDER/host.csv            the batches that the host terms were fitted on
    FOLDER/errors.csv          measured against simulated, as it was when it was measured
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from apexsim.calibration.closed_loop.engine import ServingEngine
from apexsim.calibration.closed_loop.host import write_host
from apexsim.calibration.closed_loop.run import LoopResult, LoopRun
from apexsim.spec.files import write_atomically
from apexsim.spec.hardware import HardwareProfile
from apexsim.workload.write import write_trace

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}
MODEL = "model.json"


def write_set(
    folder: Path, result: LoopResult, engine: ServingEngine, config: Mapping[str, Any], profile: HardwareProfile,
    measured: date,
) -> None:
    """Write everything; the same names are written over.

    Raises:
        UsageError: the folder cannot be written.
    """
    write_atomically(folder / MODEL, json.dumps(config, indent=1) + "\n")
    device = folder / profile.name
    if profile.folder is not None and profile.folder.resolve() != device.resolve():
        shutil.copytree(profile.folder, device, dirs_exist_ok=True)
    write_host(result.host.model, engine.versions[engine.name], device / "engines" / f"{engine.name}.yaml")
    write_atomically(folder / "host.csv", _host_table(result))
    rows = []
    for run in result.runs:
        write_trace(run.served.trace(run.load.name), folder / "traces" / f"{run.load.name}.csv")
        write_atomically(folder / "requests" / f"{run.load.name}.csv", _request_table(run))
        rows.append(row_of(run, engine, profile, measured))
    write_atomically(folder / "runs.csv", _table(rows[0], (row.values() for row in rows)))
    write_atomically(folder / "errors.csv", _table(ERRORS, error_rows(result)))


def row_of(run: LoopRun, engine: ServingEngine, profile: HardwareProfile, measured: date) -> dict[str, Any]:
    """One row of runs.csv."""
    served, limits = run.served, engine.limits
    versions = ", ".join(f"{name} {version}" for name, version in engine.versions.items())
    row: dict[str, Any] = {
        "run": run.load.name, "source": f"apexsim calibrate loop, {measured.isoformat()}", "model": MODEL,
        "device": profile.name, "devices": 1, "tp": 1, "weights": "bf16", "kv_cache": "bf16", "engine": engine.name,
        "engine_version": engine.versions[engine.name], "scheduler": "vllm",
        "max_num_batched_tokens": limits.max_num_batched_tokens, "max_num_seqs": limits.max_num_seqs,
        "chunked_prefill": "true", "prefix_caching": "false", "cuda_graphs": "false", "async_scheduling": "false",
        "load": "trace", "trace": f"{run.load.name}.csv",
        "ttft_anchor": "arrival", "measured_at": "client",
    }  # fmt: skip
    for name in ("ttft", "tpot", "e2e"):
        values = getattr(served, f"{name}_s")
        known = values[np.isfinite(values)]
        row[f"{name}_mean_s"] = _short(known.mean())
        row |= {f"{name}_{word}_s": _short(np.percentile(known, q)) for word, q in PERCENTILES.items()}
    return row | {
        "output_tokens_per_s": _short(served.output_tokens.sum() / served.makespan_s),
        "requests_per_s": _short(len(served.arrival_s) / served.makespan_s), "makespan_s": _short(served.makespan_s),
        "regime": run.load.regime,
        "notes": f"{versions}; random weights; the engine's thread waited {served.waited_share:.1%} of its time for a "
                 f"processor that other programs had; attempt {run.attempts}",
    }  # fmt: skip


def _request_table(run: LoopRun) -> str:
    served = run.served
    header = ("request", "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "first_token_s", "last_token_s",
              "ttft_s", "tpot_s", "e2e_s", "simulated_ttft_s", "simulated_e2e_s")  # fmt: skip
    columns = (
        np.arange(len(served.arrival_s)), served.arrival_s, served.input_tokens, served.output_tokens, served.start_s,
        [tokens[0] for tokens in served.token_s], [tokens[-1] for tokens in served.token_s], served.ttft_s,
        served.tpot_s, served.e2e_s, run.compared["ttft_s"].simulated, run.compared["e2e_s"].simulated,
    )  # fmt: skip
    return _table(header, zip(*columns, strict=True))


def _host_table(result: LoopResult) -> str:
    rows = ((point.sequences, point.prompt_tokens, point.measured_s, point.device_s) for point in result.host.points)
    return _table(("sequences", "prompt_tokens", "measured_s", "device_s"), sorted(rows))


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_short(value) if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()


def _short(value: float) -> str:
    """Six digits; an empty cell for what is not defined."""
    return f"{value:.6g}" if np.isfinite(value) else ""


ERRORS = ("run", "rate_rps", "waited_share", "attempts", "metric", "measured_mean_s", "simulated_mean_s", "mean_error",
          "median_request_error", "p90_request_error")  # fmt: skip
"""Columns of errors.csv."""


def error_rows(result: LoopResult) -> list[tuple[Any, ...]]:
    """A row for each load and metric: means over all requests, and errors of single requests."""
    return [
        (
            run.load.name, run.load.rate_rps, run.served.waited_share, run.attempts, name,
            float(np.nanmean(compared.measured)), float(np.nanmean(compared.simulated)), compared.mean_error,
            compared.median_abs_error, float(np.quantile(np.abs(compared.errors), 0.9)),
        )
        for run in result.runs for name, compared in run.compared.items()
    ]  # fmt: skip
