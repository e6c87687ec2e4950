"""``apexsim calibrate``: from measured kernels to a device's coefficient files."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.calibrate_run import run

app = typer.Typer(help="Make a hardware profile from measured kernels.", no_args_is_help=True)


app.command("run")(run)


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Folder of Parquet tables of measured kernels.", show_default=False)],
    device: Annotated[str, typer.Option(help="Device profile, such as h100-sxm.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the device's own if left out.")] = None,
    fitted: Annotated[str | None, typer.Option("--date", help="Date that the files carry; today if left out.")] = None,
) -> None:
    """Fit laws and correction grids to kernel tables, and print their errors on held-out shapes."""
    from apexsim.calibration.fit import fit_device, summary_lines, write_fits
    from apexsim.spec import catalog

    files = fit_device(data, device, fitted or date.today().isoformat())
    write_fits(files, out or catalog.profile_folder(device) / "kernels")
    for line in summary_lines(files):
        typer.echo(line)
