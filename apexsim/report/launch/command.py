"""The commands of a plan as a shell script: one for each replica, or for each node of a replica, and the router's."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from apexsim.report.launch.placement import Seat, seats
from apexsim.report.launch.platforms import HTTP_PORT, device_of, on_several_nodes, visible_devices
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.routers import bootstrap_port, router_command
from apexsim.report.launch.shell import wrapped

_PROGRAMS = {
    "vllm": ("vllm", "serve", "{model}"),
    "sglang": ("python", "-m", "sglang.launch_server", "--model-path", "{model}"),
    "tensorrt-llm": ("trtllm-serve", "{model}"),
}
_NIXL_PORT = 5600


def options_file(launch: Launch) -> str:
    """The name of the YAML file of trtllm-serve for a pool."""
    return f"{launch.name}-options.yaml"


def hosts_file(launch: Launch, replica: int) -> str:
    """The name of the file that tells mpirun the nodes of a replica."""
    return f"{launch.name}-{replica}-hosts"


def hosts_files(launches: Sequence[Launch]) -> dict[str, str]:
    """Those files, for replicas of TensorRT-LLM on several nodes: a line a node."""
    found: dict[str, str] = {}
    for seat in seats(launches[0].plan):
        launch = launches[seat.pool]
        if seat.nodes > 1 and launch.release.engine == "tensorrt-llm":
            name = hosts_file(launch, seat.replica)
            found[name] = found.get(name, "") + f"node{seat.node} slots={len(seat.devices)}\n"
    return found


def arguments(launch: Launch, port: int, more: Sequence[str] = (), *, folder: str = "") -> list[str]:
    """The whole command of a replica, as words.

    Args:
        more: arguments beside those of the plan: of one of several nodes.
        folder: where the YAML file of trtllm-serve lies, with its slash.
    """
    words = [word.format(model=launch.model) for word in _PROGRAMS[launch.release.engine]]
    words += flag_words(launch)
    if launch.options:
        words += ["--extra_llm_api_options", f"{folder}{options_file(launch)}"]
    return [*words, *more, "--host", "0.0.0.0", "--port", str(port)]


def flag_words(launch: Launch) -> list[str]:
    """The flags alone, as words."""
    words: list[str] = []
    for flag, argument in launch.flags.items():
        words.append(flag)
        if isinstance(argument, list):
            words += argument
        elif argument is not None:
            words.append(str(argument))
    return words


def environment(launch: Launch, seat: Seat, host: str) -> dict[str, str]:
    """Variables of one process beside others on its node: its devices, and where KV transfers are asked for."""
    own = visible_devices(device_of(launch), seat.devices) | launch.environment
    if launch.release.engine == "vllm" and launch.pool.role in ("prefill", "decode"):
        own["VLLM_NIXL_SIDE_CHANNEL_HOST"] = host
        own["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(_NIXL_PORT + seat.devices[0])
    return own


def script(launches: Sequence[Launch], heading: Sequence[str]) -> str:
    """Every command, node by node, with what the plan asks and the engine cannot do at the top."""
    plan = launches[0].plan
    places = seats(plan)
    lines = [*(f"# {line}".rstrip() for line in heading), ""]
    nodes = sorted({seat.node for seat in places})
    ports = port_of(places)
    for node in nodes:
        if len(nodes) > 1:
            lines += [f"# ---- on node {node} (node{node} stands for its address)", ""]
        for seat in (seat for seat in places if seat.node == node):
            lines += [*_process(launches[seat.pool], seat, places, ports[seat], plan.cluster.devices_per_node), ""]
    lines += router_command(launches, places, ports)
    if len(places) > 1 and len(nodes) == 1:
        lines += ["wait"]
    return "\n".join(lines).rstrip() + "\n"


def port_of(places: Sequence[Seat]) -> dict[Seat, int]:
    """The port of every process: those of one node differ, and leave the clients' port to the router."""
    alone = sum(seat.rank == 0 for seat in places) == 1
    found: dict[Seat, int] = {}
    for seat in places:
        before = sum(other.node == seat.node for other in found)
        found[seat] = HTTP_PORT if alone else HTTP_PORT + 1 + before
    return found


def _process(launch: Launch, seat: Seat, places: Sequence[Seat], port: int, per_node: int) -> list[str]:
    title = f"# {launch.name} replica {seat.replica}"
    prefix: list[str] = []
    more: list[str] | None = []
    if seat.nodes > 1:
        title += f", node {seat.rank + 1} of {seat.nodes}"
        leader = next(s for s in places if (s.pool, s.replica, s.rank) == (seat.pool, seat.replica, 0))
        if launch.release.engine == "tensorrt-llm":
            if seat.rank:
                return [f"{title}: started by the first node's mpirun"]
            world = str(launch.pool.devices_per_replica)
            hosts = hosts_file(launch, seat.replica)
            prefix = ["mpirun", "-n", world, "--hostfile", hosts, "trtllm-llmapi-launch"]
        else:
            more = on_several_nodes(launch, seat.nodes, seat.rank, f"node{leader.node}", per_node)
    if more is None:
        return [f"{title}: {launch.release.engine} {launch.release.version} cannot: no flags are known that join "
                "nodes with these degrees; start it on a Ray cluster"]  # fmt: skip
    host = f"node{seat.node}" if len({other.node for other in places}) > 1 else "127.0.0.1"
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment(launch, seat, host).items()]
    if launch.pool.role == "prefill" and launch.release.engine == "sglang":
        own = {"--disaggregation-bootstrap-port": bootstrap_port(seat)}
        launch = replace(launch, flags=launch.flags | own)
    words = [*variables, *map(shlex.quote, [*prefix, *arguments(launch, port, more)])]
    return [title, *wrapped([*words, *([] if len(places) == 1 else ["&"])])]
