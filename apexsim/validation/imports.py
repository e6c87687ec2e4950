"""A result file to a validation set: recognised, read, written as rows of ``runs.csv`` with their requests beside."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apexsim import registry
from apexsim.errors import InputError, UsageError
from apexsim.spec.base import read_text
from apexsim.spec.files import write_atomically
from apexsim.validation.case import Skipped, make_case
from apexsim.validation.columns import COLUMNS, read_cell
from apexsim.validation.importers.base import ImportedRun, Importer, MeasuredRequests, json_object
from apexsim.validation.sets import TABLE, read_table
from apexsim.workload.trace import Trace
from apexsim.workload.write import write_trace

FIRST_COLUMNS = (
    "run", "source", "model", "device", "devices", "tp", "pp", "dp", "ep", "engine", "engine_version", "load"
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What an import left in a folder.

    Attributes:
        runs: names of the new rows.
        files: everything that was written; the table last.
        missing: name of a row that cannot be simulated yet -> the reason.
    """

    runs: tuple[str, ...]
    files: tuple[Path, ...]
    missing: Mapping[str, str]


def importer(path: Path, text: str, name: str | None = None) -> Importer:
    """The importer of that name, or the one that knows the file's content.

    Raises:
        UsageError: nobody registered the name. InputError: no importer knows the content.
    """
    if name is not None:
        chosen: Importer = registry.load("importers", name)()
        return chosen
    every: list[Importer] = [registry.load("importers", other)() for other in registry.names("importers")]
    matching = [one for one in every if one.matches(text)]
    if len(matching) == 1:
        return matching[0]
    if text.lstrip().startswith("{") and json_object(text) is None and "\n{" not in text:
        raise InputError(f"{path}: not valid JSON (truncated?)")
    known = "; ".join(f"{one.name}: {one.about}" for one in every)
    raise InputError(f"{path}: the content is of no known result file (known: {known})")


def import_file(
    path: Path | str,
    folder: Path | str,
    *,
    name: str | None = None,
    format: str | None = None,
    cells: Mapping[str, str] | None = None,
) -> Written:
    """Add the runs of a result file to a validation set, which is made where it is not there.

    Args:
        name: of the run; the file's where None.
        format: a name of the registry; where None, the content decides.
        cells: column -> text that the file does not say, or says wrongly: model, device, tp, …

    Raises:
        InputError: the file cannot be read. UsageError: a column, a value or a name that cannot be.
    """
    path, folder = Path(path), Path(folder)
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    reader = importer(path, text, format)
    if not reader.matches(text):
        raise InputError(f"{path}: the content is not that of {reader.name} ({reader.about})")
    given = _checked(cells or {})
    missing = [column for column in reader.needs if column not in given]
    if missing:
        raise UsageError(f"{path}: no {reader.name} file says {missing[0]}: give it with --set {missing[0]}=…")
    runs = _read(reader, path, text)
    rows = [_row(run, name or path.stem, given, f"{path.name} ({reader.name})") for run in runs]
    return _write(folder, rows, runs)


def _read(reader: Importer, path: Path, text: str) -> list[ImportedRun]:
    """The runs; a file of another shape than its tool writes is the file's mistake, not ours."""
    try:
        return reader.read(path, text)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        shown = " ".join(str(problem).split())
        raise InputError(f"{path}: not shaped as {reader.about}: {type(problem).__name__}: {shown}") from None


def _checked(cells: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for column, text in cells.items():
        if column not in COLUMNS:
            raise UsageError(f"--set {column}: no such column (allowed: {', '.join(COLUMNS)})")
        try:
            found[column] = read_cell(column, text)
        except ValueError as problem:
            raise UsageError(f"--set {column}: {column} is {problem}") from None
    return found


def _row(run: ImportedRun, name: str, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    row = {"run": f"{name}-{run.label}" if run.label else name, "source": source, **run.cells}
    if row.get("engine") not in ("vllm", "sglang", "tensorrt-llm"):
        row.pop("engine", None)  # a backend such as "openai" is a protocol
    if run.notes:
        row["notes"] = "; ".join(run.notes)
    row |= given
    if run.requests is not None:
        row["trace"] = f"{_file_name(row['run'])}.csv"
    return row


def _file_name(run: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in run)


def _write(folder: Path, rows: list[dict[str, Any]], runs: list[ImportedRun]) -> Written:
    """Requests first, the table last: a table never names a file that is not there."""
    before = _existing(folder)
    taken = {row["run"] for row in before}
    for row in rows:
        if row["run"] in taken:
            raise UsageError(f"{folder / TABLE} has a run {row['run']!r} already (allowed: another name)")
    files = []
    for row, run in zip(rows, runs, strict=True):
        if run.requests is not None:
            files += _write_requests(folder, str(row["trace"]), str(row["run"]), run.requests)
    write_atomically(folder / TABLE, _table([*before, *rows]))
    table = read_table(folder / TABLE)
    new = {str(row["run"]) for row in rows}
    cases = [make_case(row, table, {}) for row in table.rows if row.name in new]
    missing = {case.run: case.reason for case in cases if isinstance(case, Skipped)}
    return Written(tuple(str(row["run"]) for row in rows), (*files, folder / TABLE), missing)


def _existing(folder: Path) -> list[dict[str, Any]]:
    if not (folder / TABLE).is_file():
        return []
    read_table(folder / TABLE)  # a table that is wrong is not made longer
    with io.StringIO(read_text(folder / TABLE).removeprefix("\ufeff"), newline="") as file:
        return [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(file)]


def _table(rows: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    header = [name for name in FIRST_COLUMNS if name in names]
    header += [name for name in names if name not in header and name != "notes"]
    header += ["notes"] if "notes" in names else []
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _write_requests(folder: Path, trace: str, run: str, requests: MeasuredRequests) -> list[Path]:
    path = folder / "traces" / trace
    write_trace(Trace(run, requests.arrival_s, requests.input_tokens, requests.output_tokens), path)
    columns = {name: getattr(requests, name) for name in ("ttft_s", "tpot_s", "e2e_s")}
    measured = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if not measured:
        return [path]
    lines = [",".join(("request", *measured))]
    for i in range(len(requests)):
        cells = (f"{values[i]:.9g}" if np.isfinite(values[i]) else "" for values in measured.values())
        lines.append(",".join((str(i), *cells)))
    beside = folder / "requests" / trace
    write_atomically(beside, "\n".join(lines) + "\n")
    return [path, beside]
