"""Pieces of Kubernetes manifests: containers, pods, services. Plain mappings; ``text`` writes them as YAML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from apexsim.errors import UsageError
from apexsim.report.launch.command import arguments, options_file
from apexsim.report.launch.placement import seats
from apexsim.report.launch.platforms import HTTP_PORT, device_of, engine_facts, of_device, on_several_nodes, platforms
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.settings import BOOTSTRAP_PORT
from apexsim.spec import catalog

Manifest = dict[str, Any]

SECRET = "hf-token"
NODE_LABEL = "apexsim/device"
"""Of nodes, where a cluster has several kinds: the name of their device profile."""

OPTIONS_FOLDER = "/etc/apexsim/"
LEADER, INDEX = "$(LWS_LEADER_ADDRESS)", "$(LWS_WORKER_INDEX)"
STARTUP_S, PROBE_S = 7200, 10
"""Weights of hundreds of GB take long to come over a network; a probe looks every ten seconds."""


class _Text(yaml.SafeDumper):
    """Strings of several lines as blocks."""


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Text.add_representer(str, _string)
_Text.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def text(manifests: Sequence[Manifest], heading: Sequence[str]) -> str:
    """YAML documents below a comment."""
    documents = "---\n".join(yaml.dump(m, Dumper=_Text, sort_keys=False, width=110) for m in manifests)
    return "".join(f"# {line}".rstrip() + "\n" for line in heading) + documents


def app_name(launches: Sequence[Launch]) -> str:
    """A name that Kubernetes takes, from the model's."""
    name = re.sub(r"[^a-z0-9]+", "-", launches[0].model.rpartition("/")[2].lower()).strip("-")
    return name[:40].rstrip("-") or "model"


def labels(app: str, launch: Launch) -> dict[str, str]:
    """What tells the pods of a pool from others."""
    return {"app": app, "pool": launch.name}


def nodes_of(launch: Launch) -> int:
    """Nodes of a replica."""
    return next(seat.nodes for seat in seats(launch.plan) if seat.pool == launch.index)


def device_resource(launch: Launch) -> str:
    """What a node calls its devices.

    Raises:
        UsageError: nobody knows a device plug-in for the vendor.
    """
    profile = catalog.device(device_of(launch))
    found = of_device(platforms()["resources"], profile.name)
    if found is None:
        raise UsageError(f"device {profile.name}: no Kubernetes device plug-in of {profile.vendor} is known here")
    return found


