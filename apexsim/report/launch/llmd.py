"""Manifests in the way of llm-d for pools of prefill and decode of vLLM.

Pods carry llm-d's labels, a decode pod has its routing sidecar before the engine, an InferencePool gathers them, and a
ConfigMap holds the plug-ins of its endpoint picker. The gateway and the picker themselves are installed by llm-d's own
charts (github.com/llm-d/llm-d, guides/pd-disaggregation, read 2026-11-21).
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from apexsim.errors import UsageError
from apexsim.report.launch import manifest
from apexsim.report.launch.manifest import Manifest, app_name
from apexsim.report.launch.platforms import HTTP_PORT, platforms
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.routers import is_disaggregated

ENGINE_PORT = 8200


def llm_d(launches: Sequence[Launch], heading: Sequence[str], image: str | None = None) -> str:
    """The manifests as text.

    Raises:
        UsageError: another engine, or a plan without pools of prefill and decode.
    """
    engine = launches[0].release.engine
    if engine != "vllm":
        raise UsageError(f"format llm-d: {engine} is not written so here (allowed: engine vllm; or --format dynamo)")
    if not is_disaggregated(launches):
        raise UsageError("format llm-d: the plan has no pools that prefill and decode (allowed: --format kubernetes)")
    app = app_name(launches)
    found = [_pods(app, launch, image) for launch in launches]
    return manifest.text([*found, _pool(app), _picker(app)], [
        *heading, "the gateway and the endpoint picker come from llm-d's charts; give the picker this ConfigMap",
    ])  # fmt: skip


def _labels(app: str, role: str) -> dict[str, str]:
    return {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": app, "llm-d.ai/role": role}


def _pods(app: str, launch: Launch, image: str | None) -> Manifest:
    role = launch.pool.role
    found = manifest.workers(app, launch, image, ENGINE_PORT if role == "decode" else HTTP_PORT)
    marks = _labels(app, role)
    inner = found["spec"].get("leaderWorkerTemplate")
    template = found["spec"]["template"] if inner is None else inner["leaderTemplate"]
    template["metadata"] = {"labels": marks}
    found["metadata"]["labels"] = marks
    if inner is None:
        found["spec"]["selector"] = {"matchLabels": marks}
    if role == "decode":
        template["spec"]["initContainers"] = [_sidecar()]
    return found


def _sidecar() -> Manifest:
    """Asks a replica that prefills first, then the engine beside it; an init container that stays is a sidecar."""
    return {
        "name": "routing-proxy",
        "image": platforms()["llm_d_sidecar"],
        "args": [
            f"--port={HTTP_PORT}", f"--vllm-port={ENGINE_PORT}", "--connector=nixlv2", "--secure-proxy=false",
        ],
        "restartPolicy": "Always",
        "ports": [{"name": "proxy", "containerPort": HTTP_PORT}],
    }


def _pool(app: str) -> Manifest:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": app},
        "spec": {
            "selector": {"matchLabels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": app}},
            "targetPorts": [{"number": HTTP_PORT}],
            "endpointPickerRef": {"name": f"{app}-epp", "port": {"number": 9002}},
        },
    }


def _picker(app: str) -> Manifest:
    """Every request is prefilled elsewhere; among the replicas of a role the shortest queue."""
    names = ("prefill-header-handler", "prefill-filter", "decode-filter", "queue-scorer")
    config = {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            *({"type": name} for name in names),
            {"type": "pd-profile-handler", "parameters": {"threshold": 0, "hashBlockSize": 5}},
        ],
        "schedulingProfiles": [
            {"name": role, "plugins": [{"pluginRef": f"{role}-filter"}, {"pluginRef": "queue-scorer", "weight": 1.0}]}
            for role in ("prefill", "decode")
        ],
    }
    return manifest.config_map(f"{app}-epp", {"pd-config.yaml": yaml.safe_dump(config, sort_keys=False)})
