"""``apexsim trace``: what a trace is like, another trace made from it, or one drawn from statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apexsim.cli.terminal import a_rate, duration_s, print_rich, put_json, say

if TYPE_CHECKING:
    from apexsim.workload.trace import Trace

app = typer.Typer(help="Describe, convert and synthesize request traces.", no_args_is_help=True)
synthesize = typer.Typer(help="Draw a trace from statistics.", no_args_is_help=True)
app.add_typer(synthesize, name="synthesize")

Json = Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the statistics as JSON; - prints only that.")]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds draw equal traces.")]
Out = Annotated[Path, typer.Option(metavar="FILE", help="CSV, CSV.gz or Parquet to write.", show_default=False)]
Images = Annotated[
    str | None, typer.Option(metavar="SLICES", help="Image slices of each request: a number, or a law as of --input.")
]
Lengths = "TOKENS, uniform:LOW:HIGH or lognormal:MEDIAN:MEAN[:MOST]"


@app.command()
def describe(
    trace: Annotated[str, typer.Argument(help="Trace file, or the name of a bundled trace.", show_default=False)],
    format: Annotated[str | None, typer.Option(help="Read it as this format.", show_default="by its header")] = None,
    json: Json = None,
) -> None:
    """Say what a trace is like: rate, burstiness, lengths, classes, sessions, shared prefixes."""
    from apexsim.workload.read import read_trace

    _answer(read_trace(trace, format), json)


@app.command()
def convert(
    trace: Annotated[str, typer.Argument(help="Trace file, or the name of a bundled trace.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .csv.gz, .parquet.", show_default=False)],
    format: Annotated[
        str | None, typer.Option(help="csv, parquet, mooncake or apex.", show_default="by the ending")
    ] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="Read it as this format.", show_default="by its header")
    ] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Only requests of this class.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="0s:600s", help="Only arrivals from … to (without) on the trace's clock.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many requests, drawn without replacement.")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    jitter: Annotated[str | None, typer.Option(metavar="3s", help="Delay each by up to this, at random.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="So many copies, sessions and prefixes renamed.")] = None,
    rate: Annotated[
        float | None, typer.Option(callback=a_rate, help="Scale the arrivals to this rate, requests/s.")
    ] = None,
    rate_scale: Annotated[float | None, typer.Option(callback=a_rate, help="Scale the rate by this factor.")] = None,
    poisson: Annotated[
        float | None, typer.Option(callback=a_rate, help="New arrivals: Poisson at this rate, requests/s.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Convert a trace to another format; cut, thin, repeat and scale it on the way, in the order of the flags
    here."""
    from apexsim.workload import transform
    from apexsim.workload.read import read_trace

    _at_most_one(rate=rate, rate_scale=rate_scale, poisson=poisson)
    made = read_trace(trace, source_format)
    if class_name is not None:
        made = transform.only_class(made, class_name)
    if window is not None:
        made = transform.window(made, *_window(window))
    if sample is not None:
        made = transform.sample(made, sample, seed)
    if head is not None:
        made = transform.head(made, head)
    if jitter is not None:
        made = transform.jitter(made, duration_s("--jitter", jitter), seed)
    if repeat is not None:
        made = transform.repeat(made, repeat)
    _write(_at_rate(made, rate, rate_scale, poisson, seed), out, format, json)


