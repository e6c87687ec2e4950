"""``apexsim check``: are the chosen plans of a baseline still the best, and as good as they were?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import put_json, say, say_when_compiling


def check(
    baseline: Annotated[Path, typer.Argument(help="Baseline file (YAML).", show_default=False)],
    update: Annotated[
        bool, typer.Option("--update", help="Choose the plans anew and rewrite the file.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the result as JSON; - prints only that.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="all processors")] = None,
) -> None:
    """Evaluate the scenarios of a baseline anew: a Markdown table, and exit code 4 where one got worse."""
    from apexsim.errors import UsageError
    from apexsim.report.check_results import check_baseline, update_baseline
    from apexsim.report.files import require_writable
    from apexsim.spec.files import write_atomically

    if update and (junit is not None or json is not None):
        raise UsageError("--update writes the baseline alone (allowed: without --junit and --json)")
    for target in (None if json == "-" else json, junit, baseline if update else None):
        if target is not None:
            require_writable(target)
    say_when_compiling(processes=True)
    if update:
        for line in update_baseline(baseline, workers=workers, on_scenario=_doing):
            typer.echo(line)
        return
    report = check_baseline(baseline, workers=workers, on_scenario=_doing)
    if junit is not None:
        write_atomically(junit, report.to_junit())
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        typer.echo(report.to_markdown(), nl=False)
    report.raise_if_worse()


def _doing(name: str) -> None:
    say(f"scenario {name} …")
