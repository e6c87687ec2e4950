"""Traces drawn from ServeGen's client tables (Xiang et al. 2025; github.com/alibaba/ServeGen).

ServeGen publishes no requests but, per client and 10-minute window, the rate, a fitted family of gaps between
arrivals (Gamma or Weibull, with its shape), and per client and 6-hour window the mean and percentiles of its
lengths. A trace is the sum of its clients.

Two facts of the tables shape the code: for Weibull rows the fitted scale does not give the listed rate (off
by up to 2), so only the shape is used and the gaps are stretched to the number of requests of the window, as
the authors' generator does; and about half of the client windows have no lengths of their own, so the
client's nearest window stands in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apexsim.errors import InputError, UsageError, unknown_name
from apexsim.workload.formats.cells import codes, need, numbers, refuse
from apexsim.workload.formats.source import NUMBER, TEXT, read_table
from apexsim.workload.lengths import at_knots, knots_of_percentiles
from apexsim.workload.limits import generator
from apexsim.workload.trace import Floats, Ints, Trace

WINDOW_S = 600.0
PERCENTILES = ("mean", "p50", "p90", "p99")
KEYS = {"category": TEXT, "model": TEXT, "client": NUMBER, "window_start_s": NUMBER}
WINDOW_COLUMNS = KEYS | {"rate_rps": NUMBER, "family": TEXT, "shape": NUMBER}
PARTS = ("input", "output", "text", "image")
LENGTH_COLUMNS = KEYS | {f"{part}_tokens_{which}": NUMBER for part in PARTS for which in PERCENTILES}


@dataclass(frozen=True, slots=True)
class Windows:
    """Rows of the client table that fall into the time asked for, one entry of each array a row."""

    client: Ints
    start_s: Floats
    rate_rps: Floats
    gamma: NDArray[np.bool_]  # else Weibull
    shape: Floats


def servegen(
    path: Path,
    *,
    workload: str | None = None,
    start_s: float = 0.0,
    duration_s: float = WINDOW_S,
    share: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Requests of one workload of a client table, ``share`` of every client's rate, classes = clients.

    Args:
        path: the table of client windows; ``servegen_client_lengths.csv.gz`` (or the same name with
            ``lengths`` for ``windows``, CSV or Parquet) must lie beside it.
        workload: the table's ``model`` (say ``m-large``); the first one of the table where None.
        start_s: of the table's clock; it becomes second 0.

    Raises:
        InputError: a table lacks columns, or the lengths are missing.
        UsageError: unknown workload, or a time or share outside what the table has.
    """
    if not (duration_s > 0 and start_s >= 0 and 0 < share <= 1):
        raise UsageError(
            f"servegen: start {start_s:g}s, duration {duration_s:g}s, share {share:g} "
            "(allowed: start 0 or more, duration more than 0, share more than 0 up to 1)"
        )
    table = read_table(path, WINDOW_COLUMNS)
    need(path, table, *WINDOW_COLUMNS)
    workload = _workload(table, workload)
    windows = _windows(path, table, workload, start_s, start_s + duration_s)
    rng = generator(seed)
    row, arrival_s = _arrivals(windows, share, rng)
    inside = (arrival_s >= start_s) & (arrival_s < start_s + duration_s)
    order = np.flatnonzero(inside)[np.argsort(arrival_s[inside], kind="stable")]
    row, arrival_s = row[order], arrival_s[order] - start_s
    if len(row) == 0:
        raise UsageError(
            f"servegen: {workload} has no request from {start_s:g}s on for {duration_s:g}s at share {share:g}"
        )
    input_tokens, output_tokens, stand_in = _lengths(path, workload, windows, row, rng)
    notes = ["drawn from per-client statistics, not a log of requests"]
    if stand_in > 0:
        notes.append(f"{stand_in:.0%} of the requests have lengths of another window or client: theirs has none")
    clients, class_code = np.unique(windows.client[row], return_inverse=True)
    return Trace(
        name=f"servegen-{workload}",
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        classes=tuple(f"client {client}" for client in clients),
        class_code=class_code.astype(np.int64),
        source=f"{path} (servegen {workload}, {start_s:g}s + {duration_s:g}s, share {share:g}, seed {seed})",
        notes=tuple(notes),
    )


def lengths_path(path: Path) -> Path:
    """The table of lengths beside a table of client windows.

    Raises:
        InputError: there is none.
    """
    name = path.name.replace("windows", "lengths")
    for ending in (".csv.gz", ".parquet", ".csv"):
        name = name.removesuffix(ending)
    for ending in (".csv.gz", ".csv", ".parquet"):
        beside = path.with_name(name + ending)
        if beside != path and beside.is_file():
            return beside
    raise InputError(
        f"{path}: the lengths of its clients are missing (needed beside it: {name}.csv.gz, .csv or .parquet)"
    )


def _workload(table: pa.Table, workload: str | None) -> str:
    names = [str(name) for name in pc.unique(table.column("model").cast(pa.string())).to_pylist()]
    if not names:
        raise InputError("the table of client windows is empty")
    if workload is None:
        return names[0]
    if workload not in names:
        raise UsageError(unknown_name("workload", workload, names))
    return workload


def _rows_of(table: pa.Table, workload: str) -> pa.Table:
    return table.filter(pc.equal(table.column("model").cast(pa.string()), workload))


