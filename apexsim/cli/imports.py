"""``apexsim import``: a result file of a benchmark tool, as a run of a validation set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import a_file, say


def import_run(
    file: Annotated[
        Path, typer.Argument(callback=a_file, help="Result file of a tool, or a server's /metrics.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Validation set to add to, or to make.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model name.", show_default="the file's")] = None,
    device: Annotated[str | None, typer.Option(help="Device, such as h100-sxm.", show_default=False)] = None,
    tp: Annotated[int, typer.Option(min=1, help="Tensor parallel degree.")] = 1,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices of the run; more than tp · pp are further replicas.",
                                 show_default="one replica's")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="the file's")] = None,
    format: Annotated[
        str | None, typer.Option(help="`apexsim list importers`.", show_default="by content")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="Any other column of runs.csv; may be repeated."),
    ] = None,
) -> None:
    """Turn a result file of a benchmark tool into a run that `apexsim validate` takes."""
    from apexsim.cli.validate import pairs
    from apexsim.validation.imports import import_file

    cells = {"tp": str(tp)} | pairs("--set", set_)
    for column, value in (("model", model), ("device", device), ("devices", devices)):
        if value is not None:
            cells[column] = str(value)
    done = import_file(file, out, name=name, format=format, cells=cells)
    for path in done.files:
        typer.echo(path)
    for run, reason in done.missing.items():
        say(f"note: {run} cannot be simulated as it is: {reason}")
