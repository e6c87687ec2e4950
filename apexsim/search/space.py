"""The lists of values that a search combines into plans, with defaults that follow from model, device and cluster.

A YAML file may replace any of them (``--space``), for example

    tp: [2, 4, 8]
    weights: [fp8]
    max_num_seqs: [64, 256]
    disaggregated:
      prefill: {tp: [4, 8]}
      decode: {dp: [8, 16], ep: [all], max_num_seqs: [256]}
    max_devices: 16

``combinations.py`` makes the plans of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from apexsim.engine.schedulers import preset_names
from apexsim.errors import UsageError
from apexsim.spec import catalog
from apexsim.spec.base import Strict, load_yaml, parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.dtypes import ActivationDtype, KvDtype, WeightDtype
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Engine
from apexsim.spec.speculative import Speculative
from apexsim.spec.tiers import KvTier
from apexsim.spec.transfer import Transfer

MAX_NUM_BATCHED_TOKENS = (2048, 8192)
MAX_NUM_SEQS = (128, 512)
"""A cap that keeps batches, and so TPOT, small; and one that rarely binds."""

PREFILL_TOKENS = (8192, 16384)
"""Where nobody decodes beside them, prompts wait for no token: small chunks would only cost throughput."""

MEMORY_SHARE = 0.9
"""Memory of a device that weights can take at most: ``gpu_memory_utilization`` of a plan."""

DECODE_SEQS = (128, 256, 512)
"""What a pool that only decodes is tuned by."""

ENCODE_BATCH = (1, 8)
"""Slices one by one, which are done soonest, and many, which keep the device busier."""

Degrees = tuple[int, ...]
ExpertDegrees = tuple[int | Literal["all"], ...]


def _each_once(values: object, info: ValidationInfo) -> object:
    """Lists hold something, whole numbers from 1, and nothing twice."""
    if not isinstance(values, tuple):
        return values
    if not values:
        raise ValueError(f"{info.field_name} needs at least one value")
    least = 0 if info.field_name == "long_prefill_token_threshold" else 1
    if any(isinstance(value, int) and not isinstance(value, bool) and value < least for value in values):
        raise ValueError(f"{info.field_name} allows whole numbers from {least}")
    return tuple(dict.fromkeys(None if _is_off(value) else value for value in values))


def _is_off(value: object) -> bool:
    """Speculation of no drafts is none: the same plan, by the same id."""
    return isinstance(value, Speculative) and value.num_speculative_tokens == 0


class PhaseSpace(Strict):
    """Lists of the pools of one kind; one that is left out is that of the colocated plans."""

    tp: Degrees | None = Field(None, strict=False, description="tensor parallel degrees")
    pp: Degrees | None = Field(None, strict=False, description="pipeline stages")
    dp: Degrees | None = Field(None, strict=False, description="attention ranks of a replica")
    cp: Degrees | None = Field(None, strict=False, description="context parallel degrees")
    ep: ExpertDegrees | None = Field(None, strict=False, description="expert parallel degrees, or all")
    replicas: Degrees | None = Field(None, strict=False, description="copies of the model in this phase")
    weights: tuple[WeightDtype, ...] | None = Field(None, strict=False, description="dtypes of the weights")
    activations: tuple[ActivationDtype | None, ...] | None = Field(
        None, strict=False, description="dtypes that the weights are multiplied in"
    )
    device: tuple[str, ...] | None = Field(None, strict=False, description="devices, where the cluster has several")
    preset: tuple[str, ...] | None = Field(None, strict=False, description="scheduler presets")
    max_num_batched_tokens: Degrees | None = Field(None, strict=False, description="tokens of one iteration")
    max_num_seqs: Degrees | None = Field(None, strict=False, description="requests that run at once in a replica")

    _each = field_validator("*")(_each_once)


class Disaggregated(Strict):
    """Plans of a pool that prefills and one that decodes: lists of each, and how KV goes between them."""

    prefill: PhaseSpace = Field(PhaseSpace(), description="lists of the pools that prefill")
    decode: PhaseSpace = Field(PhaseSpace(), description="lists of the pools that decode")
    transfer: Transfer = Field(Transfer(), description="how KV goes from one to the other, in every plan")


class EncodeSpace(Strict):
    """Lists of the pools that encode images and do nothing else, before every other plan that leaves room for them."""

    replicas: Degrees = Field(strict=False, description="devices that encode")
    encode_batch: Degrees = Field(ENCODE_BATCH, strict=False, description="image slices of one batch at most")
    irp: tuple[bool, ...] = Field((False,), strict=False, description="slices of one request are dealt to all units")
    device: tuple[str, ...] | None = Field(None, strict=False, description="devices, where the cluster has several")

    _each = field_validator("*")(_each_once)


class Space(Strict):
    """Values for each knob; every combination that the cluster can hold, within the limits, is a plan."""

    tp: Degrees = Field(strict=False, description="tensor parallel degrees")
    pp: Degrees = Field(strict=False, description="pipeline stages")
    dp: Degrees = Field((1,), strict=False, description="attention ranks of a replica of a model with experts")
    cp: Degrees = Field((1,), strict=False, description="context parallel degrees")
    ep: ExpertDegrees = Field(
        (1,), strict=False, description="expert parallel degrees; those that divide tp · dp. all: that product itself"
    )
    replicas: Degrees = Field(strict=False, description="copies of the model")
    weights: tuple[WeightDtype, ...] = Field(strict=False, description="dtypes of the weights")
    activations: tuple[ActivationDtype | None, ...] = Field(
        (None,), strict=False, description="dtypes that the weights are multiplied in; null: what follows from them"
    )
    kv_cache: tuple[KvDtype, ...] = Field(strict=False, description="dtypes of the KV cache")
    preset: tuple[str, ...] = Field(("vllm",), strict=False, description="scheduler presets")
    max_num_batched_tokens: Degrees = Field(
        MAX_NUM_BATCHED_TOKENS, strict=False, description="tokens of one iteration"
    )
    max_num_seqs: Degrees = Field(
        MAX_NUM_SEQS, strict=False, description="requests that run at once in a replica"
    )
    long_prefill_token_threshold: Degrees = Field(
        (0,), strict=False, description="tokens of a prompt in one iteration at most; 0: no limit"
    )
    speculative: tuple[Speculative | None, ...] = Field(
        (None,), strict=False, description="ways to speculate; null: none"
    )
    kv_tiers: tuple[Annotated[tuple[KvTier, ...], Field(strict=False)], ...] = Field(
        ((),), strict=False, description="lists of KV tiers, colocated plans only; []: none"
    )
    device: tuple[str, ...] | None = Field(
        None, strict=False, description="devices of the cluster to use; all that it has where left out"
    )
    prefix_caching: bool = Field(False, description="reuse KV blocks of equal prefixes, in every plan")
    vision: bool = Field(
        False, description="the vision encoder stands in every replica; true where requests bring images"
    )
    router: str = Field("least-loaded", description="how every plan spreads requests over its replicas")
    colocated: bool = Field(True, description="plans whose replicas serve whole requests")
    disaggregated: Disaggregated | None = Field(
        None, description="plans with pools of their own to prefill and to decode; null: none"
    )
    encode: EncodeSpace | None = Field(
        None, description="plans with a pool of its own to encode images, before each of the others; null: none"
    )
    mixed: PhaseSpace | None = Field(
        None, description="plans of two pools that serve, each on a kind of devices of its own; null: none"
    )
    engine: Engine = Field("vllm", description="serving engine of every plan")
    engine_version: str | None = Field(None, description="its version; the newest known where left out")
    min_devices: int | None = Field(None, ge=1, description="devices of a plan, at least")
    max_devices: int | None = Field(None, ge=1, description="devices of a plan, at most")
    max_usd_per_hour: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="price of a plan's devices for an hour, at most"
    )

    _each = field_validator("*")(_each_once)

    @field_validator("min_devices", "max_devices", "max_usd_per_hour", mode="after")
    @classmethod
    def _some_devices(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get("min_devices")
        if info.field_name == "max_devices" and value is not None and least is not None and value < least:
            raise ValueError(f"max_devices = {value:g} is less than min_devices = {least}")
        return value

    @property
    def encodes_apart(self) -> bool:
        """Whether no other pool holds the encoder, so that every plan needs units that encode."""
        return self.encode is not None and not self.vision

    def phase(self, role: Literal["serve", "prefill", "decode"]) -> Space:
        """The space of one of the pools of a plan of several: its own lists over those of the colocated plans."""
        own: PhaseSpace | None = self.mixed
        if role != "serve":
            assert self.disaggregated is not None
            own = self.disaggregated.prefill if role == "prefill" else self.disaggregated.decode
        given = {name: value for name in PhaseSpace.model_fields if (value := getattr(own, name)) is not None}
        fixed: dict[str, Any] = {}
        if role == "prefill":
            fixed = {"speculative": (None,)}
        elif role == "decode":  # its KV comes from elsewhere; drafts of another model have no KV there
            own_drafts = tuple(s for s in self.speculative if s is None or s.method == "mtp")
            fixed = {"speculative": own_drafts or (None,), "prefix_caching": False,
                     "long_prefill_token_threshold": (0,)}  # fmt: skip
        return self.model_copy(update={"kv_tiers": ((),), **fixed, **given})


def default_space(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> Space:
    """Every sensible value of each knob; a checkpoint's own quantisation is kept.

    Models with experts and MLA, of whose KV every tensor parallel rank would hold a copy, also with attention ranks
    and with whole experts. Of several groups of devices the lists of each, together. Disaggregated plans where there
    are several nodes: within one, a ratio of few replicas is coarse, and chunked prefill does as well.
    """
    usual = _of_group(model, profile, cluster.only(cluster.device))
    for group in cluster.other_groups:
        usual = _both(usual, _of_group(model, catalog.device(group.device), cluster.only(group.device)))
    if sum(group.nodes for group in cluster.groups) > 1 and model.linear is None:
        usual = usual.model_copy(update={"disaggregated": default_disaggregated(usual)})
    return usual


def default_disaggregated(space: Space) -> Disaggregated:
    """One stage each; large chunks and few requests to prefill, several caps of requests to decode.

    The budget of a pool that only decodes, and the cap of one that only prefills, hardly ever bind.
    """
    return Disaggregated(
        prefill=PhaseSpace(pp=(1,), max_num_batched_tokens=PREFILL_TOKENS, max_num_seqs=(min(space.max_num_seqs),)),
        decode=PhaseSpace(
            pp=(1,), max_num_batched_tokens=(max(space.max_num_batched_tokens),), max_num_seqs=DECODE_SEQS
        ),
    )


def default_encode(space: Space) -> EncodeSpace:
    """Powers of two and divisors: more of them would make three numbers of replicas very many plans."""
    return EncodeSpace(replicas=_degrees(max(space.replicas)))


def default_mixed(space: Space) -> PhaseSpace:
    """One stage and the larger budget: two shapes and two numbers of replicas are many plans."""
    return PhaseSpace(pp=(1,), max_num_batched_tokens=(max(space.max_num_batched_tokens),))


def _of_group(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> Space:
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


def _both(one: Space, other: Space) -> Space:
    lists = ("dp", "tp", "pp", "replicas", "weights", "kv_cache")
    return one.model_copy(
        update={name: tuple(dict.fromkeys(getattr(one, name) + getattr(other, name))) for name in lists}
    )


def load_space(lists: Path | str | Mapping[str, Any], default: Space) -> Space:
    """The default space with some lists in place of its own: a mapping, or a YAML file that holds one.

    ``disaggregated: {}`` is the default one, and so are the keys of its phases that are left out; so with ``encode``
    and ``mixed``. An engine brings the scheduler preset of its name.

    Raises:
        UsageError: a mapping with an unknown key or a value that is not allowed.
        InputError: a file that has one, is missing, or is not YAML.
    """
    given = dict(lists) if isinstance(lists, Mapping) else load_yaml(lists)
    whole = {name: getattr(default, name) for name in Space.model_fields} | given
    if given.get("engine") in preset_names() and "preset" not in given:
        whole["preset"] = (given["engine"],)
    if isinstance(asked := given.get("disaggregated"), Mapping):
        whole["disaggregated"] = _with_usual(asked, default)
    for name, usual in (("encode", default_encode(default)), ("mixed", default_mixed(default))):
        if isinstance(asked := given.get(name), Mapping):
            whole[name] = {key: getattr(usual, key) for key in type(usual).model_fields} | dict(asked)
    if isinstance(lists, Mapping):
        return parse(Space, whole, source="space", error=UsageError)
    return parse(Space, whole, source=str(lists))


def _with_usual(asked: Mapping[str, Any], default: Space) -> dict[str, Any]:
    """The default of disaggregated plans, with what is asked for over it."""
    usual, whole = default_disaggregated(default), dict(asked)
    for name, phase in (("prefill", usual.prefill), ("decode", usual.decode)):
        own = asked.get(name, {})
        if isinstance(own, Mapping):
            whole[name] = {key: getattr(phase, key) for key in PhaseSpace.model_fields} | dict(own)
    return whole


def _degrees(devices: int) -> Degrees:
    """Powers of two and divisors up to ``devices``, ascending."""
    return tuple(
        degree for degree in range(1, devices + 1) if degree & (degree - 1) == 0 or devices % degree == 0
    )


def _pipeline_degrees(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> Degrees:
    """As many stages as a node has devices, or twice the nodes; any number where no fast links join the devices."""
    most = cluster.devices if profile.scaleup is None else max(cluster.devices_per_node, 2 * cluster.nodes)
    return tuple(degree for degree in _degrees(cluster.devices) if degree <= min(most, model.layers))


def _tensor_degrees(model: ModelSpec, profile: HardwareProfile, cluster: Cluster) -> Degrees:
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
