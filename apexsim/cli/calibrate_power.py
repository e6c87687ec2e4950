"""``apexsim calibrate power``: what ties laws of metered kernels to serving, from measured serving runs."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer


def power(
    runs: Annotated[Path, typer.Option(help="Folder of validation sets; those with measured power count.")],
    out: Annotated[Path | None, typer.Option(help="File to write; the committed one if left out.")] = None,
    fitted: Annotated[str | None, typer.Option("--date", help="Date that the file carries; today if left out.")] = None,
) -> None:
    """Fit the three factors between power of kernels and of serving runs, and print the errors."""
    from apexsim.errors import UsageError
    from apexsim.validation.case import Case, read_set
    from apexsim.validation.power_fit import committed, fit_serving, metered, write_serving
    from apexsim.validation.sets import find_sets

    cases = [case for table in find_sets(runs).sets for case in read_set(table) if isinstance(case, Case)]
    found = metered(cases)
    if not found:
        raise UsageError(f"{runs}: no run with power_w_per_device that this release simulates")
    sets = ", ".join(sorted({case.set for case in cases if any(run.case is case for run in found)}))
    serving = fit_serving(found, f"{len(found)} runs of {sets}", fitted or date.today().isoformat())
    write_serving(serving, out or committed())
    factors = serving.factors
    typer.echo(f"compute {factors.compute:g}, attention {factors.attention:g}, collectives {factors.communicating:g}")
    for which, error in serving.errors.items():
        typer.echo(f"{which:10} {error['n']:>5.0f} runs, median {error['median']:.1%}, p90 {error['p90']:.1%}, "
                   f"worst {error['worst']:.1%}, bias {error['bias']:+.1%}")  # fmt: skip
