"""The loop of ``apexsim calibrate run``: time every case that the journal does not hold yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apexsim.calibration.microbench.cases import Case
from apexsim.calibration.microbench.journal import Journal
from apexsim.calibration.microbench.machine import CannotRun, Machine
from apexsim.calibration.microbench.timing import Effort, Timing, time_case

FORMAT = 1
"""Of the journal; another one starts anew."""

MEMORY_SHARE = 0.5
"""Operands of one case may take this much of the free memory."""


@dataclass(frozen=True)
class Progress:
    """Where the loop is."""

    done: int
    total: int
    case: Case | None  # the last one that was timed


@dataclass(frozen=True)
class Outcome:
    """What the loop has left in the journal, earlier runs included."""

    measured: int
    skipped: int
    total: int
    ended: str  # all | budget | interrupted
    wall_s: float

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it."""
        return self.ended == "interrupted"


def heading(machine: Machine, seed: int) -> dict[str, Any]:
    """What a folder's journal begins with: no run goes on where any of it differs."""
    return {
        "format": FORMAT, "machine": machine.environment.identity, "dtypes": list(machine.limits.dtypes), "seed": seed,
    }  # fmt: skip


def measure(
    machine: Machine, cases: Sequence[Case], folder: Path, *, seed: int = 0, passes: int = 1,
    budget_s: float | None = None, effort: Effort | None = None, clock: Callable[[], float] = time.monotonic,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Time ``cases`` in their order, ``passes`` times, each result into the journal at once.

    Args:
        passes: rounds over all cases; more of them average over a machine that others use, too.
        budget_s: seconds after which no new case begins; None = until all are done.

    Raises:
        UsageError: the folder holds times of another machine, or cannot be written.
    """
    began = clock()
    with Journal(folder, heading(machine, seed)) as journal:
        known = {(entry["case"], entry["pass"]): entry for entry in journal.entries}
        wanted = [(case, turn) for turn in range(passes) for case in cases]
        total, ended = len(wanted), "all"
        done = sum((case.key, turn) in known for case, turn in wanted)
        on_progress(Progress(done, total, None))
        try:
            for case, turn in wanted:
                if (case.key, turn) in known:
                    continue
                if budget_s is not None and clock() - began >= budget_s:
                    ended = "budget"
                    break
                entry = _entry(machine, case, turn, effort or Effort())
                journal.write(entry)
                known[case.key, turn] = entry
                done += 1
                on_progress(Progress(done, total, case))
        except KeyboardInterrupt:
            ended = "interrupted"
    mine = [known[case.key, turn] for case, turn in wanted if (case.key, turn) in known]
    skipped = sum("skipped" in entry for entry in mine)
    return Outcome(len(mine) - skipped, skipped, total, ended, clock() - began)


def _entry(machine: Machine, case: Case, turn: int, effort: Effort) -> dict[str, Any]:
    """The journal's line of one case: its time, or why it has none."""
    line: dict[str, Any] = {
        "case": case.key, "pass": turn, "table": case.table, "columns": dict(case.columns),
    }  # fmt: skip
    free = machine.free_bytes()
    if case.held > MEMORY_SHARE * free:
        return line | {"skipped": f"operands of {case.held:.3g} bytes, {free:.3g} are free"}
    try:
        return line | _plain(time_case(machine, machine.kernel(case), effort))
    except CannotRun as reason:
        return line | {"skipped": " ".join(str(reason).split())[:200]}


def _plain(timing: Timing) -> dict[str, Any]:
    return asdict(timing) | {"noisy": timing.noisy}
