"""Two results of the same requests, drawn together: the intervals of what ``apexsim compare`` lays side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apexsim.errors import InputError
from apexsim.metrics.by_window import windows_of
from apexsim.metrics.goodput import WARMUP
from apexsim.metrics.latency import counted_requests
from apexsim.metrics.paired import Served, difference_intervals, unlike
from apexsim.metrics.summary import Summary
from apexsim.search.confidence import LEVEL
from apexsim.search.intervals import DRAWS, window_draws
from apexsim.search.windows import WINDOWS

LATENCIES = ("ttft", "tpot", "e2e", "queue")
KEPT = "within_slo"
COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "status", "preemptions", "cached_tokens",
           *(f"{tag}_s" for tag in LATENCIES))  # fmt: skip

LEAST = 5
"""Windows of which draws say something."""

CLOSE = 1e-6
"""Relative: a mean latency of a table and of a summary that differ by more are not of one run."""


@dataclass(frozen=True)
class Paired:
    """Intervals by tag of a metric, and what a reader is told of them; ``missing`` says why there are none."""

    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    windows: int = 0
    missing: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What was drawn, for the JSON."""
        if self.missing:
            return {"missing": self.missing}
        return {"level": LEVEL, "draws": DRAWS, "windows": self.windows}


def paired(base: Served | str, other: Served | str) -> Paired:
    """The intervals of two runs of the same requests.

    Args:
        base, other: the requests, or why they are not known.
    """
    if isinstance(base, str) or isinstance(other, str):
        reasons = [f"{side}: {why}" for side, why in (("A", base), ("B", other)) if isinstance(why, str)]
        return _none("; ".join(reasons))
    differ = unlike(base, other)
    if differ:
        return _none(f"the requests are not the same: {differ}")
    windows = windows_of(len(base), WINDOWS)
    number = int(windows[-1]) + 1
    if number < LEAST:
        return _none(f"{len(base)} requests are too few")
    found = difference_intervals(base, other, windows, window_draws(number, 0), LEVEL)
    note = (
        f"{LEVEL:.0%}: interval of the difference over {DRAWS:,} draws of {number} windows of the requests, the "
        "same for both.\ntied: it holds 0. Figures of a whole run have none."
    )
    if not np.allclose(base.arrival_s, other.arrival_s):
        note += " The same requests were offered at other times."
    return Paired(found, number, "", note)


def _none(reason: str) -> Paired:
    return Paired(missing=reason, note=f"No intervals: {reason}.")


def served(table: pd.DataFrame) -> Served:
    """The columns of a table of requests, as ``SimulationReport.to_pandas`` makes them."""
    kept = table[KEPT].to_numpy(np.float64) if KEPT in table else None
    return Served(
        table["arrival_s"].to_numpy(np.float64), table["input_tokens"].to_numpy(np.int64),
        table["output_tokens"].to_numpy(np.int64), (table["status"] == "completed").to_numpy(),
        table["preemptions"].to_numpy(np.int64), table["cached_tokens"].to_numpy(np.int64),
        {tag: table[f"{tag}_s"].to_numpy(np.float64) for tag in LATENCIES}, kept,
    )  # fmt: skip


def served_of(path: Path | None, summary: Summary) -> Served | str:
    """The requests of a result in a file, as its summary counts them; why not, in place of them.

    Raises:
        InputError: the file is there, and is no table of requests.
    """
    if path is None:
        return "the result names no table of its requests (simulate it with --json FILE and --requests-out)"
    if not path.is_file():
        return f"{path}, its table of requests, is not there any more"
    run = _read(path)
    for each in (run, run.counted(counted_requests(run.arrival_s, WARMUP))):
        if _is_of(each, summary):
            return each
    return f"{path} is of another run"


def _read(path: Path) -> Served:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: not a Parquet table: {' '.join(str(problem).split())}") from None
    lacks = [column for column in COLUMNS if column not in table]
    if lacks or len(table) == 0:
        raise InputError(f"{path}: {f'column {lacks[0]}: missing' if lacks else 'no rows'} (is it of --requests-out?)")
    return served(table)


def _is_of(run: Served, summary: Summary) -> bool:
    seconds = run.seconds["e2e"]
    mean = float(np.nanmean(seconds)) if np.isfinite(seconds).any() else None
    if mean is None or summary.e2e_s.mean is None:
        return mean == summary.e2e_s.mean and len(run) == summary.requests.total
    return len(run) == summary.requests.total and abs(mean - summary.e2e_s.mean) <= CLOSE * abs(mean)
