"""Errors of priced kernels as a table, and why rows had no price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apexsim.calibration.report import Line
from apexsim.report.tables import UNDEFINED, Table


def error_table(lines: Iterable[Line]) -> Table:
    """One row a line: how many rows were priced and skipped, and their errors."""
    header = ("table", "device", "dtype", "rows", "skipped", "median", "p90", "worst")
    return Table("Errors of kernel prices, |predicted / measured - 1|", header, tuple(map(_row, lines)),
                 prose=frozenset(("device", "dtype")), whole=frozenset(("table", "device")))  # fmt: skip


def _row(line: Line) -> tuple[str, ...]:
    errors = (line.median_abs_error, line.p90_abs_error, line.worst_abs_error)
    dtype = line.dtype if line.calibrated else f"{line.dtype} (analytic)"
    return (line.table, line.system, dtype, f"{line.n:,}", f"{line.skipped:,}", *map(_percent, errors))


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{100 * value:.1f} %"


def reasons(lines: Iterable[Line]) -> list[str]:
    """One line a table, device and reason."""
    found: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        for reason, rows in line.reasons:
            found[line.table, line.system, reason] += rows
    return [f"{table}, {system}: {rows:,} rows skipped: {why}" for (table, system, why), rows in sorted(found.items())]