def pod(app: str, launch: Launch, image: str | None, *, port: int = HTTP_PORT, rank: int | None = None) -> Manifest:
    """The specification of a pod that runs one replica, or one node of it.

    Args:
        rank: of a replica on several nodes: 0 for the leader, 1 for every other; None where one node is all.
    """
    nodes, per_node = nodes_of(launch), launch.plan.cluster.devices_per_node
    devices = -(-launch.pool.devices_per_replica // nodes)
    volumes: list[Manifest] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if launch.options:
        volumes.append({"name": "options", "configMap": {"name": f"{app}-{launch.name}"}})
        mounts.append({"name": "options", "mountPath": OPTIONS_FOLDER})
    container: Manifest = {
        "name": "engine",
        "image": image or engine_facts(launch.release.engine)["image"].format(version=launch.release.version),
        "command": _command(launch, port, rank, nodes, per_node),
        "env": _environment(launch),
        "ports": [{"name": "http", "containerPort": port}, *_more_ports(launch)],
        "resources": {"limits": {device_resource(launch): str(devices)}},
        "volumeMounts": mounts,
    }
    if not rank:
        container |= probes(launch, port)
    several = len(launch.plan.cluster.groups) > 1
    where = {"nodeSelector": {NODE_LABEL: launch.pool.device or launch.plan.cluster.device}} if several else {}
    return {**where, "containers": [container], "volumes": volumes}


def probes(launch: Launch, port: int) -> Manifest:
    """When a replica is up, ready, and to be started anew."""
    asked = {"httpGet": {"path": engine_facts(launch.release.engine)["health"], "port": port}}
    return {
        "startupProbe": {**asked, "periodSeconds": PROBE_S, "failureThreshold": STARTUP_S // PROBE_S},
        "readinessProbe": {**asked, "periodSeconds": PROBE_S, "failureThreshold": 3},
        "livenessProbe": {**asked, "periodSeconds": PROBE_S, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _command(launch: Launch, port: int, rank: int | None, nodes: int, per_node: int) -> list[str]:
    if rank is None:
        return arguments(launch, port, folder=OPTIONS_FOLDER)
    more = on_several_nodes(launch, nodes, rank, LEADER, per_node)
    if more is None:
        raise UsageError(
            f"{launch.release.engine} {launch.release.version}: no flags are known here that join {nodes} nodes "
            f"with these degrees (a replica of {launch.pool.devices_per_replica} devices)"
        )
    # one template stands for every node but the first: the set fills its index in
    indexed = list(more)
    for place, flag in enumerate(more[:-1]):
        if flag == "--node-rank":
            indexed[place + 1] = INDEX
        elif flag == "--data-parallel-start-rank":
            words = [*arguments(launch, port, [*more[:place], *more[place + 2 :]]), flag]
            return ["sh", "-c", f"exec {shlex.join(words)} $((LWS_WORKER_INDEX * {more[place + 1]}))"]
    return arguments(launch, port, indexed, folder=OPTIONS_FOLDER)


def _environment(launch: Launch) -> list[Manifest]:
    token = {"secretKeyRef": {"name": SECRET, "key": "HF_TOKEN", "optional": True}}
    found: list[Manifest] = [{"name": "HF_TOKEN", "valueFrom": token}]
    found += [{"name": name, "value": value} for name, value in launch.environment.items()]
    if launch.release.engine == "vllm" and launch.pool.role in ("prefill", "decode"):
        field = {"fieldRef": {"fieldPath": "status.podIP"}}
        found.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": field})
    return found


def _more_ports(launch: Launch) -> list[Manifest]:
    if launch.release.engine == "sglang" and launch.pool.role == "prefill":
        return [{"name": "bootstrap", "containerPort": BOOTSTRAP_PORT}]
    return []


def config_map(name: str, files: Mapping[str, str]) -> Manifest:
    """Files that containers read."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(files)}


def options_map(app: str, launch: Launch) -> Manifest:
    """The YAML file of trtllm-serve."""
    file = {options_file(launch): yaml.safe_dump(launch.options, sort_keys=False)}
    return config_map(f"{app}-{launch.name}", file)


def service(name: str, selector: Mapping[str, str], *, port: int = HTTP_PORT, headless: bool = False) -> Manifest:
    """A service; a headless one gives every pod a name of its own, from before it is ready."""
    spec: Manifest = {"selector": dict(selector), "ports": [{"name": "http", "port": port, "targetPort": port}]}
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def deployment(name: str, marks: Mapping[str, str], specification: Manifest, replicas: int = 1) -> Manifest:
    """A Deployment."""
    template = {"metadata": {"labels": dict(marks)}, "spec": specification}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": dict(marks)},
        "spec": {"replicas": replicas, "selector": {"matchLabels": dict(marks)}, "template": template},
    }


def workers(app: str, launch: Launch, image: str | None, port: int = HTTP_PORT) -> Manifest:
    """The replicas of a pool: a StatefulSet, or a LeaderWorkerSet where a replica needs several nodes."""
    name, marks, nodes = f"{app}-{launch.name}", labels(app, launch), nodes_of(launch)
    if nodes == 1:
        template = {"metadata": {"labels": marks}, "spec": pod(app, launch, image, port=port)}
        return {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": name, "labels": marks},
            "spec": {
                "replicas": launch.pool.replicas,
                "serviceName": name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": marks},
                "template": template,
            },
        }
    leader = {"metadata": {"labels": marks}, "spec": pod(app, launch, image, port=port, rank=0)}
    other = {"metadata": {"labels": {"app": app}}, "spec": pod(app, launch, image, port=port, rank=1)}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": marks},
        "spec": {
            "replicas": launch.pool.replicas,
            "leaderWorkerTemplate": {
                "size": nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": other,
            },
        },
    }
