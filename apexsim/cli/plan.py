"""``apexsim plan``: questions that are integer programs, each with a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from apexsim.cli.terminal import a_file, duration_s, print_rich, put_json

if TYPE_CHECKING:
    from collections.abc import Callable


class _Report(Protocol):
    @property
    def heading(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


app = typer.Typer(
    help="Fleets, pools on nodes, experts on devices, formats of layers: the optimum, or how far from it.",
    no_args_is_help=True,
)

Question = Annotated[Path, typer.Argument(callback=a_file, help="YAML or JSON file.", show_default=False)]
Json = Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the result as JSON; - prints only that.")]
TimeLimit = Annotated[str, typer.Option(metavar="60s", help="Longest that the solver may take.")]
LONGEST = "60s"


@app.command()
def fleet(question: Question, json: Json = None, time_limit: TimeLimit = LONGEST) -> None:
    """How many replicas of which kind serve a day's demand at least cost, energy, carbon or devices."""
    from apexsim.report.fleet import plan_fleet

    _answer(json, lambda: plan_fleet(question, time_limit_s=_seconds(time_limit)))


@app.command()
def pools(question: Question, json: Json = None, time_limit: TimeLimit = LONGEST) -> None:
    """How many prefill and decode replicas of which shape, on which nodes, with KV within the nodes' links."""
    from apexsim.report.pool_nodes import plan_pools

    _answer(json, lambda: plan_pools(question, time_limit_s=_seconds(time_limit)))


@app.command()
def experts(
    question: Question,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the placement, as SGLang takes it.")] = None,
    counts_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the counts in its order, for a plan's routing.")
    ] = None,
    json: Json = None,
    time_limit: TimeLimit = LONGEST,
) -> None:
    """Which device holds which experts, so that devices are evenly full and little travels between them."""
    from apexsim.report.files import require_writable
    from apexsim.report.placement import plan_experts

    for target in (out, counts_out, None if json == "-" else json):
        if target is not None:
            require_writable(target)
    report = plan_experts(question, time_limit_s=_seconds(time_limit))
    if out is not None:
        report.save(out)
    if counts_out is not None:
        report.save_counts(counts_out)
    _answer(json, lambda: report)


@app.command()
def precision(
    question: Question,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan with its rules, YAML.")] = None,
    json: Json = None,
    time_limit: TimeLimit = LONGEST,
) -> None:
    """A format for each layer: least time, energy, memory or loss within an accuracy budget."""
    from apexsim.report.files import require_writable
    from apexsim.report.layer_formats import plan_precision

    for target in (out, None if json == "-" else json):
        if target is not None:
            require_writable(target)
    report = plan_precision(question, time_limit_s=_seconds(time_limit))
    if out is not None:
        report.save(out)
    _answer(json, lambda: report)


def _answer(json: str | None, found: Callable[[], _Report]) -> None:
    from rich.text import Text

    from apexsim.report.files import require_writable

    if json not in (None, "-"):
        require_writable(str(json))
    report = found()
    if json is not None:
        put_json(json, report.to_dict())
    if json != "-":
        print_rich(Text(report.heading, style="bold"), report)


def _seconds(text: str) -> float:
    from apexsim.errors import UsageError

    seconds = duration_s("--time-limit", text)
    if seconds <= 0:
        raise UsageError(f"--time-limit {text}: must be more than 0")
    return seconds
