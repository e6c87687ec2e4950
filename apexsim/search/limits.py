"""Limits of a search in plain terms: what ``--max-devices 8`` says of the plans, whatever the space says.

A limit that is given stands in the place of the space's own key of that name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from apexsim.engine.schedulers import preset_names
from apexsim.errors import UsageError, unknown_name
from apexsim.search.space import Space
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Engine


@dataclass(frozen=True, slots=True)
class Limits:
    """Keys of a space that have a flag. None: as the space has it."""

    min_devices: int | None = None
    max_devices: int | None = None
    max_usd_per_hour: float | None = None
    engine: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are set, by the space's key."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}


NAMES = tuple(field.name for field in fields(Limits))
UNLIMITED = Limits()


def check_limits(limits: Limits, cluster: Cluster, unpriced: Sequence[str]) -> None:
    """Each limit by itself.

    Args:
        unpriced: devices of the cluster whose price nobody knows.

    Raises:
        UsageError: a value that cannot be.
    """
    for name in ("min_devices", "max_devices"):
        value = getattr(limits, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"{_flag(name)} {value}: must be a whole number from 1")
    if limits.min_devices is not None and limits.min_devices > cluster.devices:
        raise UsageError(f"--min-devices {limits.min_devices}: {cluster} has {cluster.devices} devices")
    dollars = limits.max_usd_per_hour
    if dollars is not None and not (math.isfinite(dollars) and dollars > 0):
        raise UsageError(f"--max-usd-per-hour {dollars:g}: must be a number of dollars above 0")
    if dollars is not None and unpriced:
        no_price = f"{unpriced[0]} has no price; give --price, USD per device-hour"
        raise UsageError(f"--max-usd-per-hour {dollars:g}: {no_price}")
    if limits.engine is not None and limits.engine not in get_args(Engine):
        raise UsageError(f"--engine: {unknown_name('engine', limits.engine, get_args(Engine))}")


def limited(space: Space, limits: Limits) -> Space:
    """The space with the limits in the place of its own. Another engine brings its preset, and its newest version.

    Raises:
        UsageError: fewer devices at most than at least.
    """
    changes = limits.given
    if limits.engine is not None and limits.engine != space.engine:
        changes["engine_version"] = None
        if space.preset == (space.engine,) and limits.engine in preset_names():
            changes["preset"] = (limits.engine,)
    found = space.model_copy(update=changes)
    least, most = found.min_devices, found.max_devices
    if least is not None and most is not None and most < least:
        said = [_said(name, found, limits) for name in ("max_devices", "min_devices")]
        raise UsageError(f"{said[0]} is less than {said[1]}")
    return found


def overridden(space: Space, limits: Limits) -> tuple[str, ...]:
    """A few words for each limit that stands in the place of another one of the space."""
    before = {name: getattr(space, name) for name in limits.given}
    return tuple(
        f"{_flag(name)} {value}, not {name} = {before[name]} of the space"
        for name, value in limits.given.items() if before[name] not in (None, value)
    )  # fmt: skip


def in_force(space: Space) -> str:
    """``max_devices = 8, max_usd_per_hour = 20``; "" where nothing is limited."""
    named = ((name, getattr(space, name)) for name in NAMES if name != "engine")
    return ", ".join(f"{name} = {value:g}" for name, value in named if value is not None)


def _said(name: str, space: Space, limits: Limits) -> str:
    value = getattr(space, name)
    return f"{_flag(name)} {value}" if name in limits.given else f"{name} = {value} of the space"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
