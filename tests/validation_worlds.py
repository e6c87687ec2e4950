"""Small validation sets for the tests: made up, nobody measured them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from apexsim.validation.case import Case, Skipped, read_set
from apexsim.validation.sets import RunTable, read_table
from tests.house import ROOT

SHARED = ROOT.parent / "shared" / "validation"

CLOSED: dict[str, Any] = {
    "run": "a", "model": "meta-llama/Llama-3.1-8B-Instruct", "device": "h100-sxm", "devices": 1, "tp": 1,
    "weights": "bf16", "engine": "vllm", "engine_version": "0.11.0", "max_num_seqs": 64,
    "max_num_batched_tokens": 2048, "prefix_caching": "false", "load": "concurrency", "concurrency": 4,
    "input_tokens": 200, "output_tokens": 20, "fixed_lengths": "true", "ttft_mean_s": 0.05, "tpot_mean_s": 0.01,
}  # fmt: skip
"""A closed loop of 40 requests."""

OFFLINE = CLOSED | {
    "load": "offline", "concurrency": "", "requests": 100, "max_num_seqs": 8, "output_tokens_per_s": 1000,
    "ttft_mean_s": "", "tpot_mean_s": "", "mean_running_requests": 8, "power_w_per_device": 400,
}  # fmt: skip

TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(
    f"{0.3 * i:.1f},{100 + 31 * i % 300},{2 + 7 * i % 30}\n" for i in range(40)
)


def write_set(folder: Path, *rows: Mapping[str, Any], **files: str) -> Path:
    """A set with these rows; ``files`` are paths (``traces__t`` is ``traces/t.csv``) and their text."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def table_of(folder: Path, *rows: Mapping[str, Any], **files: str) -> RunTable:
    """The same, read."""
    return read_table(write_set(folder, *rows, **files) / "runs.csv")


def cases_of(folder: Path, *rows: Mapping[str, Any], **files: str) -> list[Case | Skipped]:
    """The same as cases."""
    return read_set(table_of(folder, *rows, **files))


def case_of(folder: Path, row: Mapping[str, Any] = CLOSED, **changes: Any) -> Case:
    """One row as a case."""
    (case,) = cases_of(folder, {**row, **changes})
    assert isinstance(case, Case), case
    return case


def reason_of(folder: Path, row: Mapping[str, Any] = CLOSED, **changes: Any) -> str:
    """Why one row is skipped."""
    (case,) = cases_of(folder, {**row, **changes})
    assert isinstance(case, Skipped)
    return case.reason


def shared_set(name: str) -> Path:
    """A set of measured runs beside the checkout; the test is skipped where it is not there."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no measured runs beside the checkout: {folder} is not there")
    return folder
