"""What every command prints with: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

WIDTH_OF_A_FILE = 120
"""Columns of a table that goes into a file or a pipe, where no terminal says how wide it is."""


def say(text: str) -> None:
    """A diagnostic, on stderr."""
    typer.echo(text, err=True)


def a_rate(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Callback of a flag: a rate or a factor of one."""
    from apexsim.workload.limits import check_rate

    if value is not None:
        check_rate(parameter.opts[0], value)
    return value


Rate = Annotated[float | None, typer.Option(callback=a_rate, help="Offer the trace at this rate, requests/s.")]
RateScale = Annotated[
    float | None, typer.Option(callback=a_rate, help="Offer it at its own rate times this factor.")
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Closed loop: requests in flight.")]
FirstRequests = Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")]
"""Flags of the load that a trace makes."""


def a_file(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of a flag: a file that is there."""
    from apexsim.errors import InputError

    if value is not None and not value.exists():
        raise InputError(f"{parameter.opts[0]} {value}: no such file")
    return value


def duration_s(flag: str, text: str) -> float:
    """Seconds of a flag such as ``--plan-timeout 10min``."""
    from apexsim.errors import UsageError
    from apexsim.spec.units import parse_seconds

    try:
        return parse_seconds(text)
    except UsageError as problem:
        raise UsageError(f"{flag}: {problem}") from None


def print_rich(*renderables: Any) -> None:
    """The answer for a person, on stdout."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False)
    for renderable in renderables:
        console.print(renderable)


def print_json(data: Any) -> None:
    """The answer for a program, on stdout."""
    from apexsim.report.files import json_text

    typer.echo(json_text(data), nl=False)


def put_json(target: str, data: Any) -> None:
    """JSON where ``--json`` asks for it: a file, or ``-`` for stdout."""
    from apexsim.report.files import require_writable, write_json

    if target in ("-", "/dev/stdout"):
        # opened anew, stdout redirected to a file would be written from its start, over what is printed
        print_json(data)
    else:
        require_writable(target)
        write_json(target, data)


def say_when_compiling(*, processes: bool = False) -> None:
    """The first run of an installation compiles the engine, which takes longer than the run.

    Args:
        processes: other ones may run it, of which nobody hears: said now, where nothing was compiled before.
    """
    from apexsim.engine.compiling import is_compiled, when_compiling

    if not processes:
        when_compiling(_say_compiling)
    elif not is_compiled():
        _say_compiling()


def _say_compiling() -> None:
    say("compiling the engine (first run only) …")
