"""How a run was loaded, as the trace that the engine serves."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apexsim.errors import InputError
from apexsim.spec.plan import Plan
from apexsim.validation import lengths
from apexsim.validation.columns import Row
from apexsim.validation.lengths import Asked
from apexsim.validation.stated import CannotSimulate, Known
from apexsim.workload.limits import MOST_REQUESTS
from apexsim.workload.read import read_trace
from apexsim.workload.synthetic import renewal
from apexsim.workload.trace import Trace

WAVES = 10
"""Requests of a run that does not say how many: so many times those that run at once."""

RATE_SECONDS, FEWEST, MOST = 600.0, 200, 20_000
"""A rate without a number of requests is offered for so long, within these numbers of requests."""

LOOSE_LENGTHS = 0.98
"""Lengths of a closed loop, from this share of the nominal ones up. Requests of exactly one length that start together
end together, and so start together again for ever; tokenisers, stop strings and clients spare real runs that."""

BLOCK_TOKENS = 16
"""A prefix cache keeps whole blocks of this many tokens."""


@dataclass(frozen=True)
class Load:
    """A load without its requests, which ``requests_of`` draws: a set of thousand rows stays small.

    Attributes:
        kind: one of ``columns.LOADS``.
        requests: how many there are; None = as the trace file has.
        concurrency: requests in flight of a closed loop.
        trace: file of the requests, or of their lengths.
        rate_rps, burstiness_cv: arrivals of a rate.
        lengths: of the requests, where no file lists them.
        hit_share: share of each prompt that the prefix cache holds.
    """

    kind: str
    requests: int | None = None
    concurrency: int | None = None
    trace: Path | None = None
    rate_rps: float | None = None
    burstiness_cv: float = 1.0
    lengths: Asked | None = None
    hit_share: float = 0.0


def load_of(known: Known, folder: Path, plan: Plan) -> Load:
    """The load of a row.

    Raises:
        CannotSimulate: something is not known that has no honest default.
        InputError: a file is not there.
    """
    kind = known.get("load")
    if kind is None:
        raise CannotSimulate("column 'load' is empty: nobody knows how the run was loaded")
    trace = _trace_file(known.row, folder)
    if kind == "trace":
        if trace is None:
            raise CannotSimulate("column 'trace' is empty: a run with load 'trace' needs it")
        return Load(kind, trace=trace)
    asked = None if trace else _asked(known, kind, folder)
    concurrency = int(known.need("concurrency", kind)) if kind == "concurrency" else None
    rate = float(known.need("rate_rps", kind)) if kind == "rate" else None
    load = Load(
        kind, requests=None if trace else _requests(known, kind, plan, concurrency, rate), concurrency=concurrency,
        trace=trace, rate_rps=rate, lengths=asked, hit_share=_hit_share(known, plan),
        burstiness_cv=float(known.default("burstiness_cv", 1.0)) if kind == "rate" else 1.0,
    )  # fmt: skip
    if load.requests is not None and load.requests > MOST_REQUESTS:
        raise CannotSimulate(f"{load.requests} requests are more than the {MOST_REQUESTS:,} that fit in memory")
    return load


def _requests(known: Known, kind: str, plan: Plan, concurrency: int | None, rate: float | None) -> int:
    if kind == "static":
        return int(known.default("batch_size", 1))
    if concurrency is not None:
        return int(known.default("requests", WAVES * concurrency, f"{WAVES} x concurrency"))
    if rate is not None:
        count = int(min(max(rate * RATE_SECONDS, FEWEST), MOST))
        return int(known.default("requests", count, f"{count / rate:.0f} s of the rate"))
    pool = plan.pools[-1]  # that decodes, of several
    at_once = (pool.scheduler.max_num_seqs or 1) * pool.replicas * pool.dp
    return int(known.default("requests", WAVES * at_once, f"{WAVES} x max_num_seqs of all engines"))


def _asked(known: Known, kind: str, folder: Path) -> Asked:
    """The lengths of the row; a file that a cell names and that is not there fails here, before any run."""
    inputs, outputs = (float(known.need(column, kind)) for column in ("input_tokens", "output_tokens"))
    if known.default("fixed_lengths", True):
        # anyone means fixed by fixed, but for a loop
        loose, silent = (LOOSE_LENGTHS, False) if kind == "concurrency" else (1.0, True)
        ratio = float(known.default("length_range_ratio", loose, "closed loop", silent=silent))
        return Asked(inputs, outputs, fixed=True, range_ratio=ratio)
    asked = Asked(inputs, outputs, fixed=False, repeats=int(known.default("prompt_repeats", 1, silent=True)))
    for text in lengths.draw(known.row, folder, asked, asked.repeats, None, 0).assumed:
        known.assume(text)
    return asked


def _hit_share(known: Known, plan: Plan) -> float:
    if not plan.pools[0].scheduler.prefix_caching:
        return 0.0
    return float(known.default("prefix_hit_share", 0.0, silent=True))


def _trace_file(row: Row, folder: Path) -> Path | None:
    name: str | None = row.get("trace")
    if name is None:
        return None
    for path in (folder / "traces" / name, folder / name):
        if path.is_file():
            return path
    raise InputError(f"{row.where('trace')} is {name!r}: no such file in {folder / 'traces'}")


def requests_of(load: Load, row: Row, folder: Path, longest: int | None) -> Trace:
    """The requests that the engine is offered; the same for the same row, wherever it is drawn.

    Args:
        longest: prompt and answer together that the engine takes.
    """
    seed = zlib.crc32(row.name.encode())
    if load.trace is not None:
        return _at(load, read_trace(load.trace), seed)
    assert load.requests is not None
    assert load.lengths is not None
    drawn = lengths.draw(row, folder, load.lengths, load.requests, longest, seed)
    shared = None
    if load.hit_share > 0:
        # the last token of a prompt is always computed, and only whole blocks are found
        shared = np.minimum(load.hit_share * drawn.inputs, drawn.inputs - 1).astype(np.int64)
        shared = shared // BLOCK_TOKENS * BLOCK_TOKENS
    trace = Trace(
        row.name, np.zeros(load.requests), drawn.inputs, drawn.outputs, shared_prefix_tokens=shared,
        source=f"{row.file}: row {row.number}",
    )  # fmt: skip
    return _at(load, trace, seed)


def _at(load: Load, trace: Trace, seed: int) -> Trace:
    """The trace's own arrivals, those of the rate, or all at once."""
    if load.kind == "trace":
        return trace
    if load.rate_rps is None:
        return trace.with_columns(arrival_s=np.zeros(len(trace)))
    rng = np.random.default_rng(seed + 1)
    return trace.with_columns(arrival_s=renewal(load.rate_rps, load.burstiness_cv, len(trace), rng))
