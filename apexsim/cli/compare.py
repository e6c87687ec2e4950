"""``apexsim compare``: two plans, or two results, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import (
    Concurrency,
    FirstRequests,
    Rate,
    RateScale,
    print_rich,
    put_json,
    say_when_compiling,
)

SIDE = "A plan, the JSON of simulate, search or validate, or the folder of a search."


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=SIDE, show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What to hold against it.", show_default=False)],
    trace: Annotated[str | None, typer.Option(help="What plans are simulated under.", show_default=False)] = None,
    rate: Rate = None,
    rate_scale: RateScale = None,
    concurrency: Concurrency = None,
    requests: FirstRequests = None,
    slo: Annotated[str | None, typer.Option(help="As of simulate.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the router's draws.")] = 0,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the comparison as JSON; - prints only that.")
    ] = None,
) -> None:
    """Lay two plans, or two results, side by side: what differs, and what it changes."""
    from rich.text import Text

    from apexsim.report.comparison import compare as compared
    from apexsim.report.files import require_writable

    if json is not None and json != "-":
        require_writable(json)
    if trace is not None:
        say_when_compiling()
    report = compared(
        a, b, trace, slo, rate=rate, rate_scale=rate_scale, concurrency=concurrency, requests=requests, seed=seed
    )
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        print_rich(Text(report.heading, style="bold"), report)
