"""``apexsim explain``: where the time of a plan's iterations goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.picture import draw, require_picture
from apexsim.cli.terminal import print_rich, put_json, say


def explain(
    plan: Annotated[Path, typer.Argument(help="Plan file (YAML or JSON).", show_default=False)],
    batch: Annotated[
        int | None, typer.Option(help="Decoding sequences.", show_default="64, or what the plan has room for")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of each.", show_default="2048, or the limit")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of a prompt.", show_default="2048, or the limit")] = None,
    pool: Annotated[
        int | None, typer.Option(help="Of a plan of several pools, which, from 0.", show_default="the first")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the roofline: .png, .pdf or .svg.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the result as JSON; - prints only that.")
    ] = None,
) -> None:
    """Take a decode and a prefill iteration apart: time, roofline position and price of every operator."""
    from rich.text import Text

    from apexsim.report.defaults import defaults_in_force
    from apexsim.report.explanation import explain as explained
    from apexsim.report.files import require_writable

    for target in (None if json == "-" else json, plot):
        if target is not None:
            require_writable(target)
    require_picture("--plot", plot)
    report = explained(plan, batch=batch, context=context, prompt=prompt, pool=pool)
    say(defaults_in_force(report.prepared))
    if plot is not None:
        draw(report.plot_roofline, plot)
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        print_rich(Text(report.heading, style="bold"), Text("\n".join(report.lines)), report)
    for note in report.prepared.compiled.confidence.notes:
        say(f"note: {note}")
