"""``apexsim calibrate loop``: a real engine on this machine against its simulation."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apexsim.cli.terminal import print_rich, put_json, say

if TYPE_CHECKING:
    from apexsim.calibration.closed_loop.run import LoopResult

TITLES = ("run", "req/s", "waited", "attempts", "metric", "measured", "simulated", "error", "of a request: median",
          "p90")  # fmt: skip


def loop(
    device: Annotated[str, typer.Option(help="Device that calibrate run made of this machine.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the validation set goes.", show_default=False)],
    load: Annotated[str, typer.Option(metavar="SHARE,…", help="Shares of the largest rate.")] = "0.3,0.6,0.9",
    requests: Annotated[int, typer.Option(min=2, help="Requests of each load.")] = 64,
    hidden_size: Annotated[int, typer.Option(min=128, help="Width of the random Llama, a multiple of 64.")] = 1024,
    layers: Annotated[int, typer.Option(min=1, help="Its layers.")] = 8,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A config.json in its place.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Requests of this trace; arrivals are stretched.", show_default="Poisson")
    ] = None,
    backend: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute on a CPU.")] = 1,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Token budget of an iteration.")] = 512,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 32,
    attempts: Annotated[
        int, typer.Option(min=1, help="Serve a load again, so often at most, while other programs disturb it.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and lengths.")] = 0,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the errors as JSON; - prints only that.")
    ] = None,
) -> None:
    """Serve requests with transformers' continuous batching, replay the same ones, and compare.

    Model weights are random; what is compared is time.
    """
    _require_libraries()
    from apexsim.calibration.closed_loop.engine import EngineLimits
    from apexsim.calibration.closed_loop.files import write_set
    from apexsim.calibration.closed_loop.plan import llama_config
    from apexsim.calibration.closed_loop.run import closed_loop, draw_requests
    from apexsim.calibration.closed_loop.transformers_engine import TransformersEngine
    from apexsim.report.simulation import as_trace
    from apexsim.spec import catalog
    from apexsim.spec.base import load_yaml
    from apexsim.spec.huggingface import model_from_config
    from apexsim.workload.transform import head

    config = load_yaml(model) if model else llama_config(hidden_size, layers)
    profile = catalog.device(device)
    served_model = model_from_config(config, model.stem if model else "random-llama", str(model or "calibrate loop"))
    drawn = head(as_trace(trace), requests) if trace else draw_requests(requests, seed)
    limits = EngineLimits(max_num_batched_tokens, max_num_seqs)
    engine = TransformersEngine(config, limits, device=backend, threads=threads)
    try:
        shares = [float(share) for share in load.split(",")]
        result = closed_loop(engine, served_model, profile, drawn, shares, attempts=attempts, on_step=say)
    finally:
        engine.close()
    write_set(out, result, engine, config, profile, date.today())
    if json is not None:
        put_json(json, _figures(result))
    if json != "-":
        _print(result)
    say(f"written: {out}; apexsim validate {out} shows it again")


def _require_libraries() -> None:
    from apexsim.calibration.microbench.machine import require

    for library in ("torch", "transformers"):
        require(library, "calibrate loop")
    # oneDNN compiles one kernel a shape; a served model meets thousands of shapes, the default keeps a thousand.
    # It reads this when it is loaded.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32768")


def _figures(result: LoopResult) -> dict[str, Any]:
    host = result.host.model
    return {
        "median_e2e_error": result.median_e2e_error,
        "host": {"iteration_s": host.iteration_s, "sequence_s": host.sequence_s, "entry_s": host.entry_s},
        "runs": [
            {
                "run": run.load.name, "rate_rps": run.load.rate_rps, "waited_share": run.served.waited_share,
                "metrics": {
                    name: {"mean_error": compared.mean_error, "median_abs_error": compared.median_abs_error}
                    for name, compared in run.compared.items()
                },
            }
            for run in result.runs
        ],
    }  # fmt: skip


def _print(result: LoopResult) -> None:
    from rich.table import Table

    from apexsim.calibration.closed_loop.files import error_rows

    host = result.host.model
    typer.echo(
        f"engine's own time: {host.iteration_s * 1e3:.2f} ms an iteration, {host.sequence_s * 1e6:.0f} us a sequence "
        f"more, {host.entry_s * 1e3:.2f} ms before a request"
    )
    table = Table(box=None)
    for title in TITLES:
        table.add_column(title, justify="left" if title in ("run", "metric") else "right")
    for name, rate, waited, tries, metric, measured, simulated, error, median, p90 in error_rows(result):
        table.add_row(
            name, f"{rate:.2f}", f"{waited:.1%}", str(tries), metric.removesuffix("_s").upper(),
            f"{measured * 1e3:.1f} ms", f"{simulated * 1e3:.1f} ms", f"{error:+.1%}", f"{median:.1%}", f"{p90:.1%}",
        )  # fmt: skip
    print_rich(table)
    typer.echo(f"median E2E error of all requests: {result.median_e2e_error:.1%}")
