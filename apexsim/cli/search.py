"""``apexsim search``: the best plans for a model, a cluster, a load and an SLO."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from apexsim.cli import search_flags as flags
from apexsim.cli.terminal import duration_s, put_json, say, say_when_compiling

if TYPE_CHECKING:
    from apexsim.report.search_results import SearchReport
    from apexsim.search.run import Progress

INTERRUPTED = 130

WIDTH_OF_A_FILE = 140
"""Columns of the answer in a file or a pipe, where nothing is as narrow as a screen: more where a table needs them."""


def search(
    model: flags.Model,
    cluster: flags.Where,
    trace: flags.Load,
    slo: flags.Limit,
    objective: flags.Objective = "goodput",
    pareto: flags.Pareto = None,
    strategy: flags.Strategy = "auto",
    rate: flags.Rate = None,
    price: flags.Price = None,
    carbon: flags.Carbon = None,
    space: flags.SpaceFile = None,
    max_devices: flags.MaxDevices = None,
    min_devices: flags.MinDevices = None,
    max_usd_per_hour: flags.MaxUsdPerHour = None,
    engine: flags.Engine = None,
    top: flags.Top = 30,
    out: flags.Out = None,
    json: flags.Json = None,
    workers: flags.Workers = None,
    backend: flags.Backend = "process",
    plan_timeout: flags.PlanTimeout = None,
    sensitivity: flags.Sensitivity = 0,
    seed: flags.Seed = 0,
) -> None:
    """Find the best plans: which meet the SLO, at what goodput, joules and dollars, and what binds them."""
    from apexsim.report.files import require_writable
    from apexsim.report.search_results import search_for
    from apexsim.report.search_tables import defaults_line
    from apexsim.report.simulation import as_trace
    from apexsim.search.limits import Limits
    from apexsim.search.problem import make_problem
    from apexsim.spec import catalog

    timeout_s = None if plan_timeout is None else duration_s("--plan-timeout", plan_timeout)
    problem = make_problem(
        model, catalog.cluster(cluster), as_trace(trace), catalog.slo(slo), objective=objective, rate_rps=rate,
        price_usd_per_hour=price, carbon_g_per_kwh=carbon, space=space, seed=seed, pareto=pareto,
        limits=Limits(min_devices, max_devices, max_usd_per_hour, engine),
    )  # fmt: skip
    folder = out if out is not None else Path("results") / problem.run_name
    require_writable(folder / "result.json", make_folders=True)
    if json not in (None, "-"):
        require_writable(str(json))
    say(defaults_line(problem))
    say_when_compiling(processes=True)
    with _progress_bar() as on_progress:
        report = search_for(
            problem, strategy=strategy, top=top, out=folder, workers=workers, backend=backend,
            plan_timeout_s=timeout_s, sensitivity=sensitivity, on_progress=on_progress,
        )  # fmt: skip
    _end(report, folder, json)


def _end(report: SearchReport, folder: Path, json: str | None) -> None:
    """Write the files, print the answer, and end as it says."""
    files = report.save(folder)
    written = ", ".join(path.relative_to(folder).as_posix() for path in files)
    say(f"written: {written} in {folder}; {report.result.wall_s:.1f} s")
    _answer(report, json)  # after what goes to stderr: the last lines are the launch command of the best plan
    for warning in report.warnings:
        say(warning)
    if report.result.interrupted:
        say("the table holds what was finished; the same command goes on from there")
        raise typer.Exit(INTERRUPTED)
    _ = report.best  # raises where nothing is feasible


def _answer(report: SearchReport, json: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    if json is not None:
        put_json(json, report.to_dict())
    if json == "-" or not report.result.ranked:
        return
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _width(report), highlight=False)
    best = Text(f"best: {report.best.id}: {report.best.why}")
    for part in (Text(report.heading, style="bold"), report, best):
        console.print(part, soft_wrap=isinstance(part, Text))  # prose is the reader's to wrap
    if report.deployment is not None:
        console.print(Text(report.deployment.command), soft_wrap=True)


def _width(report: SearchReport) -> int:
    from apexsim.report.console import least_width

    return max(WIDTH_OF_A_FILE, *(least_width(table) for table in report.tables))


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr: plans done, best so far, time left. Nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("plans {task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("screened", total=None, best="")
        stage = "screened"

        def show(progress: Progress) -> None:
            nonlocal stage
            if progress.stage != stage:
                stage = progress.stage
                bar.reset(task)
            best = progress.best
            words = "" if best is None else f"best {best.id} ({best.goodput_rps:.2f} req/s)"
            bar.update(task, description=stage, completed=progress.done, total=progress.total, best=words)

        yield show
