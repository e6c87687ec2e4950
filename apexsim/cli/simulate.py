"""``apexsim simulate``: what one plan does under one trace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import (
    Concurrency,
    FirstRequests,
    Rate,
    RateScale,
    print_rich,
    put_json,
    say,
    say_when_compiling,
)


def simulate(
    plan: Annotated[Path, typer.Argument(help="Plan file (YAML or JSON).", show_default=False)],
    trace: Annotated[str, typer.Option(help="Trace file, or the name of a bundled trace.", show_default=False)],
    rate: Rate = None,
    rate_scale: RateScale = None,
    concurrency: Concurrency = None,
    requests: FirstRequests = None,
    slo: Annotated[
        str | None, typer.Option(help="ttft=2s,tpot=100ms@0.9, or 'ttft:p99<=500ms;tpot:p95<=50ms'.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="USD per device-hour.", show_default="the profile's")
    ] = None,
    carbon: Annotated[float | None, typer.Option(min=0, help="Carbon intensity, g CO2e per kWh.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the router's draws.")] = 0,
    warmup: Annotated[
        bool, typer.Option("--warmup", help="Leave the first 10 % of the time out of latencies and SLO.")
    ] = False,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the summary as JSON; - prints only that.")
    ] = None,
    requests_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a Parquet table with one row a request.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a trace for Perfetto (.json or .json.gz).")
    ] = None,
) -> None:
    """Simulate one plan under one trace: latency, SLO, energy, cost, memory."""
    from rich.text import Text

    from apexsim.report.defaults import defaults_in_force
    from apexsim.report.files import require_outputs, write_parquet
    from apexsim.report.simulation import Conditions, as_slo, as_trace, prepared_plan, simulate_under
    from apexsim.workload.load import Load

    outputs = {"--json": None if json == "-" else json, "--requests-out": requests_out, "--timeline": timeline}
    require_outputs({flag: Path(target) for flag, target in outputs.items() if target is not None})
    load = Load(rate, rate_scale, concurrency, requests)
    conditions = Conditions(as_slo(slo), load, price, carbon, seed, warmup, timeline is not None)
    prepared = prepared_plan(plan)
    arriving = as_trace(trace)
    say(defaults_in_force(prepared))
    say_when_compiling()
    report = simulate_under(prepared, arriving, conditions)
    if requests_out is not None:
        write_parquet(requests_out, report.to_pandas())
    if timeline is not None:
        say(f"timeline: {report.write_timeline(timeline)}")
    if json is not None:
        put_json(json, report.to_dict() | _table(json, requests_out))
    if json != "-":
        print_rich(Text(report.heading, style="bold"), Text(report.offered), report)
    for note in report.summary.confidence.notes:
        say(f"note: {note}")


def _table(json: str, requests_out: Path | None) -> dict[str, str]:
    """Where the requests of a result are, seen from its folder: what ``compare`` draws intervals from."""
    from apexsim.report.side import TABLE

    if requests_out is None or json == "-":
        return {}
    return {TABLE: os.path.relpath(requests_out, Path(json).parent)}
