"""Sets of runs, simulated in local processes: the same figures whatever the number of workers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from apexsim.errors import InputError, UsageError, unknown_name
from apexsim.validation.case import Case, Skipped, read_set
from apexsim.validation.columns import COLUMNS, is_metric, read_cell
from apexsim.validation.order import PlanOrder, plan_orders
from apexsim.validation.sets import Found, RunTable, find_sets
from apexsim.validation.simulate import Outcome, simulate_case

CHUNK = 16
"""Rows that a worker takes at once; rows of one plan go together, so that it is compiled once."""

OnProgress = Callable[[int, int], None]
"""Called with the rows that are done, and all of them."""


@dataclass(frozen=True)
class Validation:
    """Every row of some sets, measured against simulated.

    Attributes:
        outcomes: in the order of sets and rows.
        orders: whether plans are put in their measured order, load by load; none that is a guess.
        no_sets: folders beside the sets that hold no table of runs.
    """

    outcomes: tuple[Outcome, ...]
    orders: tuple[PlanOrder, ...]
    no_sets: tuple[str, ...] = ()

    @property
    def simulated(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.skipped is None)

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.skipped is not None)

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(outcome.set for outcome in self.outcomes))

    @property
    def groups(self) -> dict[str, tuple[Outcome, ...]]:
        """Name of each set -> its simulated rows; after it, those of them that rest on a guess, by what was taken."""
        found: dict[str, tuple[Outcome, ...]] = {}
        for name in self.sets:
            simulated = tuple(outcome for outcome in self.of(name) if outcome.skipped is None)
            found[name] = simulated
            for guess in dict.fromkeys(guess for outcome in simulated for guess in outcome.guessed):
                mine = tuple(outcome for outcome in simulated if guess in outcome.guessed)
                found[f"of {name}: {guess}, a guess"] = mine
        return found

    def of(self, set_name: str) -> tuple[Outcome, ...]:
        """The rows of one set."""
        return tuple(outcome for outcome in self.outcomes if outcome.set == set_name)


def validate_folder(
    folder: Path | str,
    *,
    only: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    assume: Mapping[str, str] | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Validation:
    """Simulate every run of a set, or of a folder of sets.

    Args:
        only: names of the sets to take; all where empty.
        where: column -> value that a row must have.
        assume: column -> value for empty cells, before any default.
        workers: processes; all processors where None.

    Raises:
        InputError: a table or a file beside it is wrong, or every row is.
        UsageError: an unknown set, column or value in an argument.
    """
    found = _chosen(find_sets(folder), only)
    given = {column: _argument("assume", column, value) for column, value in (assume or {}).items()}
    rows = [case for table in found.sets for case in read_set(_filtered(table, where or {}), given)]
    if not rows:
        wanted = ", ".join(f"{column}={value}" for column, value in (where or {}).items())
        raise UsageError(f"filter {wanted}: no run of {folder} has it")
    outcomes = simulate_all(rows, workers, on_progress)
    if all(outcome.mistake for outcome in outcomes):
        raise InputError(str(outcomes[0].skipped))
    pairs = zip(rows, outcomes, strict=True)
    kept = [(case, outcome) for case, outcome in pairs if isinstance(case, Case) and not case.guessed]
    orders = plan_orders([case for case, _ in kept], [outcome for _, outcome in kept])
    return Validation(outcomes, orders, found.no_sets)


def _chosen(found: Found, only: Sequence[str]) -> Found:
    known = [table.name for table in found.sets]
    for name in only:
        if name not in known:
            raise UsageError(unknown_name("set", name, known))
    if not only:
        return found
    return Found(tuple(table for table in found.sets if table.name in only), found.no_sets)


def _argument(flag: str, column: str, text: str) -> Any:
    if column not in COLUMNS and not is_metric(column):
        raise UsageError(f"{flag}: {unknown_name('column', column, COLUMNS)}")
    try:
        return read_cell(column, text)
    except ValueError as problem:
        raise UsageError(f"{flag} {column}={text}: {column} is {problem}") from None


def _filtered(table: RunTable, where: Mapping[str, str]) -> RunTable:
    wanted = {column: _argument("filter", column, value) for column, value in where.items()}
    rows = tuple(
        row for row in table.rows if all(_same(row.get(column), value) for column, value in wanted.items())
    )
    return RunTable(table.name, table.folder, rows)


def _same(cell: Any, value: Any) -> bool:
    """Text is compared without regard to case; part of a run's name is enough where there is a ``*`` in neither."""
    if isinstance(cell, str) and isinstance(value, str):
        return cell.lower() == value.lower()
    return bool(cell == value)


def simulate_all(
    rows: Sequence[Case | Skipped], workers: int | None = None, on_progress: OnProgress | None = None
) -> tuple[Outcome, ...]:
    """The outcome of every row, in their order.

    Args:
        workers: processes; all processors where None.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not allowed; at least 1 is needed")
    chunks = _chunks(rows)
    count = min(workers or joblib.cpu_count(), len(chunks))
    outcomes: list[Outcome | None] = [None] * len(rows)
    done = 0
    for part in _run(chunks, count):
        for index, outcome in part:
            outcomes[index] = outcome
        done += len(part)
        if on_progress is not None:
            on_progress(done, len(rows))
    return tuple(outcome for outcome in outcomes if outcome is not None)


Chunk = list[tuple[int, Case | Skipped]]


def _chunks(rows: Sequence[Case | Skipped]) -> list[Chunk]:
    """Rows with their places, those of one plan side by side, a few at a time."""
    order = sorted(range(len(rows)), key=lambda index: (_plan_name(rows[index]), index))
    return [[(i, rows[i]) for i in order[first : first + CHUNK]] for first in range(0, len(order), CHUNK)]


def _plan_name(row: Case | Skipped) -> str:
    if isinstance(row, Skipped):
        return ""
    plan = row.plan
    return f"{plan.model} {plan.cluster} {plan.engine} {plan.engine_version} {plan.id} {row.measured_at}"


def _simulate_chunk(chunk: Chunk) -> list[tuple[int, Outcome]]:
    return [(index, simulate_case(row)) for index, row in chunk]


def _run(chunks: list[Chunk], workers: int) -> Iterator[list[tuple[int, Outcome]]]:
    if workers <= 1:
        yield from map(_simulate_chunk, chunks)
        return
    with warnings.catch_warnings(), joblib.Parallel(
        n_jobs=workers, backend="loky", return_as="generator_unordered"
    ) as parallel:
        # joblib warns where a worker is replaced because its memory grew: that is its business
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        yield from parallel(joblib.delayed(_simulate_chunk)(chunk) for chunk in chunks)
