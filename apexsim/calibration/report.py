"""Prices of the committed profiles beside measured kernels, row by row: ``apexsim calibrate report``.

A folder holds Parquet tables in the format of the published kernel database, any subset of them. Each family says how
its tables are priced (``families/family.py``): by the kernel models that serving steps are priced with, without
fitting anything. What cannot be priced is counted with its reason. One device is read at a time, so that memory
stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.families import TABLES as TIMED
from apexsim.calibration.families.family import Columns, Floats, Table, Verdict
from apexsim.calibration.power.prices import TABLES as METERED
from apexsim.calibration.power.prices import held_out as power_held_out
from apexsim.calibration.regression import error_summary
from apexsim.calibration.rows import SYSTEMS, read_table
from apexsim.cost.coefficients import load
from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.hardware import HardwareProfile

TABLES: dict[str, Table] = {**TIMED, **METERED}
"""Every table that can be priced: seconds of kernels, and watts."""


@dataclass(frozen=True)
class Line:
    """Errors of one table on one device in one dtype; relative, 0.05 = 5 %, and None where nothing was priced."""

    table: str
    system: str
    dtype: str
    n: int
    skipped: int
    median_abs_error: float | None
    p90_abs_error: float | None
    worst_abs_error: float | None
    bias: float | None = None  # median of the signed errors
    reasons: tuple[tuple[str, int], ...] = ()  # why rows were skipped, and how many
    calibrated: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``--json``."""
        return {
            "table": self.table, "system": self.system, "dtype": self.dtype, "n": self.n, "skipped": self.skipped,
            "median_abs_error": self.median_abs_error, "p90_abs_error": self.p90_abs_error,
            "worst_abs_error": self.worst_abs_error, "bias": self.bias, "reasons": dict(self.reasons),
            "calibrated": self.calibrated,
        }  # fmt: skip


def price_folder(folder: Path, device: str | None = None) -> tuple[Line, ...]:
    """Errors on every row of the tables in ``folder``, one line a table, device and dtype.

    Args:
        device: only rows of this profile.

    Raises:
        InputError: no such folder, no tables in it, or one that cannot be read or lacks a column.
        UsageError: nobody knows the device.
    """
    only = None if device is None else SYSTEMS.get(catalog.device(device).name, device)
    paths = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: holds no Parquet tables (known: {', '.join(sorted(TABLES))})")
    return tuple(line for path in paths for line in _table_lines(path, only))


def _table_lines(path: Path, only: str | None) -> Iterator[Line]:
    table = TABLES.get(path.stem)
    systems = Counter(read_table(path, ("system",), {})["system"].to_pylist())
    for system in sorted(systems, key=str):
        if only is not None and system != only:
            continue
        profile = _profile(str(system))
        if table is None:
            yield _line(path.stem, str(system), "", [], Counter({"no such table": systems[system]}))
        elif profile is None:
            yield _line(path.stem, str(system), "", [], Counter({"no profile of this device": systems[system]}))
        else:
            yield from _priced(path, table, str(system), profile)


def _profile(system: str) -> HardwareProfile | None:
    """By the tables' own word for a device, or by its profile's name."""
    name = next((device for device, word in SYSTEMS.items() if word == system), system)
    return catalog.device(name) if name in catalog.device_names() else None


def _priced(path: Path, table: Table, system: str, profile: HardwareProfile) -> Iterator[Line]:
    columns = _columns(path, table, system)
    usable = _usable(columns, table)
    bad = int((~usable).sum())
    if bad:
        yield _line(path.stem, system, "", [], Counter({"a size or the time is missing or not positive": bad}))
    if not usable.any():
        return
    verdicts: dict[str, list[Verdict]] = {}
    for verdict in table.price({name: column[usable] for name, column in columns.items()}, profile):
        verdicts.setdefault(verdict.dtype, []).append(verdict)
    for dtype in sorted(verdicts):
        skipped: Counter[str] = Counter()
        for verdict in verdicts[dtype]:
            skipped.update(verdict.skipped)
        yield _line(path.stem, system, dtype, verdicts[dtype], skipped)


def _line(table: str, system: str, dtype: str, verdicts: list[Verdict], skipped: Counter[str]) -> Line:
    predicted, measured = (
        np.concatenate([getattr(verdict, name) for verdict in verdicts] or [np.empty(0)])
        for name in ("predicted", "measured")
    )
    reasons = tuple(skipped.most_common())
    if predicted.size == 0:
        return Line(table, system, dtype, 0, skipped.total(), None, None, None, None, reasons)
    found = error_summary(predicted, measured)
    return Line(
        table, system, dtype, predicted.size, skipped.total(), found["median"], found["p90"], found["worst"],
        found["bias"], reasons, all(verdict.calibrated for verdict in verdicts if verdict.predicted.size),
    )  # fmt: skip


def _columns(path: Path, table: Table, system: str) -> Columns:
    """What the table's prices need: words as strings, "" where one is missing, and numbers as float64."""
    rows = read_table(path, (*table.words, *table.numbers), {"system": system})
    words = {name: _words(path, name, rows[name]) for name in table.words}
    return words | {name: _numbers(path, name, rows[name]) for name in table.numbers}


def _words(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise InputError(f"{path}: column {name!r} holds {kind} (allowed: text)")
    return np.array([word or "" for word in column.to_pylist()], dtype=object)


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> Floats:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{path}: column {name!r} holds {column.type} (allowed: numbers)")
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)


def _usable(columns: Columns, table: Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows = next(iter(columns.values())).size
    usable = np.ones(rows, dtype=np.bool_)
    for name in table.numbers:
        column = columns[name].astype(np.float64)
        usable &= np.isfinite(column) & ((column > 0) | ((column == 0) & (name in table.may_be_zero)))
    return usable


def held_out_lines(device: str | None = None) -> tuple[Line, ...]:
    """The errors that the committed files of all devices, or of one, carry: on shapes that their fits had not seen."""
    names = catalog.device_names() if device is None else (catalog.device(device).name,)
    return tuple(line for name in names for line in _held_out(catalog.device(name)))


def _held_out(profile: HardwareProfile) -> Iterator[Line]:
    folder = catalog.profile_folder(profile.name) / "kernels"
    system = SYSTEMS.get(profile.name, profile.name)
    for name in profile.kernels:
        if name.partition(".")[0] not in FAMILIES:
            continue
        file = load(folder / f"{name}.json")
        for fit in file.fits:
            error, told = fit.held_out, f" {fit.label}" if fit.label else ""
            variant = f" {fit.variant}{' windowed' if fit.windowed else ''}" if fit.variant else ""
            yield Line(
                file.operator, system, f"{file.dtype} {file.engine}{variant}{told}", int(error["n"]), 0,
                error["median"], error["p90"], error["worst"], error["bias"],
            )
    for operator, dtype, error in power_held_out(profile):
        yield Line(operator, system, dtype, int(error["n"]), 0, error["median"], error["p90"], error["worst"],
                   error["bias"])  # fmt: skip
