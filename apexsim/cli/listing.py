"""``apexsim list``: the names that plans and flags know."""

from __future__ import annotations

from typing import Annotated

import typer

from apexsim.cli.terminal import print_json, print_rich

KINDS = ("models", "devices", "clusters", "schedulers", "techniques", "formats", "routers", "importers")
"""What can be listed."""


def listing(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.", show_default=False)
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List known models, devices, clusters, schedulers, techniques, trace formats, routers or result formats."""
    from apexsim.errors import UsageError, unknown_name
    from apexsim.report.console import render
    from apexsim.report.listing import listing_of, table_of

    if kind not in KINDS:
        raise UsageError(unknown_name("kind", kind, KINDS))
    entries = listing_of(kind)
    if json:
        print_json(entries)
    else:
        print_rich(render((table_of(kind, entries),)))
