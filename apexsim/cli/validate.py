"""``apexsim validate``: how far the simulator is from real serving runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apexsim.cli.picture import draw, require_picture
from apexsim.cli.terminal import print_rich, put_json, say, say_when_compiling

if TYPE_CHECKING:
    from apexsim.report.validation import ValidationReport

BOUNDS = {
    "e2e": "e2e_mean_s", "ttft": "ttft_mean_s", "tpot": "tpot_mean_s", "itl": "itl_mean_s",
    "throughput": "output_tokens_per_s", "power": "power_w_per_device",
}  # fmt: skip
"""Keys of ``--max-error`` -> the metric whose median absolute error they bound."""


def validate(
    folder: Annotated[Path, typer.Argument(help="A folder with runs.csv, or a folder of such.", show_default=False)],
    max_error: Annotated[
        str | None, typer.Option(help="e2e=0.1,ttft=0.15: largest median error; exit code 4 beyond it.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="COLUMN=VALUE", help="Only runs with this cell; may be repeated."),
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="For empty cells; may be repeated.")
    ] = None,
    runs: Annotated[
        bool | None, typer.Option("--runs/--no-runs", help="Show every run.", show_default="if they are few")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw measured against simulated: .png, .pdf or .svg.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the result as JSON; - prints only that.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="all processors")] = None,
) -> None:
    """Simulate measured serving runs and print the errors: by run, by metric and by regime."""
    from rich.text import Text

    from apexsim.report.console import render
    from apexsim.report.files import require_writable
    from apexsim.report.validation import validate as run_validation
    from apexsim.report.validation_tables import validation_tables

    bounds = _bounds(max_error)
    where, given = pairs("--filter", filter_), pairs("--assume", assume)
    for target in (None if json == "-" else json, plot):
        if target is not None:
            require_writable(target)
    require_picture("--plot", plot)
    say_when_compiling(processes=True)
    with _progress_bar() as on_progress:
        report = run_validation(
            folder, sets=set_ or (), where=where, assume=given, workers=workers, on_progress=on_progress
        )
    if plot is not None:
        draw(report.plot, plot)
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        print_rich(Text(report.heading, style="bold"), render(validation_tables(report.result, runs=runs)))
    for text, count in report.assumptions.most_common():
        say(f"assumed in {count:,} run{'s' if count > 1 else ''}: {text}")
    _hold(report, bounds)


def _bounds(text: str | None) -> dict[str, float]:
    """``e2e=0.1,ttft=15%`` as key -> share."""
    from apexsim.errors import UsageError, unknown_name

    bounds: dict[str, float] = {}
    for part in text.split(",") if text is not None else ():
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in BOUNDS:
            raise UsageError(f"--max-error: {unknown_name('metric', key, BOUNDS)}")
        try:
            share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            raise UsageError(f"--max-error: {key}={value} (allowed: a share, 0.1 or 10%)")
        bounds[key] = share
    return bounds


def pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    """Repeated ``COLUMN=VALUE`` flags as column -> value."""
    from apexsim.errors import UsageError

    found: dict[str, str] = {}
    for text in given or ():
        column, equals, value = text.partition("=")
        if not (column.strip() and equals and value.strip()):
            raise UsageError(f"{flag} {text!r} (allowed: COLUMN=VALUE)")
        found[column.strip()] = value.strip()
    return found


def _hold(report: ValidationReport, bounds: dict[str, float]) -> None:
    """Exit code 4 where a bound is exceeded, or bounds what no run measured."""
    from apexsim.errors import Regression

    broken = []
    for key, bound in bounds.items():
        found = report.median_abs_error(BOUNDS[key])
        if found is None:
            broken.append(f"{key}: no simulated run measured {BOUNDS[key]}")
        elif found > bound:
            broken.append(f"{key}: median error {100 * found:.1f} % is above {100 * bound:g} %")
    if broken:
        raise Regression("; ".join(broken))


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr: runs done. Nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("runs"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("runs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
