"""``apexsim compare``: two plans, or two results, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import a_rate, print_rich, put_json, say_when_compiling

SIDE = "A plan, the JSON of simulate, search or validate, or the folder of a search."


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=SIDE, show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What to hold against it.", show_default=False)],
    trace: Annotated[str | None, typer.Option(help="What plans are simulated under.", show_default=False)] = None,
    rate: Annotated[
        float | None, typer.Option(callback=a_rate, help="Offer the trace at this rate, requests/s.")
    ] = None,
    rate_scale: Annotated[
        float | None, typer.Option(callback=a_rate, help="Offer it at its own rate times this factor.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Closed loop: requests in flight.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
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
        say_when_compiling(closed_loop=concurrency is not None)
    report = compared(
        a, b, trace, slo, rate=rate, rate_scale=rate_scale, concurrency=concurrency, requests=requests, seed=seed
    )
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        print_rich(Text(report.heading, style="bold"), report)
