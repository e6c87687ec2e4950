"""The plans that a search looks at: a list of values for each knob, and their combinations, one at a time.

The lists have defaults that follow from the model, the device and the cluster; a YAML file may replace any
of them (``--space``), for example

    tp: [2, 4, 8]
    weights: [fp8]
    max_num_seqs: [64, 256]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from apexsim.errors import UsageError
from apexsim.spec.base import Strict, load_yaml, parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.dtypes import ActivationDtype, KvDtype, WeightDtype
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.spec.speculative import Speculative

MAX_NUM_BATCHED_TOKENS = (2048, 8192)
MAX_NUM_SEQS = (128, 512)
"""A cap that keeps batches, and so TPOT, small; and one that rarely binds."""

MEMORY_SHARE = 0.9
"""Memory of a device that weights can take at most: ``gpu_memory_utilization`` of a plan."""


class Space(Strict):
    """Values for each knob of a colocated plan; every combination that the cluster can hold is a plan."""

    tp: tuple[int, ...] = Field(strict=False, description="tensor parallel degrees")
    pp: tuple[int, ...] = Field(strict=False, description="pipeline stages")
    dp: tuple[int, ...] = Field((1,), strict=False, description="attention ranks of a replica of a model with experts")
    cp: tuple[int, ...] = Field((1,), strict=False, description="context parallel degrees")
    ep: tuple[int | Literal["all"], ...] = Field(
        (1,), strict=False, description="expert parallel degrees; those that divide tp · dp. all: that product itself"
    )
    replicas: tuple[int, ...] = Field(strict=False, description="copies of the model")
    weights: tuple[WeightDtype, ...] = Field(strict=False, description="dtypes of the weights")
    activations: tuple[ActivationDtype | None, ...] = Field(
        (None,), strict=False, description="dtypes that the weights are multiplied in; null: what follows from them"
    )
    kv_cache: tuple[KvDtype, ...] = Field(strict=False, description="dtypes of the KV cache")
    preset: tuple[str, ...] = Field(("vllm",), strict=False, description="scheduler presets")
    max_num_batched_tokens: tuple[int, ...] = Field(
        MAX_NUM_BATCHED_TOKENS, strict=False, description="tokens of one iteration"
    )
    max_num_seqs: tuple[int, ...] = Field(
        MAX_NUM_SEQS, strict=False, description="requests that run at once in a replica"
    )
    speculative: tuple[Speculative | None, ...] = Field(
        (None,), strict=False, description="ways to speculate; null: none"
    )
    prefix_caching: bool = Field(False, description="reuse KV blocks of equal prefixes, in every plan")
    vision: bool = Field(
        False, description="the vision encoder stands in every replica; true where requests bring images"
    )
    router: str = Field("least-loaded", description="how every plan spreads requests over its replicas")

    @field_validator("*")
    @classmethod
    def _some_values_once(cls, values: object, info: ValidationInfo) -> object:
        if not isinstance(values, tuple):
            return values
        if not values:
            raise ValueError(f"{info.field_name} needs at least one value")
        if any(isinstance(value, int) and value < 1 for value in values):
            raise ValueError(f"{info.field_name} allows whole numbers from 1")
        return tuple(dict.fromkeys(None if _is_off(value) else value for value in values))


def _is_off(value: object) -> bool:
    """Speculation of no drafts is none: the same plan, by the same id."""
    return isinstance(value, Speculative) and value.num_speculative_tokens == 0


def default_space(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> Space:
    """Every sensible value of each knob; a checkpoint's own quantisation is kept.

    Models with experts and MLA, of whose KV every tensor parallel rank would hold a copy, also with attention ranks
    and with whole experts.
    """
    devices = cluster.devices
    ranks = model.is_moe and any(group.attention.kind == "mla" for group in model.groups)
    return Space(
        dp=_degrees(devices) if ranks else (1,),
        ep=(1, "all") if ranks else (1,),
        tp=_tensor_degrees(model, profile, cluster),
        pp=_pipeline_degrees(model, profile, cluster),
        replicas=tuple(range(1, devices + 1)),
        weights=_weights(model, profile),
        kv_cache=_kv_caches(profile),
    )


def load_space(lists: Path | str | Mapping[str, Any], default: Space) -> Space:
    """The default space with some lists in place of its own: a mapping, or a YAML file that holds one.

    Raises:
        UsageError: a mapping with an unknown key or a value that is not allowed.
        InputError: a file that has one, is missing, or is not YAML.
    """
    if isinstance(lists, Mapping):
        return parse(Space, default.model_dump() | dict(lists), source="space", error=UsageError)
    return parse(Space, default.model_dump() | load_yaml(lists), source=str(lists))


def plans(space: Space, model: str, cluster: Cluster) -> Iterator[Plan]:
    """Every combination that needs no more devices than the cluster has, always in the same order."""
    for tp, pp, dp, cp, replicas in product(space.tp, space.pp, space.dp, space.cp, space.replicas):
        if tp * pp * dp * cp * replicas > cluster.devices:
            continue
        for ep in _expert_degrees(space, tp * dp):
            shape = Pool(replicas=replicas, tp=tp, pp=pp, dp=dp, cp=cp, ep=ep, vision=space.vision)
            for pool in _pools(space, shape):
                yield Plan(model=model, cluster=cluster, pools=(pool,), router=space.router)


def _expert_degrees(space: Space, devices: int) -> tuple[int, ...]:
    """Those of the space that ``devices`` attention devices of a replica can have, each once."""
    degrees = [devices if degree == "all" else degree for degree in space.ep]
    return tuple(dict.fromkeys(degree for degree in degrees if devices % degree == 0))


def _pools(space: Space, pool: Pool) -> Iterator[Pool]:
    """``pool`` in every precision and with every scheduler of the space."""
    limits = product(space.preset, space.max_num_batched_tokens, space.max_num_seqs)
    formats = product(space.weights, space.activations, space.kv_cache, space.speculative)
    for (weights, activations, kv_cache, speculative), (preset, tokens, seqs) in product(formats, limits):
        scheduler = Scheduler(
            preset=preset,
            max_num_batched_tokens=tokens,
            max_num_seqs=seqs,
            prefix_caching=space.prefix_caching,
        )
        chosen = {
            "weights": weights, "activations": activations, "kv_cache": kv_cache, "scheduler": scheduler,
            "speculative": speculative,
        }
        yield pool.model_copy(update=chosen)


def _degrees(devices: int) -> tuple[int, ...]:
    """Powers of two and divisors up to ``devices``, ascending."""
    return tuple(
        degree for degree in range(1, devices + 1) if degree & (degree - 1) == 0 or devices % degree == 0
    )


def _pipeline_degrees(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> tuple[int, ...]:
    """As many stages as a node has devices, or twice the nodes; any number where no fast links join the devices."""
    most = cluster.devices if profile.scaleup is None else max(cluster.devices_per_node, 2 * cluster.nodes)
    return tuple(degree for degree in _degrees(cluster.devices) if degree <= min(most, model.layers))


def _tensor_degrees(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> tuple[int, ...]:
    """Degrees that divide the heads; beyond one node only where the smallest weights do not fit in one."""
    smallest = min(weight_bytes(dtype) for dtype in _weights(model, profile)) * model.parameters
    fits_a_node = smallest <= MEMORY_SHARE * profile.memory_bytes * cluster.devices_per_node
    most = cluster.devices_per_node if fits_a_node else cluster.devices
    heads = [group.attention.heads for group in model.groups]
    return tuple(degree for degree in _degrees(most) if all(count % degree == 0 for count in heads)) or (1,)


def _weights(model: ModelSpec, profile: HardwareProfile) -> tuple[WeightDtype, ...]:
    """The checkpoint's own dtype; an unquantised one also as fp8 where the device multiplies in it."""
    if model.quantization is not None:
        return (model.quantization,)
    own: WeightDtype = "fp16" if model.dtype == "fp16" else "bf16"
    return (own, "fp8") if profile.supports("fp8") else (own,)


def _kv_caches(profile: HardwareProfile) -> tuple[KvDtype, ...]:
    sixteen_bit: KvDtype = "bf16" if profile.supports_kv("bf16") else "fp16"
    return (sixteen_bit, "fp8") if profile.supports_kv("fp8") else (sixteen_bit,)
