"""``apexsim``: the commands, and the one place where an error becomes a line and an exit code.

Modules of commands import nothing heavy at their top, so that ``apexsim --help`` answers at once: what a command
needs it imports in its body.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from apexsim import __version__
from apexsim.cli import (
    calibrate,
    check,
    compare,
    deploy,
    explain,
    imports,
    listing,
    plan,
    schema,
    search,
    simulate,
    trace,
    validate,
)
from apexsim.errors import ApexsimError
from apexsim.interrupts import is_interrupt

INTERRUPTED = 130


CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
"""``ClickException``: newer releases of typer carry their own, older ones take click's."""


class _Edge(TyperGroup):
    """Runs a command; a user's mistake ends in one line on stderr, a bug keeps its traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        if not options.get("standalone_mode", True):
            return super().main(*arguments, **options)
        try:
            code = super().main(*arguments, **(options | {"standalone_mode": False}))
        except CommandLineError as error:
            _show(error)
            sys.exit(error.exit_code)  # type: ignore[attr-defined]  # every ClickException has one
        except typer.Abort:
            typer.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except ApexsimError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            # the reader has seen enough (`| head`); Python would complain when it flushes stdout at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (KeyboardInterrupt, Exception) as error:
            if not is_interrupt(error):
                raise
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _show(error: Any) -> None:
    """What is wrong with a command line, in one line, and where to read on; the help where nothing was said."""
    if type(error).__name__ == "NoArgsIsHelpError":
        # with rich the help stands on stdout by now, and the message is empty
        typer.echo(error.format_message(), err=True, nl=bool(error.format_message()))
        return
    message = _of_a_value(error) or " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    more = f" (`{context.command_path} --help` says more)" if context else ""
    typer.echo(f"error: {message[:1].lower()}{message[1:]}{more}", err=True)


def _of_a_value(error: Any) -> str | None:
    """Of a value that is no number, or not allowed: the flag, the value, what is allowed. None: another mistake."""
    checked = getattr(error.__cause__, "errors", None)
    flags = getattr(getattr(error, "param", None), "opts", None)
    if checked is None or not flags:
        return None
    first = checked()[0]
    return f"{flags[0]} {first['input']}: {first['msg'][:1].lower()}{first['msg'][1:]}"


app = typer.Typer(
    cls=_Edge,
    name="apexsim",
    help="Simulate LLM serving and find the best way to deploy a model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"apexsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("search")(search.search)
app.command("simulate")(simulate.simulate)
app.command("explain")(explain.explain)
app.command("compare")(compare.compare)
app.command("deploy")(deploy.deploy)
app.command("check")(check.check)
app.command("validate")(validate.validate)
app.add_typer(plan.app, name="plan")
app.command("import")(imports.import_run)
app.add_typer(trace.app, name="trace")
app.add_typer(calibrate.app, name="calibrate")
app.command("list")(listing.listing)
app.command("schema")(schema.schema)


def main() -> None:
    """Entry point of the installed script."""
    app()


if __name__ == "__main__":
    main()
