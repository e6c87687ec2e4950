"""From tables of measured kernels to a device: a folder with profile.yaml and fitted kernels.

Peaks are what the kernels reached: the largest FLOP/s of a matrix product, the largest bandwidth of a copy or a read.
So the physical floor of a price is what this machine has shown, not what a datasheet says, and the profile says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from apexsim.calibration.microbench.machine import Environment
from apexsim.calibration.regression import fit_parameters
from apexsim.cost.collectives import sent_bytes
from apexsim.errors import UsageError
from apexsim.spec.base import load_file
from apexsim.spec.files import write_atomically
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.units import format_bandwidth, format_bytes, format_flops, format_seconds

Floats = NDArray[np.float64]

WORDS = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8"}
"""dtype of the tables -> dtype of a peak; what plans cannot ask for (float32) has none."""

LARGE = 1024
"""Sizes of a matrix product, and tokens of a prompt, from which its share of the peak counts as that of large ones."""

NETWORK = "1.25GB/s"
"""Network of one device: nobody measured it; a cluster says its own (``node_link``)."""


def slug(text: str) -> str:
    """A product's name as the name of a profile: ``Intel(R) Xeon(R)`` becomes ``intel-xeon``."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", text.lower())).strip("-") or "device"


def default_name(environment: Environment) -> str:
    """The device's name, and for a CPU its threads, which change everything."""
    threads = f"-{environment.units}t" if environment.backend == "cpu" else ""
    return f"{slug(environment.device)}{threads}"


