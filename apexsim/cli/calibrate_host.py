"""``apexsim calibrate host``: the host terms of the engines from measured serving runs."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer


def host(
    runs: Annotated[Path, typer.Option(help="Folder of validation sets.", show_default=False)],
    group: Annotated[list[str] | None, typer.Option(help="Only this group of presets; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; engine_profiles/ if left out.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Runs of each set that the search looks at.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    fitted: Annotated[str | None, typer.Option("--date", help="Date that the errors carry; today if left out.")] = None,
) -> None:
    """Fit the host terms of the engines on measured serving runs, and print the errors with and without each set."""
    from apexsim import __version__
    from apexsim.errors import UsageError, unknown_name
    from apexsim.spec import catalog
    from apexsim.validation.case import Case, read_set
    from apexsim.validation.host_files import write_errors, write_terms
    from apexsim.validation.host_fit import fit_group, groups
    from apexsim.validation.sets import find_sets

    known = groups()
    for name in group or ():
        if name not in known:
            raise UsageError(unknown_name("group", name, known))
    cases = [case for table in find_sets(runs).sets for case in read_set(table) if isinstance(case, Case)]
    fits = []
    for name in group or known:
        fit = fit_group(name, cases, workers, rows)
        fits.append(fit)
        typer.echo(f"{name}: " + ", ".join(f"{term} {value:.3g}" for term, value in fit.terms.items()))
        for which, metrics in fit.errors.items():
            for metric, figures in metrics.items():
                left = fit.left_out.get(which, {}).get(metric)
                without = f"   {left.median_abs_error:.1%} without it" if left else ""
                typer.echo(f"  {which:26} {metric:22} {figures.n:>5} {figures.median_abs_error:>7.1%}{without}")
    folder = out or catalog.data_root() / "engine_profiles"
    write_terms(fits, folder)
    write_errors(fits, folder, fitted or date.today().isoformat(), __version__)
