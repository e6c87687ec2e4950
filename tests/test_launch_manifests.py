"""Manifests parse, have the fields that their kinds need, and hold as many devices as the plan."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Any

import pytest
import yaml

from apexsim.errors import UsageError
from apexsim.report.launch.deploy import FORMATS, deploy
from apexsim.report.launch.placement import seats
from apexsim.report.launch.table import engines
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from tests.house import ROOT

SEVERAL_NODES = "{model: DeepSeek-V3, cluster: 4x8xh200-sxm, pools: [{replicas: 2, tp: 16}]}"
RANKS = "{model: DeepSeek-V3, cluster: 3x8xh200-sxm, pools: [{dp: 24, ep: 24}]}"
ALONE = "{model: Llama-3.1-8B, cluster: 1xh100-sxm, pools: [{}]}"


def plan_of(text: str) -> Plan:
    return parse(Plan, yaml.safe_load(text), source="test")


def example(name: str) -> Plan:
    return catalog.load_plan(ROOT / "docs" / "examples" / f"{name}.yaml")


def manifests(plan: Plan, form: str, engine: str | None = None) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(deploy(plan, engine=engine).text(form)))


def pods(found: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """(number of them, specification) of every kind of pod."""
    several: list[tuple[int, dict[str, Any]]] = []
    for each in found:
        spec = each.get("spec", {})
        if each["kind"] in ("Deployment", "StatefulSet"):
            several.append((spec["replicas"], spec["template"]["spec"]))
        elif each["kind"] == "LeaderWorkerSet":
            inner = spec["leaderWorkerTemplate"]
            several.append((spec["replicas"], inner["leaderTemplate"]["spec"]))
            several.append((spec["replicas"] * (inner["size"] - 1), inner["workerTemplate"]["spec"]))
        elif each["kind"] == "DynamoGraphDeployment":
            for part in spec["components"]:
                count = part["replicas"] * part.get("multinode", {}).get("nodeCount", 1)
                several.append((count, part["podTemplate"]["spec"]))
    return several


def devices(found: list[dict[str, Any]]) -> int:
    limits = (
        (count, container.get("resources", {}).get("limits", {}))
        for count, pod in pods(found)
        for container in pod["containers"]
    )
    return sum(count * int(limit.get("nvidia.com/gpu", 0)) for count, limit in limits)


PLANS = {
    "one": plan_of(ALONE), "replicas": example("plan"), "phases": example("disaggregated"),
    "kinds": example("two-kinds"), "nodes": plan_of(SEVERAL_NODES), "ranks": plan_of(RANKS),
}  # fmt: skip


@pytest.mark.parametrize("form", ["kubernetes", "dynamo", "llm-d"])
@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("name", sorted(PLANS))
def test_manifests_have_what_their_kinds_need_and_the_plans_devices(name, engine, form):
    plan = PLANS[name]
    lacks_phases = form == "llm-d" and (engine != "vllm" or name not in ("phases", "kinds"))
    if lacks_phases or (form == "kubernetes" and engine == "tensorrt-llm" and name in ("nodes", "ranks")):
        with pytest.raises(UsageError, match=r"allowed|no flags are known"):
            manifests(plan, form, engine)
        return
    found = manifests(plan, form, engine)
    for each in found:
        assert each["apiVersion"]
        assert each["kind"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"])
    assert devices(found) == plan.devices
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
    maps = {each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"}
    for _, pod in pods(found):
        mounted = {volume["configMap"]["name"] for volume in pod.get("volumes", ()) if "configMap" in volume}
        assert mounted <= maps
        declared = {volume["name"] for volume in pod.get("volumes", ())}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["image"]
            assert all(isinstance(word, str) for word in (*container.get("command", ()), *container.get("args", ())))
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= declared


@pytest.mark.parametrize("name", ["one", "replicas", "nodes"])
def test_one_service_leads_clients_to_ready_pods(name):
    found = manifests(PLANS[name], "kubernetes")
    (front,) = (e for e in found if e["kind"] == "Service" and "clusterIP" not in e["spec"])
    wanted = front["spec"]["selector"].items()
    sets = [e for e in found if e["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet")]
    chosen = [e for e in sets if wanted <= e["metadata"]["labels"].items()]
    assert len(chosen) == 1
    engines_ = [c for _, pod in pods(found) for c in pod["containers"] if c["name"] == "engine"]
    assert any({"startupProbe", "readinessProbe", "livenessProbe"} <= set(container) for container in engines_)
    config = [e["data"]["default.conf.template"] for e in found if "-router" in e["metadata"]["name"] and "data" in e]
    if name == "one":
        assert config == []
    else:
        server = r"^ +server \S+\.\$\{NAMESPACE\}\.svc\.cluster\.local:8000 resolve;$"
        assert len(re.findall(server, config[0], re.MULTILINE)) == 2
        assert "least_conn;" in config[0]


def test_nodes_of_a_replica_find_each_other():
    (leader_set,) = (e for e in manifests(PLANS["nodes"], "kubernetes") if e["kind"] == "LeaderWorkerSet")
    inner = leader_set["spec"]["leaderWorkerTemplate"]
    assert inner["size"] == 2
    leader, worker = (inner[key]["spec"]["containers"][0] for key in ("leaderTemplate", "workerTemplate"))
    joined = "--nnodes 2 --node-rank $(LWS_WORKER_INDEX) --master-addr $(LWS_LEADER_ADDRESS)"
    assert joined in " ".join(leader["command"])
    assert f"{joined} --headless" in " ".join(worker["command"])
    assert "startupProbe" not in worker


def test_data_parallel_ranks_on_several_nodes_count_on():
    (leader_set,) = (e for e in manifests(PLANS["ranks"], "kubernetes") if e["kind"] == "LeaderWorkerSet")
    inner = leader_set["spec"]["leaderWorkerTemplate"]
    leader, worker = (inner[key]["spec"]["containers"][0] for key in ("leaderTemplate", "workerTemplate"))
    assert "--data-parallel-size 24 " in " ".join(leader["command"])
    assert "--data-parallel-size-local 8 " in " ".join(leader["command"])
    assert worker["command"][:2] == ["sh", "-c"]
    assert worker["command"][2].endswith("--data-parallel-start-rank $((LWS_WORKER_INDEX * 8))")


def test_pools_on_several_kinds_of_devices_ask_for_their_nodes():
    found = manifests(PLANS["kinds"], "kubernetes", "sglang")
    wanted = [pod["nodeSelector"]["apexsim/device"] for _, pod in pods(found) if "nodeSelector" in pod]
    assert wanted == ["h200-sxm", "h100-sxm"]
    router = next(pod["containers"][0]["command"] for _, pod in pods(found) if pod["containers"][0]["name"] == "router")
    assert router.count("--prefill") == 2
    assert router.count("--decode") == 2


def test_roles_are_told_to_dynamo_and_to_llm_d():
    plan = PLANS["phases"]
    (graph,) = manifests(plan, "dynamo")
    types = {part["name"]: part["type"] for part in graph["spec"]["components"]}
    assert types == {"Frontend": "frontend", "prefill": "prefill", "decode": "decode"}
    pools = manifests(plan, "llm-d")
    roles = [e["metadata"]["labels"]["llm-d.ai/role"] for e in pools if e["kind"] == "StatefulSet"]
    assert roles == ["prefill", "decode"]
    decode = next(e for e in pools if e["metadata"].get("labels", {}).get("llm-d.ai/role") == "decode")
    pod = decode["spec"]["template"]["spec"]
    assert {"--vllm-port=8200", "--secure-proxy=false"} <= set(pod["initContainers"][0]["args"])
    assert pod["containers"][0]["command"][-1] == "8200"
    (pool,) = (e for e in pools if e["kind"] == "InferencePool")
    assert pool["spec"]["selector"]["matchLabels"].items() <= decode["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("router", "mode"), [("power-of-two", "power-of-two"), ("prefix-aware", "kv"), ("session-affine", "round-robin")]
)
def test_dynamo_routes_as_the_plan_does_or_says_that_it_cannot(router, mode):
    text = deploy(plan_of(f"{{model: Llama-3.1-8B, cluster: 2xh100-sxm, router: {router}, pools: [{{replicas: 2}}]}}"))
    (graph,) = yaml.safe_load_all(text.text("dynamo"))
    args = graph["spec"]["components"][0]["podTemplate"]["spec"]["containers"][0]["args"]
    assert args[args.index("--router-mode") + 1] == mode
    assert ("has no such mode" in text.text("dynamo")) == (router == "session-affine")


def test_replicas_take_devices_of_their_own():
    for plan in PLANS.values():
        taken = [(seat.node, device) for seat in seats(plan) for device in seat.devices]
        assert len(set(taken)) == len(taken) == plan.devices


def test_replicas_that_do_not_fit_whole_into_nodes_are_refused():
    plan = plan_of("{model: Llama-3.1-8B, cluster: 2x8xh100-sxm, pools: [{replicas: 3, tp: 1, pp: 5}]}")
    with pytest.raises(UsageError, match="do not fit whole into nodes of 8"):
        deploy(plan)


def test_the_script_quotes_and_comments_and_waits():
    text = deploy(example("disaggregated")).text()
    lines = [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    for line in lines:
        words = shlex.split(line)
        assert '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}' in words
    assert "# prefill replica 1" in text
    assert "# ---- on node 1" in text
    assert deploy(example("plan")).text().rstrip().endswith("wait")


def test_replicas_of_tensorrt_llm_on_several_nodes_get_their_hosts():
    found = deploy(PLANS["nodes"], engine="tensorrt-llm")
    files = found.files()
    assert files["serve-1-hosts"] == "node2 slots=8\nnode3 slots=8\n"
    assert "mpirun -n 16 --hostfile serve-1-hosts trtllm-llmapi-launch trtllm-serve" in files["launch.sh"]
    assert "kubernetes.yaml" not in files
    assert "no flags are known here that join 2 nodes" in found.left_out["kubernetes"]


def test_processes_of_a_node_have_ports_of_their_own_and_the_router_has_the_clients():
    words = shlex.split(deploy(example("plan")).text().replace("\\\n", " "), comments=True)
    assert [port for flag, port in itertools.pairwise(words) if flag == "--port"] == ["8001", "8002"]
    assert "listen 8000;" in deploy(example("plan")).files()["router.conf"]
    assert "--port 8000" in deploy(PLANS["one"]).text().replace("\\\n", " ")


def test_ranks_of_several_devices_are_counted_as_ranks():
    plan = plan_of("{model: DeepSeek-V3, cluster: 2x8xh200-sxm, pools: [{tp: 2, dp: 8, ep: 16}]}")
    text = deploy(plan).text().replace("\\\n", " ")
    assert text.count("--data-parallel-size-local 4 ") == 2
    assert "--data-parallel-start-rank 4 " in " ".join(text.split())


def test_kv_is_asked_for_where_it_is():
    text = deploy(example("disaggregated")).text().replace("\\\n", " ")
    prefilling = re.findall(r"VLLM_NIXL_SIDE_CHANNEL_PORT=(\d+) .*--tensor-parallel-size 4", text)
    assert prefilling == ["5600", "5604"], "two of one node"
    (decode,) = (line for line in text.splitlines() if "--tensor-parallel-size 8" in line)
    assert "VLLM_NIXL_SIDE_CHANNEL_HOST=node1 VLLM_NIXL_SIDE_CHANNEL_PORT=5600" in decode


def test_every_file_carries_what_the_engine_cannot_do():
    plan = plan_of("{model: Llama-3.1-8B, cluster: 2xh100-sxm, pools: [{replicas: 2, clock_mhz: 1200}]}")
    for form in FORMATS[:3]:
        head = [line for line in deploy(plan).text(form).splitlines() if line.startswith("#")]
        assert any("vllm cannot: clock_mhz=1200" in line for line in head)
    assert set(deploy(plan).files()) == {"launch.sh", "router.conf", "kubernetes.yaml", "dynamo.yaml"}
