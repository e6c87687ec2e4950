"""``ax.validate``: measured serving runs against simulated ones, and what a notebook wants of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from apexsim import __version__
from apexsim.report import validation_plots
from apexsim.report.console import render
from apexsim.report.markup import tables_html
from apexsim.report.validation_tables import validation_tables
from apexsim.validation.errors import by_metric, by_regime, by_request, statistics
from apexsim.validation.run import OnProgress, Validation, validate_folder
from apexsim.validation.simulate import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group


@dataclass(frozen=True)
class ValidationReport:
    """Every run of some validation sets: measured, simulated, error.

    Attributes:
        result: outcomes row by row, and the order of plans.
        wall_s: seconds that all of it took.
    """

    result: Validation
    wall_s: float

    @property
    def heading(self) -> str:
        sets, runs = len(self.result.sets), len(self.result.outcomes)
        return (
            f"{runs:,} measured run{'s' if runs > 1 else ''} in {sets} set{'s' if sets > 1 else ''}: "
            f"{len(self.result.simulated):,} simulated, {len(self.result.skipped):,} skipped"
        )

    @property
    def assumptions(self) -> Counter[str]:
        """Every default that was in force -> in how many simulated runs."""
        return Counter(text for outcome in self.result.simulated for text in outcome.assumptions)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim validate``; equal inputs give equal values, but for ``simulation.wall_s``."""
        result = self.result
        return {
            "runs": [_run(outcome) for outcome in result.outcomes],
            "summary": _figures(by_metric(result.simulated)),
            "regimes": _regimes(result.simulated),
            "requests": _figures(by_request(result.simulated)),
            "sets": {name: _set(result.of(name)) for name in result.sets},
            "plan_order": [{**asdict(order), "tau": order.tau} for order in result.orders],
            "not_sets": list(result.no_sets),
            "simulation": {"wall_s": self.wall_s, "version": __version__},
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a run and metric: set, run, regime, metric, measured, simulated, error (0.05 = 5 %)."""
        rows = [
            (o.set, o.run, o.regime, column, compared.measured, compared.simulated, compared.error)
            for o in self.result.simulated
            for column, compared in o.metrics.items()
        ]
        names = ("set", "run", "regime", "metric", "measured", "simulated", "error")
        table = pd.DataFrame(rows, columns=pd.Index(names))
        return table.astype({"measured": float, "simulated": float, "error": float})

    def plot(self) -> Figure:
        """Measured against simulated, one panel a metric, one colour a set; dashed lines at ± 10 %."""
        return validation_plots.scatter(self.result.simulated)

    def median_abs_error(self, column: str) -> float | None:
        """Over every simulated run that measured the metric; None where none did."""
        errors = (o.metrics[column].error for o in self.result.simulated if column in o.metrics)
        found = statistics(error for error in errors if error is not None)
        return None if found is None else found.median_abs_error

    def __rich__(self) -> Group:
        return render(validation_tables(self.result))

    def _repr_html_(self) -> str:
        return tables_html(self.heading, validation_tables(self.result))


def _run(outcome: Outcome) -> dict[str, Any]:
    return {
        "run": outcome.run,
        "set": outcome.set,
        "regime": outcome.regime,
        "skipped": outcome.skipped,
        "metrics": {
            column: {"measured": c.measured, "simulated": c.simulated, "error": c.error}
            for column, c in outcome.metrics.items()
        },
        "requests": _figures(by_request([outcome])),
        "assumptions": list(outcome.assumptions),
        "guessed": list(outcome.guessed),
        "notes": list(outcome.notes),
    }


def _set(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    simulated = [outcome for outcome in outcomes if outcome.skipped is None]
    return {
        "runs": len(outcomes),
        "simulated": len(simulated),
        "skipped": dict(Counter(outcome.skipped for outcome in outcomes if outcome.skipped is not None)),
        "summary": _figures(by_metric(simulated)),
        "regimes": _regimes(simulated),
        "requests": _figures(by_request(simulated)),
    }


def _regimes(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    return {regime: _figures(figures) for regime, figures in by_regime(outcomes).items()}


def _figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {column: asdict(found) for column, found in figures.items()}


def validate(
    folder: Path | str,
    *,
    sets: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    assume: Mapping[str, str] | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> ValidationReport:
    """Simulate the measured runs of a validation set, or of a folder of sets, and hold them against each other.

    Args:
        folder: one with a ``runs.csv``, or a folder of such folders; docs/validation.md has the format.
        sets: names of the sets to take; all where empty.
        where: column -> value that a run must have.
        assume: column -> value for empty cells, before any default.
        workers: processes; all processors where None. The figures do not depend on it.

    Raises:
        UsageError, InputError: a name, an argument or a table that cannot be.
    """
    began = time.perf_counter()
    result = validate_folder(
        folder, only=sets, where=where, assume=assume, workers=workers, on_progress=on_progress
    )
    return ValidationReport(result, time.perf_counter() - began)
