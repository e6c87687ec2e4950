"""A Kubernetes manifest of a plan: a set of pods for each pool, a router before them, one service for clients."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from apexsim.report.launch import manifest
from apexsim.report.launch.manifest import Manifest, app_name, labels
from apexsim.report.launch.platforms import HTTP_PORT, engine_facts, platforms, router_word
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.routers import disaggregated_options, is_disaggregated, nginx_config, sglang_router
from apexsim.report.launch.settings import BOOTSTRAP_PORT

DOMAIN = "svc.cluster.local"


def kubernetes(launches: Sequence[Launch], heading: Sequence[str], image: str | None = None) -> str:
    """The manifest as text.

    Raises:
        UsageError: devices or a replica on several nodes that Kubernetes or the engine's release has no name for.
    """
    app = app_name(launches)
    found: list[Manifest] = []
    for launch in launches:
        if launch.options:
            found.append(manifest.options_map(app, launch))
        found.append(manifest.workers(app, launch, image))
        if manifest.nodes_of(launch) == 1:  # a LeaderWorkerSet makes a headless service of its own
            found.append(manifest.service(f"{app}-{launch.name}", labels(app, launch), headless=True))
    return manifest.text([*found, *_front(app, launches)], heading)


def _front(app: str, launches: Sequence[Launch]) -> list[Manifest]:
    """What clients ask: the one replica itself, or a router."""
    if is_disaggregated(launches):
        return _before_phases(app, launches)
    pods = [name for launch in launches for name in pod_names(app, launch)]
    if len(pods) == 1:
        return [manifest.service(app, labels(app, launches[0]))]
    servers = [f"{name}.${{NAMESPACE}}.{DOMAIN}:{HTTP_PORT} resolve" for name in pods]
    config = nginx_config(servers, router_word(launches[0].plan, "nginx")[0], resolver="${NGINX_LOCAL_RESOLVERS}")
    container = {
        "name": "nginx",
        "image": platforms()["router_image"],
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}},
        "readinessProbe": {"tcpSocket": {"port": HTTP_PORT}, "periodSeconds": 5},
        # the image fills the namespace and the name servers of the pod into the template
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "NGINX_ENTRYPOINT_LOCAL_RESOLVERS", "value": "true"},
        ],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/nginx/templates"}],
    }
    return _router(app, container, manifest.config_map(f"{app}-router", {"default.conf.template": config}))


def _router(app: str, container: Manifest, config: Manifest | None) -> list[Manifest]:
    marks = {"app": app, "pool": "router"}
    volumes = [] if config is None else [{"name": "config", "configMap": {"name": config["metadata"]["name"]}}]
    router = manifest.deployment(f"{app}-router", marks, {"containers": [container], "volumes": volumes})
    return [*([] if config is None else [config]), router, manifest.service(app, marks)]


def _before_phases(app: str, launches: Sequence[Launch]) -> list[Manifest]:
    """SGLang's and TensorRT-LLM's own routers; vLLM ships none, which the heading says."""
    engine, version = launches[0].release.engine, launches[0].release.version
    image = engine_facts(engine)["image"].format(version=version)
    urls: dict[str, list[str]] = {}
    for launch in launches:
        urls.setdefault(launch.pool.role, []).extend(f"{name}:{HTTP_PORT}" for name in pod_names(app, launch))
    ports = [{"name": "http", "containerPort": HTTP_PORT}]
    probe = {"tcpSocket": {"port": HTTP_PORT}, "periodSeconds": 5}
    if engine == "sglang":
        words = sglang_router(launches[0].plan, urls, [BOOTSTRAP_PORT] * len(urls["prefill"]))
        return _router(app, {"name": "router", "image": image, "command": words, "ports": ports,
                             "readinessProbe": probe}, None)  # fmt: skip
    if engine == "tensorrt-llm":
        config = yaml.safe_dump(disaggregated_options(urls), sort_keys=False)
        command = ["trtllm-serve", "disaggregated", "-c", f"{manifest.OPTIONS_FOLDER}disaggregated.yaml"]
        container = {"name": "router", "image": image, "command": command, "ports": ports, "readinessProbe": probe,
                     "volumeMounts": [{"name": "config", "mountPath": manifest.OPTIONS_FOLDER}]}  # fmt: skip
        return _router(app, container, manifest.config_map(f"{app}-router", {"disaggregated.yaml": config}))
    return []


def pod_names(app: str, launch: Launch) -> list[str]:
    """The address of each replica of a pool, by the name of its first pod."""
    name = f"{app}-{launch.name}"
    return [f"{name}-{replica}.{name}" for replica in range(launch.pool.replicas)]
