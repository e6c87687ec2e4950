"""What stands around an engine's command, read from ``platforms.yaml``: images, routers, replicas on several nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from apexsim.report.launch.realise import Launch
from apexsim.report.launch.table import FOLDER, numbers
from apexsim.spec import catalog
from apexsim.spec.base import load_yaml
from apexsim.spec.plan import Plan, Role

HTTP_PORT = 8000
"""Where clients ask; replicas listen on the ports behind it."""


@cache
def platforms() -> dict[str, Any]:
    """The whole file."""
    return load_yaml(FOLDER / "platforms.yaml")


def engine_facts(engine: str) -> dict[str, str]:
    """Image, health path and Dynamo module of an engine."""
    found: dict[str, str] = platforms()["engines"][engine]
    return found


def device_of(launch: Launch) -> str:
    """The device that a pool stands on."""
    return launch.pool.device or launch.plan.cluster.device


def of_device(table: Mapping[str, str | None], device: str) -> str | None:
    """The entry of a device in a table by names of profiles and by vendors; None where there is none."""
    return table[device] if device in table else table.get(catalog.device(device).vendor)


def visible_devices(device: str, indices: Sequence[int]) -> dict[str, str]:
    """The variable that tells a process which devices of its node are its own; empty where none counts devices."""
    name = of_device(platforms()["visible"], device)
    return {} if name is None else {name: ",".join(map(str, indices))}


def plug_in(engine: str, device: str) -> str | None:
    """What has to be installed beside an engine for a device; "" where nothing has, None where it cannot run there."""
    table: dict[str, str | None] = {catalog.device(device).vendor: ""} | platforms()["plug_ins"].get(engine, {})
    return of_device(table, device)


def router_word(plan: Plan, table: str, role: Role = "serve") -> tuple[str | None, str]:
    """What a router is called in one of the tables of routers, and the plan's own name; None: it has none like it."""
    name = plan.router_of(role)
    return platforms()[table].get(name), name


def on_several_nodes(launch: Launch, nodes: int, rank: int, leader: str, per_node: int) -> list[str] | None:
    """Arguments that join the processes of a replica on ``nodes`` nodes; None where the engine's release has none.

    Args:
        leader: address of the first node. per_node: devices of a node.
    """
    pool, whole = launch.pool, launch.pool.tp * launch.pool.pp * launch.pool.cp
    degree = "dp" if pool.dp > 1 and whole <= per_node and per_node % whole == 0 else "model"
    for row in platforms()["several_nodes"].get(launch.release.engine, ()):
        fits = row["degree"] == "any" or (row["degree"] == degree and (degree == "dp" or pool.dp == 1))
        if fits and numbers(row["since"]) <= numbers(launch.release.version):
            local = max(per_node // whole, 1)
            words = {"nodes": nodes, "rank": rank, "leader": leader, "local": local, "start": rank * local}
            texts = [*row["every"], *(row["others"] if rank else [])]
            return [text.format(**words) for text in texts]
    return None
