"""``apexsim calibrate run``: time the kernels of the machine at hand and make a device of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apexsim.cli.terminal import say

if TYPE_CHECKING:
    from apexsim.calibration.microbench.measure import Progress
    from apexsim.calibration.microbench.run import Calibrated

INTERRUPTED = 130


def run(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where journal, tables and device go.", show_default=False)],
    device_name: Annotated[str | None, typer.Option(help="Name of the device.", show_default="its product's")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="FAMILY,…", help="gemm, attention, memory, elementwise, collectives.",
                                 show_default="all")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Begin no new kernel after this long, such as 60s.", show_default="none")
    ] = None,
    backend: Annotated[str, typer.Option(help="Machine: cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute on a CPU.")] = 1,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes of collectives.", show_default="one a CUDA device")
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option(metavar="DTYPE,…", help="bfloat16, float16, float32, fp8.",
                                 show_default="bfloat16, and fp8 where CUDA has it")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Rounds over all kernels; more average over a busy machine.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the shapes and their order.")] = 0,
) -> None:
    """Time this machine's kernels through PyTorch; writes their table and a device that plans can name.

    Ctrl-C loses nothing: the same command goes on where it stopped.
    """
    from apexsim.calibration.microbench.cases import FAMILIES
    from apexsim.calibration.microbench.machine import find_machine
    from apexsim.calibration.microbench.run import Request, calibrate
    from apexsim.spec.units import parse_seconds

    budget_s = None if budget is None else parse_seconds(budget)
    given = {"ranks": ranks, "dtypes": dtypes.split(",") if dtypes else None}
    machine = find_machine(backend, threads=threads, **{name: value for name, value in given.items() if value})
    families = tuple(only.split(",")) if only else tuple(FAMILIES)
    request = Request(out, device_name, families, passes, budget_s, seed)
    try:
        with _progress_bar() as on_progress:
            done = calibrate(machine, request, on_progress=on_progress)
    finally:
        machine.close()
    _answer(done, out)
    if done.outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _answer(done: Calibrated, out: Path) -> None:
    from apexsim.calibration.fit import summary_lines

    outcome = done.outcome
    counts = f"{outcome.measured} of {outcome.total} kernels timed, {outcome.skipped} skipped"
    say(f"{counts}, {outcome.wall_s:.0f} s; written: {', '.join(path.name for path in done.tables)} in {out}")
    if outcome.interrupted:
        say("interrupted: the same command goes on from there")
        return
    if outcome.ended == "budget":
        say("the budget is spent: the same command times further kernels")
    if done.device is None:
        say("no device yet: it takes the families gemm and memory")
        return
    for line in summary_lines(done.files):
        typer.echo(line)
    typer.echo(f"device: {done.device}")


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr: kernels done and time left. Nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("kernels"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            table = progress.case.table if progress.case else ""
            bar.update(task, description=table, completed=progress.done, total=progress.total)

        yield show
