"""``apexsim schema``: the JSON Schemas of the files that a user writes."""

from __future__ import annotations

from typing import Annotated

import typer

from apexsim.cli.terminal import print_json


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            help="plan, cluster, slo, hardware-profile, model, space, baseline, or fleet, pools, experts, precision: "
            "the files of `apexsim plan`.", show_default="all",
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of one kind of file, or of all by name."""
    from apexsim.errors import UsageError, unknown_name
    from apexsim.search.schemas import all_schemas

    known = all_schemas()
    if name is None:
        print_json(known)
    elif name in known:
        print_json(known[name])
    else:
        raise UsageError(unknown_name("schema", name, known))
