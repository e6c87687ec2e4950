"""``apexsim calibrate run``: measure, keep the tables, and make a device of them.

    FOLDER/journal.jsonl         one line a timed case
    FOLDER/environment.json      the machine, as found
    FOLDER/tables/*.parquet      measured kernels
    FOLDER/NAME/                 the device: profile.yaml and kernels/*.json; a plan names it by this path
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from apexsim.calibration.fit import fit_profile, write_fits
from apexsim.calibration.microbench import journal
from apexsim.calibration.microbench.cases import FAMILIES, draw
from apexsim.calibration.microbench.machine import Machine
from apexsim.calibration.microbench.measure import Outcome, Progress, measure
from apexsim.calibration.microbench.profile import default_name, slug, write_profile
from apexsim.calibration.microbench.tables import TABLES, tables_of, write_tables
from apexsim.calibration.microbench.timing import Effort
from apexsim.cost.coefficients import KernelFile
from apexsim.spec.files import write_atomically


@dataclass(frozen=True)
class Request:
    """What a run shall measure, and where it goes."""

    folder: Path
    name: str | None = None  # of the device; its product name where None
    families: Sequence[str] = tuple(FAMILIES)
    passes: int = 1
    budget_s: float | None = None
    seed: int = 0
    measured: date | None = None  # that the files carry; today where None


@dataclass(frozen=True)
class Calibrated:
    """What a run left behind. ``device`` is None where it was interrupted or too little was measured."""

    outcome: Outcome
    tables: tuple[Path, ...]
    device: Path | None
    files: tuple[KernelFile, ...]
    fit_s: float


def calibrate(
    machine: Machine, request: Request, *, effort: Effort | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Calibrated:
    """Measure what the folder lacks, then write its tables and its device; an interrupted run writes no device.

    Raises:
        UsageError: an unknown family, a folder of another machine, or one that cannot be written.
    """
    cases = draw(request.families, machine.limits, request.seed)
    outcome = measure(
        machine, cases, request.folder, seed=request.seed, passes=request.passes, budget_s=request.budget_s,
        effort=effort, on_progress=on_progress,
    )
    environment = machine.environment
    name = slug(request.name) if request.name else default_name(environment)
    write_atomically(request.folder / "environment.json", json.dumps(asdict(environment), indent=1) + "\n")
    tables = tables_of(journal.read(request.folder), name, environment.versions["torch"])
    paths = tuple(write_tables(tables, request.folder / TABLES))
    if outcome.interrupted or not {"gemm", "memory"} <= set(tables):
        return Calibrated(outcome, paths, None, (), 0.0)
    began = time.monotonic()
    day, device = request.measured or date.today(), request.folder / name
    profile = write_profile(tables, environment, device, day)
    files = fit_profile(request.folder / TABLES, profile, day.isoformat())
    write_fits(files, device / "kernels")
    return Calibrated(outcome, paths, device, files, time.monotonic() - began)