def _windows(path: Path, table: pa.Table, workload: str, start_s: float, end_s: float) -> Windows:
    rows = _rows_of(table, workload)
    begin = numbers(path, rows, "window_start_s")
    rows = rows.filter(pa.array((begin + WINDOW_S > start_s) & (begin < end_s)))
    if len(rows) == 0:
        raise UsageError(
            f"{path}: {workload} has no window from {start_s:g}s to {end_s:g}s "
            f"(allowed: within {begin.min():g}s to {begin.max() + WINDOW_S:g}s)"
        )
    shape, rate_rps = numbers(path, rows, "shape"), numbers(path, rows, "rate_rps")
    refuse(path, "shape", shape, shape <= 0, "more than 0")
    refuse(path, "rate_rps", rate_rps, rate_rps < 0, "0 or more")
    families, family = codes(rows, "family")
    unknown = np.array([name not in ("Gamma", "Weibull") for name in families], np.bool_)
    if unknown.any():
        raise InputError(f"{path}: family is {families[int(np.argmax(unknown))]!r} (allowed: Gamma, Weibull)")
    return Windows(
        client=numbers(path, rows, "client").astype(np.int64),
        start_s=numbers(path, rows, "window_start_s"),
        rate_rps=rate_rps,
        gamma=np.array([name == "Gamma" for name in families], np.bool_)[family],
        shape=shape,
    )


def _arrivals(windows: Windows, share: float, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Window of each request and its arrival; unsorted between windows.

    A window holds rate × 600 s requests (a fraction is rounded up or down at random); one gap more than
    requests is drawn and all are stretched to fill the window.
    """
    expected = windows.rate_rps * WINDOW_S * share
    count = np.floor(expected + rng.random(len(expected))).astype(np.int64)
    gaps = count + 1
    of_gap = np.repeat(np.arange(len(count)), gaps)
    shape = windows.shape[of_gap]
    gap = np.where(windows.gamma[of_gap], rng.standard_gamma(shape), rng.weibull(shape))
    # Very small shapes underflow to 0: a tiny gap each keeps a window of nothing but zeros defined.
    gap += np.finfo(np.float64).tiny * 1e16
    ends = np.cumsum(gaps)
    total = np.add.reduceat(gap, ends - gaps)
    # Shares of the own window, so that a large sum before it costs no digits.
    running = np.cumsum(gap / total[of_gap]) - of_gap
    last = np.zeros(len(gap), np.bool_)
    last[ends - 1] = True
    row = of_gap[~last]
    return row, windows.start_s[row] + WINDOW_S * np.clip(running[~last], 0.0, 1.0 - 1e-9)


def _lengths(
    path: Path, workload: str, windows: Windows, row: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints, float]:
    """Input and output tokens of each request, and the share of requests whose own window has no lengths."""
    beside = lengths_path(path)
    table = read_table(beside, LENGTH_COLUMNS)
    need(beside, table, *KEYS, *(f"output_tokens_{which}" for which in PERCENTILES))
    table = _rows_of(table, workload)
    table = table.filter(pc.is_valid(table.column("output_tokens_mean")))
    if len(table) == 0:
        raise InputError(f"{beside}: no lengths of {workload}")
    law, own = _nearest(beside, table, windows)
    law_of_request = law[row]
    parts = ["input"] if _known(table, "input") else [part for part in ("text", "image") if _known(table, part)]
    if not parts:
        raise InputError(f"{beside}: no input, text or image tokens of {workload}")
    n = len(row)
    input_tokens = sum(
        (at_knots(_knots(beside, table, part), law_of_request, rng.random(n)) for part in parts),
        np.zeros(n, np.int64),
    )
    output_tokens = at_knots(_knots(beside, table, "output"), law_of_request, rng.random(n))
    return input_tokens, output_tokens, 1.0 - float(own[row].mean())


def _known(table: pa.Table, part: str) -> bool:
    name = f"{part}_tokens_mean"
    return name in table.column_names and table.column(name).null_count < len(table)


def _knots(path: Path, table: pa.Table, part: str) -> NDArray[np.float64]:
    columns = [np.nan_to_num(_filled(table, f"{part}_tokens_{which}"), nan=1.0) for which in PERCENTILES]
    for which, values in zip(PERCENTILES, columns, strict=True):
        refuse(path, f"{part}_tokens_{which}", values, values < 0, "0 or more")
    mean, p50, p90, p99 = columns
    return knots_of_percentiles(mean, p50, p90, p99)


def _filled(table: pa.Table, column: str) -> Floats:
    return np.asarray(pc.fill_null(table.column(column).cast(pa.float64()), math.nan).to_numpy(), np.float64)


def _nearest(path: Path, table: pa.Table, windows: Windows) -> tuple[Ints, NDArray[np.bool_]]:
    """For each client window the row of ``table`` nearest in time (own client first), and whether it covers
    it."""
    client = numbers(path, table, "client").astype(np.int64)
    start_s = numbers(path, table, "window_start_s")
    span_s = _span(start_s)
    # The middle of the 10 minutes against the middle of the 6 hours; another client only where the own has no
    # row.
    away = np.abs((windows.start_s + WINDOW_S / 2)[:, None] - (start_s + span_s / 2)[None, :])
    foreign = windows.client[:, None] != client[None, :]
    cost = away + np.where(foreign, 1e12, 0.0) + np.where(foreign, np.abs(windows.client[:, None] - client), 0) * 1e6
    law = np.argmin(cost, axis=1)
    own = ~foreign[np.arange(len(law)), law] & (away[np.arange(len(law)), law] <= span_s / 2)
    return law.astype(np.int64), own


def _span(start_s: Floats) -> float:
    starts = np.unique(start_s)
    return float(np.diff(starts).min()) if len(starts) > 1 else 6 * 3600.0
