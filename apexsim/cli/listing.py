"""``apexsim list``: the names that plans and flags know."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from apexsim.cli.terminal import print_json, print_rich

if TYPE_CHECKING:
    pass


class Kind(StrEnum):
    """What can be listed."""

    models = "models"
    devices = "devices"
    schedulers = "schedulers"
    techniques = "techniques"
    formats = "formats"
    routers = "routers"


def listing(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List known models, devices, schedulers, techniques, trace formats or routers."""
    from apexsim.report.console import render
    from apexsim.report.listing import listing_of, table_of

    entries = listing_of(kind.value)
    if json:
        print_json(entries)
    else:
        print_rich(render((table_of(kind.value, entries),)))
