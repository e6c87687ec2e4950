"""What stands before the replicas: nginx before those that serve, the engine's own router before prefill and decode."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import yaml

from apexsim.report.launch.placement import Seat
from apexsim.report.launch.platforms import HTTP_PORT, platforms, router_word
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.settings import BOOTSTRAP_PORT
from apexsim.report.launch.shell import wrapped
from apexsim.spec.plan import Plan, Role

PHASES: tuple[Role, Role] = ("prefill", "decode")
NGINX_FILE, DISAGGREGATED_FILE = "router.conf", "disaggregated.yaml"


def bootstrap_port(seat: Seat) -> int:
    """Replicas that prefill on one node need ports of their own."""
    return BOOTSTRAP_PORT + seat.devices[0]


def is_disaggregated(launches: Sequence[Launch]) -> bool:
    """Whether some pool prefills for another."""
    return any(launch.pool.role == "prefill" for launch in launches)


def router_notes(launches: Sequence[Launch]) -> tuple[str, ...]:
    """What a reader must know of the router that stands in for the plan's."""
    plan, engine = launches[0].plan, launches[0].release.engine
    if is_disaggregated(launches):
        if engine == "vllm":
            return ("a router between prefill and decode: vllm ships none; formats llm-d and dynamo have one",)
        return tuple(note for role in PHASES if (note := _pd_note(launches, role)))
    if sum(pool.replicas for pool in plan.pools) == 1:
        return ()
    word, name = router_word(plan, "nginx")
    if word is None:
        return (f"router={name}: nginx cannot; least_conn stands in",)
    note = platforms()["nginx_notes"].get(name)
    return (f"router={name}: {note}",) if note else ()


def _pd_note(launches: Sequence[Launch], role: Role) -> str:
    if launches[0].release.engine != "sglang":
        return ""
    word, name = router_word(launches[0].plan, "sglang_router", role)
    return "" if word else f"router={name} before {role}: sglang_router has no such policy; round_robin stands in"


def nginx_config(servers: Sequence[str], word: str | None, *, resolver: str = "") -> str:
    """What nginx' http block holds to spread requests over ``servers``; it streams answers and waits long for them.

    Args:
        word: the way to choose; None: the one that stands in.
        resolver: name servers, where the servers' names come and go.
    """
    way = "least_conn" if word is None else word
    lines = [
        "upstream replicas {",
        *([f"  {way};"] if way else []),
        *(["  zone replicas 64k;", f"  resolver {resolver} valid=5s;"] if resolver else []),
        *(f"  server {server};" for server in servers),
        "}",
        "server {",
        f"  listen {HTTP_PORT};",
        "  location / {",
        "    proxy_pass http://replicas;",
        "    proxy_http_version 1.1;",
        "    proxy_buffering off;",
        "    proxy_read_timeout 1h;",
        "    client_max_body_size 64m;",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def addresses(launches: Sequence[Launch], places: Sequence[Seat], ports: Mapping[Seat, int]) -> dict[str, list[str]]:
    """Role → host:port of its replicas; hosts are those of the nodes, localhost where there is one."""
    several = len({seat.node for seat in places}) > 1
    found: dict[str, list[str]] = {}
    for seat in places:
        if seat.rank == 0:
            host = f"node{seat.node}" if several else "127.0.0.1"
            found.setdefault(launches[seat.pool].pool.role, []).append(f"{host}:{ports[seat]}")
    return found


def router_files(
    launches: Sequence[Launch], places: Sequence[Seat], ports: Mapping[Seat, int]
) -> dict[str, str]:
    """Configurations that the router's command reads: name → text."""
    found = addresses(launches, places, ports)
    if is_disaggregated(launches):
        if launches[0].release.engine != "tensorrt-llm":
            return {}
        return {DISAGGREGATED_FILE: yaml.safe_dump(disaggregated_options(found), sort_keys=False)}
    servers = found.get("serve", [])
    if len(servers) < 2:
        return {}
    inner = nginx_config(servers, router_word(launches[0].plan, "nginx")[0])
    return {NGINX_FILE: f"events {{}}\nhttp {{\n{inner}}}\n"}


def disaggregated_options(found: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """The file of ``trtllm-serve disaggregated``."""
    return {
        "hostname": "0.0.0.0",
        "port": HTTP_PORT,
        "backend": "pytorch",
        "context_servers": {"num_instances": len(found["prefill"]), "urls": list(found["prefill"])},
        "generation_servers": {"num_instances": len(found["decode"]), "urls": list(found["decode"])},
    }


def router_command(launches: Sequence[Launch], places: Sequence[Seat], ports: Mapping[Seat, int]) -> list[str]:
    """The lines of the script that start the router; none where one replica is all."""
    found = addresses(launches, places, ports)
    if not is_disaggregated(launches):
        serving = found.get("serve", [])
        return ["# router", f'nginx -g "daemon off;" -c "$PWD/{NGINX_FILE}"'] if len(serving) > 1 else []
    engine = launches[0].release.engine
    if engine == "tensorrt-llm":
        return ["# router", f"trtllm-serve disaggregated -c {DISAGGREGATED_FILE}"]
    if engine == "vllm":
        return ["# router: none that vLLM ships; formats llm-d and dynamo have one"]
    ports_of_prefill = [bootstrap_port(s) for s in places if s.rank == 0 and launches[s.pool].pool.role == "prefill"]
    words = sglang_router(launches[0].plan, found, ports_of_prefill)
    return ["# router", *wrapped(list(map(shlex.quote, words)))]


def sglang_router(plan: Plan, found: Mapping[str, Sequence[str]], bootstrap: Sequence[int]) -> list[str]:
    """The command of sglang_router before pools of prefill and decode.

    Args:
        found: role → host:port of its replicas. bootstrap: bootstrap port of each that prefills.
    """
    words = ["python", "-m", "sglang_router.launch_router", "--pd-disaggregation"]
    for address, port in zip(found["prefill"], bootstrap, strict=True):
        words += ["--prefill", f"http://{address}", str(port)]
    for address in found["decode"]:
        words += ["--decode", f"http://{address}"]
    for role in PHASES:
        words += [f"--{role}-policy", router_word(plan, "sglang_router", role)[0] or "round_robin"]
    return [*words, "--host", "0.0.0.0", "--port", str(HTTP_PORT)]
