"""A path, or the name of a bundled trace, to a ``Trace``: recognised by its header, cached as Parquet."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from apexsim import registry
from apexsim.errors import InputError
from apexsim.workload import cache
from apexsim.workload.bundled import bundled_names, bundled_trace
from apexsim.workload.formats.base import TraceFormat, columns_of
from apexsim.workload.formats.cells import trace_name
from apexsim.workload.formats.source import header
from apexsim.workload.trace import Trace


def read_trace(path: str | Path, format: str | None = None) -> Trace:
    """The requests of a trace file.

    Args:
        path: a file (``.gz`` is seen through), or the name of a bundled trace such as ``burstgpt-day``.
        format: a name of ``apexsim list formats``; where None, the header of the file decides.

    Raises:
        InputError: no such file, an unknown header, or a cell that says something impossible.
        UsageError: nobody registered ``format``.
    """
    file = _locate(path)
    reader = _load(format) if format else recognise(file)
    if not reader.is_log:
        return reader.read(file)
    trace = cache.load(file, reader.name)
    if trace is None:
        trace = reader.read(file)
        cache.store(file, reader.name, trace)
        return trace
    # The entry may have been made under another spelling of the path.
    return trace.with_columns(name=trace_name(file), source=f"{file} ({reader.name})")


def recognise(path: Path) -> TraceFormat:
    """The one format that knows the header of this file.

    Raises:
        InputError: no format knows it, or more than one does.
    """
    line = header(path)
    known = [_load(name) for name in registry.names("formats")]
    matching = [reader for reader in known if reader.matches(line, path)]
    if len(matching) == 1:
        return matching[0]
    if not line:
        raise InputError(f"{path}: the trace is empty (at least a header and one request are needed)")
    if matching:
        names = ", ".join(reader.name for reader in matching)
        raise InputError(f"{path}: several formats know this header ({names}): say which with the format")
    shown = line if len(line) <= 80 else line[:80] + "…"
    raise InputError(f"{path}: header {shown!r} is of no known trace format{_nearly(line, path, known)}")


def _nearly(line: str, path: Path, known: list[TraceFormat]) -> str:
    """What would make the header one of a known format: the column that it lacks; else the names of all."""
    present = set(columns_of(line)) | {key.lower() for key in re.findall(r'"([^"]*)"', line)}
    for reader in known:
        names = [name.strip() for name in re.findall(r"[A-Za-z][\w ]*", reader.header)]
        if not present.intersection(name.lower() for name in names):
            continue
        for name in names:
            if reader.matches(f'{line},"{name}"', path):
                return f": column {name!r} is missing for {reader.name} ({reader.header})"
    return f" (known: {', '.join(reader.name for reader in known)}; `apexsim list formats` describes them)"


def _locate(path: str | Path) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    if file.exists() and not file.is_dir():
        raise InputError(f"{file}: not a regular file (allowed: a trace file, or one of {', '.join(bundled_names())})")
    if file.is_dir():
        raise InputError(f"{file}: is a folder (allowed: a trace file, or one of {', '.join(bundled_names())})")
    if len(file.parts) == 1 and str(path) in bundled_names():
        return bundled_trace(str(path))
    nearest = difflib.get_close_matches(file.name, _neighbours(file), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(f"{file}: no such file{hint} (allowed: a trace file, or one of {', '.join(bundled_names())})")


def _neighbours(file: Path) -> list[str]:
    beside = [str(other.name) for other in file.parent.iterdir()] if file.parent.is_dir() else []
    return [*beside, *bundled_names()]


def _load(name: str) -> TraceFormat:
    reader: TraceFormat = registry.load("formats", name)()
    return reader
