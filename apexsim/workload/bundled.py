"""The traces that come with apexsim, by name."""

from __future__ import annotations

from pathlib import Path

from apexsim.errors import InputError, unknown_name
from apexsim.spec.catalog import data_root
from apexsim.workload.formats.cells import trace_name

ENDINGS = (".parquet", ".csv.gz", ".csv")


def folder() -> Path:
    """``traces/`` of the checkout, or of the wheel."""
    return data_root() / "traces"


def bundled_names() -> tuple[str, ...]:
    """Names of the traces that come with apexsim, sorted."""
    return tuple(sorted({trace_name(file) for file in folder().glob("*") if file.name.endswith(ENDINGS)}))


def bundled_trace(name: str) -> Path:
    """Where a bundled trace lies.

    Raises:
        InputError: there is none of this name.
    """
    for ending in ENDINGS:
        if (folder() / f"{name}{ending}").is_file():
            return folder() / f"{name}{ending}"
    raise InputError(unknown_name("bundled trace", name, bundled_names()))
