"""A DynamoGraphDeployment of a plan: Dynamo's frontend routes, its workers are the plan's pools.

In the form of the examples of a stated release of Dynamo (``platforms.yaml``). Each worker takes the engine's own
flags; which release of the engine a runtime image holds is Dynamo's affair, and the heading says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apexsim.report.launch import manifest
from apexsim.report.launch.command import flag_words, options_file
from apexsim.report.launch.manifest import Manifest, app_name
from apexsim.report.launch.platforms import engine_facts, platforms, router_word
from apexsim.report.launch.realise import Launch
from apexsim.report.launch.routers import is_disaggregated

_TYPES = {"serve": "worker", "encode": "worker", "prefill": "prefill", "decode": "decode"}
_MODEL_FLAGS = {"vllm": "--model", "sglang": "--model-path", "tensorrt-llm": "--model-path"}
_TRTLLM = {
    # trtllm-serve's options → the keys of the file that dynamo.trtllm takes them from
    "--tp_size": "tensor_parallel_size", "--pp_size": "pipeline_parallel_size", "--ep_size": "moe_expert_parallel_size",
    "--max_num_tokens": "max_num_tokens", "--max_batch_size": "max_batch_size", "--max_seq_len": "max_seq_len",
}  # fmt: skip


def dynamo(launches: Sequence[Launch], heading: Sequence[str], image: str | None = None) -> str:
    """The manifest as text."""
    app = app_name(launches)
    version = platforms()["dynamo"]
    facts = engine_facts(launches[0].release.engine)
    runtime = image or facts["dynamo_image"].format(dynamo=version)
    mode, name = router_word(launches[0].plan, "dynamo_router", "prefill" if is_disaggregated(launches) else "serve")
    lines = [f"Dynamo {version}; flags are those of {launches[0].release.engine} {launches[0].release.version}: "
             "see which release the runtime image holds"]  # fmt: skip
    if mode is None:
        lines.append(f"router={name}: Dynamo's frontend has no such mode; round-robin stands in")
    frontend = {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": _template({
            "name": "main",
            "image": runtime,
            "command": ["python3", "-m", "dynamo.frontend"],
            "args": ["--http-port", "8000", "--router-mode", mode or "round-robin"],
        }),
    }  # fmt: skip
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": app},
        "spec": {"components": [frontend, *(_worker(app, launch, runtime) for launch in launches)]},
    }
    maps = [manifest.options_map(app, _with_options(launch)) for launch in launches if _options(launch)]
    return manifest.text([*maps, graph], [*heading, *lines])


def _template(container: Manifest, volumes: Sequence[Manifest] = ()) -> Manifest:
    return {"spec": {"containers": [container], **({"volumes": list(volumes)} if volumes else {})}}


def _worker(app: str, launch: Launch, image: str) -> Manifest:
    engine, nodes = launch.release.engine, manifest.nodes_of(launch)
    devices = -(-launch.pool.devices_per_replica // nodes)
    args = [_MODEL_FLAGS[engine], launch.model]
    volumes: list[Manifest] = []
    if engine == "tensorrt-llm":
        args += ["--served-model-name", launch.model, "--extra-engine-args",
                 f"{manifest.OPTIONS_FOLDER}{options_file(launch)}"]  # fmt: skip
        volumes = [{"name": "options", "configMap": {"name": f"{app}-{launch.name}"}}]
    else:
        args += flag_words(launch)
    if launch.pool.role in ("prefill", "decode") and engine != "sglang":
        args += ["--disaggregation-mode", launch.pool.role]
    container: Manifest = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", engine_facts(engine)["dynamo"]],
        "args": args,
        "envFrom": [{"secretRef": {"name": manifest.SECRET, "optional": True}}],
        "resources": {"limits": {manifest.device_resource(launch): str(devices)}},
    }
    if launch.environment:
        container["env"] = [{"name": name, "value": value} for name, value in launch.environment.items()]
    if volumes:
        container["volumeMounts"] = [{"name": "options", "mountPath": manifest.OPTIONS_FOLDER}]
    worker: Manifest = {"name": launch.name, "type": _TYPES[launch.pool.role], "replicas": launch.pool.replicas}
    if nodes > 1:
        worker["multinode"] = {"nodeCount": nodes}
    return worker | {"podTemplate": _template(container, volumes)}


def _options(launch: Launch) -> Manifest:
    """Everything of a launch of TensorRT-LLM as one file."""
    if launch.release.engine != "tensorrt-llm":
        return {}
    found: Manifest = {_TRTLLM[flag]: value for flag, value in launch.flags.items() if flag in _TRTLLM}
    share = launch.flags.get("--kv_cache_free_gpu_memory_fraction")
    cache: Manifest = dict(launch.options.get("kv_cache_config", {}))
    if share is not None:
        cache["free_gpu_memory_fraction"] = share
    return found | launch.options | {"kv_cache_config": cache}


def _with_options(launch: Launch) -> Launch:
    return replace(launch, options=_options(launch))