@synthesize.command("burstgpt")
def _burstgpt(
    out: Out,
    days: Annotated[int, typer.Option(help="Days from midnight on.")] = 1,
    rate: Annotated[
        float | None, typer.Option(callback=a_rate, help="Mean rate, requests/s.", show_default="BurstGPT's own 0.266")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Days of API calls and conversations that look like BurstGPT: bursts, hours, lengths, sessions."""
    from apexsim.workload.burstgpt import burstgpt

    _write(burstgpt(days, rate, seed), out, None, json)


@synthesize.command("poisson")
def _poisson(
    out: Out,
    rate: Annotated[float, typer.Option(callback=a_rate, help="Requests/s.", show_default=False)],
    requests: Annotated[int, typer.Option(help="How many.")] = 1000,
    input: Annotated[str, typer.Option(metavar="LENGTHS", help=f"Prompt tokens: {Lengths}.")] = "512",
    output: Annotated[str, typer.Option(metavar="LENGTHS", help="Generated tokens, same forms.")] = "128",
    images: Images = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Independent requests at a constant rate."""
    from apexsim.workload.lengths import parse_lengths
    from apexsim.workload.synthetic import poisson

    made = poisson(rate, requests, parse_lengths(input), parse_lengths(output), seed)
    _write(_with_images(made, images, seed), out, None, json)


@synthesize.command("gamma")
def _gamma(
    out: Out,
    rate: Annotated[float, typer.Option(callback=a_rate, help="Requests/s.", show_default=False)],
    cv: Annotated[float, typer.Option(help="Variation of the gaps: 0 a clock, 1 Poisson, above 1 bursty.")] = 1.41,
    requests: Annotated[int, typer.Option(help="How many.")] = 1000,
    input: Annotated[str, typer.Option(metavar="LENGTHS", help=f"Prompt tokens: {Lengths}.")] = "512",
    output: Annotated[str, typer.Option(metavar="LENGTHS", help="Generated tokens, same forms.")] = "128",
    images: Images = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Requests in bursts: gaps from a Gamma law."""
    from apexsim.workload.lengths import parse_lengths
    from apexsim.workload.synthetic import gamma

    made = gamma(rate, cv, requests, parse_lengths(input), parse_lengths(output), seed)
    _write(_with_images(made, images, seed), out, None, json)


@synthesize.command("servegen")
def _servegen(
    table: Annotated[Path, typer.Argument(help="Table of client windows; lengths beside it.", show_default=False)],
    out: Out,
    workload: Annotated[str | None, typer.Option(help="Its model, say m-large.", show_default="the first")] = None,
    start: Annotated[str, typer.Option(help="On the table's clock.")] = "0s",
    duration: Annotated[str, typer.Option(help="How long.")] = "10min",
    share: Annotated[float, typer.Option(help="Part of every client's rate, 0 to 1.")] = 1.0,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Requests of the clients of a ServeGen table, each with its own rate, burstiness and lengths."""
    from apexsim.workload.servegen import servegen

    made = servegen(
        table, workload=workload, start_s=duration_s("--start", start), duration_s=duration_s("--duration", duration),
        share=share, seed=seed,
    )  # fmt: skip
    _write(made, out, None, json)


def _with_images(trace: Trace, images: str | None, seed: int) -> Trace:
    from apexsim.workload.lengths import parse_lengths
    from apexsim.workload.visual import with_images

    return trace if images is None else with_images(trace, parse_lengths(images), seed)


def _at_rate(trace: Trace, rate: float | None, rate_scale: float | None, poisson: float | None, seed: int) -> Trace:
    from apexsim.workload import transform
    from apexsim.workload.synthetic import with_arrivals

    if rate is not None:
        return transform.at_rate(trace, rate)
    if rate_scale is not None:
        return transform.scale_rate(trace, rate_scale)
    return trace if poisson is None else with_arrivals(trace, poisson, seed=seed)


def _write(trace: Trace, out: Path, format: str | None, json: str | None) -> None:
    from apexsim.workload.write import write_trace

    write_trace(trace, out, format)
    say(f"wrote {out}: {len(trace):,} requests")
    _answer(trace, json)


def _answer(trace: Trace, json: str | None) -> None:
    from apexsim.report.console import render
    from apexsim.report.trace import trace_tables
    from apexsim.workload.stats import describe

    described = describe(trace)
    if json is not None:
        put_json(json, described)
    if json != "-":
        print_rich(render(trace_tables(described)))
        for note in trace.notes:
            say(f"note: {note}")


def _at_most_one(**flags: object) -> None:
    from apexsim.errors import UsageError

    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} contradict each other (allowed: one of them)")


def _window(text: str) -> tuple[float, float]:
    from apexsim.errors import UsageError

    start, separator, end = text.partition(":")
    if not separator:
        raise UsageError(f"--window {text!r} (allowed: FROM:TO with units, such as 0s:600s or 9h:10h)")
    return duration_s("--window", start), duration_s("--window", end)