def write_profile(
    tables: Mapping[str, pa.Table], environment: Environment, folder: Path, measured: date
) -> HardwareProfile:
    """Write ``folder/profile.yaml`` from the tables; the profile's name is the folder's.

    Raises:
        UsageError: matrix products or the memory were not measured, or the folder cannot be written.
    """
    missing = [name for name in ("gemm", "memory") if name not in tables]
    if missing:
        raise UsageError(f"{folder}: no profile without measured {' and '.join(missing)} (has: {', '.join(tables)})")
    content = profile_of(tables, environment, folder.name, measured)
    write_atomically(folder / "profile.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
    return load_file(HardwareProfile, folder / "profile.yaml").read_from(folder)


def profile_of(tables: Mapping[str, pa.Table], environment: Environment, name: str, measured: date) -> dict[str, Any]:
    """The content of profile.yaml."""
    peaks, bandwidth = peak_flops(tables["gemm"]), memory_bandwidth(tables["memory"])
    if not peaks:
        raise UsageError(f"{name}: no dtype that a plan can name was measured (allowed: {', '.join(WORDS)})")
    launch_s, share = elementwise_terms(tables.get("elementwise"), bandwidth)
    what = f"{environment.device}, {_versions(environment)}, apexsim calibrate run on {measured.isoformat()}"
    return {
        "name": name, "device": environment.device, "vendor": environment.vendor, "year": measured.year,
        "units": environment.units,
        "peak_flops": {dtype: format_flops(peak, 4) for dtype, peak in peaks.items()},
        "memory_bytes": format_bytes(environment.memory_bytes),
        "memory_bytes_source": "as the driver or operating system reports it",
        "memory_bandwidth": format_bandwidth(bandwidth, 4),
        "scaleup": _scaleup(tables.get("nccl"), environment),
        "pcie_latency_s": "2us", "node_link_bandwidth": NETWORK, "node_link_latency_s": "50us",
        "links_source": "between devices: measured where there is a scaleup; network and PCIe: not measured, estimated",
        "efficiency": {
            "gemm": {dtype: _large_gemm(tables["gemm"], dtype, peak) for dtype, peak in peaks.items()},
            "attention": _large_attention(tables.get("context_attention"), max(peaks.values())),
            "memory": round(share, 4), "link": 1.0, "launch_s": format_seconds(launch_s, 4), "basis": "measured",
            "source": "medians of this run; launch and memory: elementwise operations as PyTorch runs them one by one",
        },
        "provenance": {
            "source": what, "basis": "measured", "confidence": "B", "checked": False, "date": measured.isoformat(),
            "note": "peaks are the largest rates that kernels reached here, not a datasheet's; the year is the run's",
        },
    }  # fmt: skip


def peak_flops(gemm: pa.Table) -> dict[str, float]:
    """dtype -> the largest FLOP/s of a matrix product that was not noisy."""
    found: dict[str, float] = {}
    for row in _steady(gemm):
        if row["dtype"] in WORDS:
            rate = 2e3 * row["m"] * row["n"] * row["k"] / row["latency_ms"]
            word = WORDS[row["dtype"]]
            found[word] = max(found.get(word, 0.0), rate)
    return found


def memory_bandwidth(memory: pa.Table) -> float:
    """The largest B/s of a copy, which moves its bytes twice, or of a read."""
    rows = _steady(memory)
    return float(max(1e3 * row["bytes"] * (2 if row["op"] == "copy" else 1) / row["latency_ms"] for row in rows))


def elementwise_terms(table: pa.Table | None, bandwidth: float) -> tuple[float, float]:
    """(seconds of a launch, share of the bandwidth) that explain the elementwise operations best.

    Their bytes are those of a fused kernel, so that what PyTorch does in several passes shows as a smaller share.
    """
    if table is None:
        return 1e-5, 0.5
    rows = _steady(table)
    seconds = np.array([row["latency_ms"] * 1e-3 for row in rows])
    moved = np.array([row["bytes"] for row in rows], dtype=np.float64)

    def predict(values: Floats) -> Floats:
        return np.asarray(values[0] + moved / (bandwidth * values[1]))

    (launch_s, share), _ = fit_parameters(predict, seconds, (1e-5, 0.5), (1e-7, 1e-3), (1e-2, 1.0))
    return float(launch_s), float(share)


def _large_gemm(gemm: pa.Table, dtype: str, peak: float) -> float:
    rates = [
        2e3 * row["m"] * row["n"] * row["k"] / row["latency_ms"] / peak
        for row in _steady(gemm) if WORDS.get(row["dtype"]) == dtype and min(row["m"], row["n"], row["k"]) >= LARGE
    ]
    return round(float(np.median(rates)), 4) if rates else 1.0


def _large_attention(prefill: pa.Table | None, peak: float) -> float:
    rates = [
        2e3 * row["batch"] * row["q_heads"] * row["head_dim"] * row["prompt_tokens"] ** 2 / row["latency_ms"] / peak
        for row in (_steady(prefill) if prefill is not None else []) if row["prompt_tokens"] >= LARGE
    ]
    return round(min(float(np.median(rates)), 1.0), 4) if rates else 0.5


def _scaleup(collectives: pa.Table | None, environment: Environment) -> dict[str, Any] | None:
    """Links between the devices: the fastest all-gather's, as if each had a port of its own."""
    gathers = [row for row in _steady(collectives) if row["op"] == "all_gather"] if collectives is not None else []
    if not gathers:
        return None
    rates = [
        1e3 * float(sent_bytes("all_gather", np.array(float(row["bytes"])), row["gpus"])) / row["latency_ms"]
        for row in gathers
    ]
    return {
        "technology": f"as {'NCCL' if environment.backend == 'cuda' else 'Gloo'} uses it",
        "bandwidth": format_bandwidth(max(rates), 4), "domain": max(row["gpus"] for row in gathers),
        "topology": "switch", "latency_s": format_seconds(min(row["latency_ms"] for row in gathers) * 1e-3 / 2, 4),
    }  # fmt: skip


def _steady(table: pa.Table) -> Sequence[dict[str, Any]]:
    """Rows that were not noisy; all where every one was."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row for row in rows if not row["noisy"]] or rows


def _versions(environment: Environment) -> str:
    threads = f"{environment.units} threads, " if environment.backend == "cpu" else ""
    return threads + ", ".join(f"{name} {version}" for name, version in environment.versions.items())


def read_tables(folder: Path) -> dict[str, pa.Table]:
    """Name -> table of a folder of Parquet files."""
    return {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
