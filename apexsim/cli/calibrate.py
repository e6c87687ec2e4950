"""``apexsim calibrate``: from measured kernels to a device's coefficient files."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.calibrate_host import host
from apexsim.cli.calibrate_loop import loop
from apexsim.cli.calibrate_power import power
from apexsim.cli.calibrate_run import run
from apexsim.cli.terminal import a_file, print_rich, put_json, say

app = typer.Typer(help="Make a hardware profile from measured kernels.", no_args_is_help=True)


app.command("run")(run)
app.command("loop")(loop)
app.command("power")(power)
app.command("host")(host)


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Folder of Parquet tables of measured kernels.", show_default=False)],
    device: Annotated[list[str] | None, typer.Option(help="Device profile, such as h100-sxm; may be repeated.")] = None,
    all_devices: Annotated[bool, typer.Option("--all", help="Every device that the published tables know.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the device's own if left out.")] = None,
    fitted: Annotated[str | None, typer.Option("--date", help="Date that the files carry; today if left out.")] = None,
) -> None:
    """Fit laws and correction grids to kernel tables, and print their errors on held-out shapes."""
    from apexsim.calibration.fit import fit_device, summary_lines, write_fits
    from apexsim.calibration.power.fit import fit_power, write_power
    from apexsim.calibration.power.fit import summary_lines as power_lines
    from apexsim.calibration.rows import SYSTEMS
    from apexsim.errors import UsageError
    from apexsim.spec import catalog

    names = list(SYSTEMS) if all_devices else device or []
    if not names:
        raise UsageError("calibrate fit needs --device NAME, which may be repeated, or --all")
    if out is not None and len(names) > 1:
        raise UsageError(f"--out {out}: takes the files of one device, not of {len(names)}")
    for name in names:
        files = fit_device(data, name, fitted or date.today().isoformat())
        write_fits(files, out or catalog.profile_folder(name) / "kernels")
        typer.echo(name)
        for line in summary_lines(files):
            typer.echo(line)
        watts = fit_power(data, catalog.device(name), fitted or date.today().isoformat())
        if watts is not None:
            write_power(watts, out or catalog.profile_folder(name))
            for line in power_lines(watts):
                typer.echo(line)


@app.command()
def report(
    data: Annotated[
        Path | None, typer.Option(callback=a_file, help="Folder of kernel tables; without it, errors of the fits.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Only this device profile.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Errors on shapes that the fits had not seen, as the files hold them.")
    ] = False,
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write them as JSON; - prints only that.")] = None,
) -> None:
    """Price measured kernels with the committed profiles, and print the errors by table, device and dtype."""
    from apexsim.calibration.report import held_out_lines, price_folder
    from apexsim.errors import UsageError
    from apexsim.report.calibration import error_table, reasons
    from apexsim.report.console import render
    from apexsim.report.files import require_writable

    if data is not None and held_out:
        raise UsageError("--held-out prints what the committed files hold: leave out --data")
    if json not in (None, "-"):
        require_writable(json)
    lines = held_out_lines(device) if data is None else price_folder(data, device)
    if json is not None:
        put_json(json, {"rows": [line.to_dict() for line in lines]})
    if json != "-":
        print_rich(render((error_table(lines),)))
    for reason in reasons(lines):
        say(reason)


@app.command()
def shares(
    write: Annotated[bool, typer.Option("--write", help="Put them into the profiles; else print only.")] = False,
) -> None:
    """Shares of their peaks for devices that nobody measured, from the fits of the nearest measured one."""
    from apexsim.calibration.shares import as_yaml, shares, unmeasured, write_shares

    for profile in unmeasured():
        found = shares(profile)
        if write:
            write_shares(profile, found)
        typer.echo(f"{profile.name}\n{as_yaml(found)}")
