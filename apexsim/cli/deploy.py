"""``apexsim deploy``: the commands and manifests that start a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apexsim.cli.terminal import say
from apexsim.errors import ApexsimError


def deploy(
    plan: Annotated[Path, typer.Argument(help="Plan file (YAML or JSON).", show_default=False)],
    engine: Annotated[
        str | None, typer.Option(help="vllm, sglang or tensorrt-llm.", show_default="the plan's")
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Release whose flags are written.", show_default="the plan's, or the newest")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="command, kubernetes, dynamo or llm-d.", show_default="command; with --out all"),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Container image of manifests.", show_default="the engine's")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write files there instead of printing.")] = None,
) -> None:
    """Write the launch commands of a plan, or a manifest; what the engine cannot do is said on stderr."""
    from apexsim.report.files import require_writable
    from apexsim.report.launch.deploy import deploy as deployed
    from apexsim.report.simulation import prepared_plan
    from apexsim.spec import catalog

    loaded = catalog.load_plan(plan)
    found = deployed(loaded, engine=engine, version=engine_version)
    try:
        prepared_plan(loaded, str(plan))
    except ApexsimError as refused:
        say(f"note: a simulation refuses this plan: {refused}")
    if out is None:
        typer.echo(found.text(form or "command", image), nl=False)
    else:
        require_writable(out / "launch.sh", make_folders=True)
        files = found.save(out, form, image)
        say(f"written: {', '.join(path.name for path in files)} in {out}")
        for why in () if form else found.left_out.values():
            say(f"not written: {why}")
    for line in found.said_in(form or "command"):
        say(line)
