"""What an importer is: one class a kind of result file, recognised by its content.

To add one: a file beside this one, a line in ``registry.SEAMS["importers"]`` (or an entry point
``apexsim.importers``); ``apexsim.testing.importer`` then tests it without being told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apexsim.errors import InputError
from apexsim.workload.trace import Floats, Ints

MS = 1e-3
"""Seconds of a millisecond, the unit of most tools."""


@dataclass(frozen=True)
class MeasuredRequests:
    """Requests that were measured one by one, in the order in which they were sent. Latencies NaN where unknown.

    Attributes:
        arrival_s: since the first one; all 0 where the tool did not keep it.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True)
class ImportedRun:
    """One run of a result file.

    Attributes:
        cells: column of ``runs.csv`` -> value, SI units.
        label: what tells runs of one file apart; empty where a file holds one.
        requests: each request, where the file has them all.
        notes: what the file does not say, or says otherwise than this format.
    """

    cells: Mapping[str, Any]
    label: str = ""
    requests: MeasuredRequests | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


class Importer(Protocol):
    """A reader of one kind of result file. It has no state.

    Attributes:
        name: what the registry calls it, and what ``--format`` takes.
        about: which tool writes such files.
        needs: columns that no such file says and that must be given, without an honest default.
    """

    name: str
    about: str
    needs: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Whether a file with this content is of this kind. Must be true for one kind only."""

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        """The runs of a file.

        Args:
            path: where the file lies, for files beside it.

        Raises:
            InputError: the file is truncated, or no request of it succeeded.
        """

    def example(self) -> Mapping[str, str]:
        """A small result of the tool: file name → text. The first one is the file, others lie beside it."""


def json_object(text: str) -> dict[str, Any] | None:
    """The object that a JSON text holds; None where it is no JSON object."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def number(value: Any) -> float | None:
    """A finite number; None for anything else (text, null, NaN, "inf")."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if np.isfinite(value) else None


def seconds(value: Any, unit_s: float = MS) -> float | None:
    """A positive number of ``unit_s`` as seconds; None where it is none."""
    found = number(value)
    return None if found is None or found <= 0 else found * unit_s


def measured_seconds(path: Path, key: str, value: Any, unit_s: float = MS) -> float | None:
    """A measured time as seconds; None where nothing was measured (null, NaN, 0: a tool's word for it).

    Raises:
        InputError: text, or a time below 0.
    """
    found = number(value)
    if isinstance(value, str) or (found is not None and found < 0):
        raise InputError(f"{path}: {key} = {value!r} (allowed: a number, 0 or more, or null)")
    return seconds(value, unit_s)


def known(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that are not None."""
    return {column: value for column, value in cells.items() if value is not None}


def found_in(data: Any, *names: str) -> Any:
    """The first value, breadth first, that a nested structure holds under one of the names; None where none does."""
    layer = [data]
    while layer:
        below: list[Any] = []
        for item in layer:
            if isinstance(item, Mapping):
                for name in names:
                    if item.get(name) is not None:
                        return item[name]
                below += item.values()
            elif isinstance(item, list):
                below += item
        layer = below
    return None


def requests_of(
    path: Path, arrival_s: Iterable[float], inputs: Iterable[float], outputs: Iterable[float],
    ttft_s: Iterable[float], e2e_s: Iterable[float],
) -> MeasuredRequests | None:  # fmt: skip
    """Requests in the order of their arrival, TPOT = (E2E − TTFT)/(output tokens − 1); None where there is none.

    Those without a prompt or an answer (failed ones) are left out.

    Raises:
        InputError: the columns differ in length.
    """
    numbers = [list(column) for column in (arrival_s, inputs, outputs, ttft_s, e2e_s)]
    lengths = sorted({len(column) for column in numbers})
    if len(lengths) > 1:
        raise InputError(f"{path}: lists of {lengths} requests (allowed: one length)")
    columns = [np.asarray(column, np.float64) for column in numbers]
    arrival, given, taken, ttft, e2e = columns
    served = (given >= 1) & (taken >= 1)
    if not served.any():
        return None
    order = np.flatnonzero(served)[np.argsort(arrival[served], kind="stable")]
    gaps = np.maximum(taken[order] - 1, 1)
    tpot = np.where(taken[order] > 1, (e2e[order] - ttft[order]) / gaps, np.nan)
    return MeasuredRequests(
        arrival[order] - arrival[order[0]], given[order].astype(np.int64), taken[order].astype(np.int64), ttft[order],
        tpot, e2e[order],
    )  # fmt: skip


def lengths_of(requests: MeasuredRequests) -> dict[str, Any]:
    """The cells that say how long prompts and answers were."""
    inputs, outputs = requests.input_tokens, requests.output_tokens
    return {
        "requests": len(requests), "input_tokens": float(inputs.mean()), "output_tokens": float(outputs.mean()),
        "fixed_lengths": bool((inputs == inputs[0]).all() and (outputs == outputs[0]).all()),
    }  # fmt: skip


def latencies_of(requests: MeasuredRequests) -> dict[str, Any]:
    """Mean and percentiles of each latency, over the requests that have it."""
    cells: dict[str, Any] = {}
    for metric in ("ttft", "tpot", "e2e"):
        values = getattr(requests, f"{metric}_s")
        values = values[np.isfinite(values) & (values > 0)]
        if len(values):
            cells[f"{metric}_mean_s"] = float(values.mean())
            cells |= {f"{metric}_p{p}_s": float(np.percentile(values, p)) for p in (50, 90, 95, 99)}
    return cells
