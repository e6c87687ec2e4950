"""The flags of ``apexsim search``, with their words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import a_file

FIGURES = "goodput, goodput-per-device, attainment, energy, cost, latency, carbon or devices"

Model = Annotated[str, typer.Option(help="Model name, or the path of a config.json.", show_default=False)]
Where = Annotated[str, typer.Option(help="8xh100-sxm, 4x8xh100-sxm, or a file.", show_default=False)]
Load = Annotated[str, typer.Option(help="Trace file, or the name of a bundled trace.", show_default=False)]
Limit = Annotated[
    str, typer.Option(help="ttft=2s,tpot=100ms@0.9, or 'ttft:p99<=500ms;tpot:p95<=50ms'.", show_default=False)
]
Objective = Annotated[str, typer.Option(help=f"{FIGURES}.")]
Pareto = Annotated[
    str | None,
    typer.Option(
        metavar="AXES", help="Axes of the Pareto front: two or more objectives, with commas.",
        show_default="goodput-per-device,energy,cost",
    ),
]  # fmt: skip
Strategy = Annotated[str, typer.Option(help="How to go through the plans: auto, grid or race.")]
Rate = Annotated[
    float | None, typer.Option(help="Requests/s at which the SLO must be met.", show_default="the trace's own")
]
Price = Annotated[float | None, typer.Option(help="USD per device-hour.", show_default="the profile's")]
Carbon = Annotated[float | None, typer.Option(help="Carbon intensity, g CO2e per kWh.")]
SpaceFile = Annotated[
    Path | None, typer.Option(callback=a_file, metavar="FILE", help="YAML lists in place of the default ones.")
]
MaxDevices = Annotated[
    int | None, typer.Option(help="Devices of a plan, at most, whatever the space says.", show_default="the space's")
]
MinDevices = Annotated[
    int | None, typer.Option(help="Devices of a plan, at least, whatever the space says.", show_default="the space's")
]
MaxUsdPerHour = Annotated[
    float | None, typer.Option(help="Price of a plan's devices, at most, whatever the space says.",
                               show_default="the space's")
]  # fmt: skip
Engine = Annotated[
    str | None, typer.Option(help="Serving engine of every plan, whatever the space says.", show_default="the space's")
]
Top = Annotated[int, typer.Option(min=1, help="Plans in the table.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files go.", show_default="results/NAME")]
Json = Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the result as JSON; - prints only that.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="all processors")]
Backend = Annotated[str, typer.Option(help="Who runs the workers: process, ray or dask.")]
PlanTimeout = Annotated[
    str | None, typer.Option(metavar="TIME", help="Drop a plan that takes longer: 10min.", show_default="none")
]
Sensitivity = Annotated[
    int, typer.Option(min=0, help="Replay so many of the first plans under other loads, step times and lengths.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the router's draws.")]
