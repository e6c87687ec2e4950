"""A plan: the whole deployment that a user declares. A frozen value; it knows no device and no clock.

Devices of a replica = tp · pp · dp · cp, and ep · moe_tp = tp · dp (design §8).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from apexsim.spec.attention_dp import PRESETS, AttentionDp
from apexsim.spec.base import Strict
from apexsim.spec.cluster import Cluster
from apexsim.spec.dtypes import ActivationDtype, KvDtype, WeightDtype
from apexsim.spec.experts import Experts
from apexsim.spec.fleet import Fleet
from apexsim.spec.layer_precision import PrecisionRule
from apexsim.spec.lora import Lora
from apexsim.spec.speculative import Speculative
from apexsim.spec.tiers import KvTier
from apexsim.spec.transfer import Transfer
from apexsim.spec.units import Bytes, Seconds, format_bytes, format_number

Role = Literal["serve", "encode", "prefill", "decode"]
Engine = Literal["vllm", "sglang", "tensorrt-llm", "transformers", "aphrodite", "distserve"]
WaitingOrder = Literal["fcfs", "priority", "shortest-first", "fair", "deadline"]


class Scheduler(Strict):
    """Limits and rules of the scheduler; a key that is left out takes the value of the preset."""

    preset: str = Field("vllm", description="name of a scheduler preset: `apexsim list schedulers`")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="tokens of one iteration")
    max_num_seqs: int | None = Field(
        None, ge=1, description="requests that run at once in a replica, or in each of its dp ranks"
    )
    async_scheduling: bool | None = Field(
        None, description="compose each iteration while the one before runs; as the engine version does where left out"
    )
    prefix_caching: bool = Field(False, description="reuse the KV blocks of equal prompt prefixes")
    policy: WaitingOrder = Field("fcfs", description="who of those that wait is admitted next")
    input_weight: int = Field(1, ge=1, description="of a prompt token in a client's counter under policy: fair")
    output_weight: int = Field(2, ge=1, description="of a generated token in a client's counter under policy: fair")
    deadline: Seconds | None = Field(
        None, gt=0, description="time to the first token that is wanted where the trace has no deadline_s"
    )
    shed_late: bool = Field(False, description="reject who is past its deadline when its turn comes")
    max_waiting: int | None = Field(
        None, ge=1, description="requests that may wait at a replica before arrivals are rejected"
    )
    max_wait: Seconds | None = Field(None, gt=0, description="reject who has waited longer when its turn comes")

    long_prefill_token_threshold: int = Field(
        0, ge=0, description="tokens of a prompt in one iteration at most; 0 = no limit"
    )
    attention_dp_config: AttentionDp = Field(
        AttentionDp(), description="how dp ranks wait for each other with their prompts (TensorRT-LLM)"
    )
    max_num_partial_prefills: int = Field(1, ge=1, description="a rule of vLLM v0 that v1 refuses: 1 only")
    max_long_partial_prefills: int = Field(1, ge=1, description="a rule of vLLM v0 that v1 refuses: 1 only")
    preemption: Literal["recompute", "swap"] = Field(
        "recompute", description="what becomes of a victim's KV blocks: computed again, or kept in host memory"
    )
    swap_space: Bytes | None = Field(None, gt=0, description="host memory of one device for swaps; 4GiB if left out")
    swap_group: int = Field(1, ge=1, description="blocks side by side that one copy of a tensor takes along")
    swap_async: bool = Field(False, description="swaps run beside an iteration; else they stall it")

    @model_validator(mode="after")
    def _as_vllm_v1(self) -> Scheduler:
        for key in ("max_num_partial_prefills", "max_long_partial_prefills"):
            if getattr(self, key) != 1:
                raise ValueError(
                    f"{key} = {getattr(self, key)}: vLLM v1 has no concurrent partial prefills to limit "
                    "(allowed: 1; long_prefill_token_threshold caps the chunks of long prompts)"
                )
        return self

    @model_validator(mode="after")
    def _has_an_effect(self) -> Scheduler:
        if self.deadline is not None and self.policy != "deadline" and not self.shed_late:
            raise ValueError("deadline has an effect under policy: deadline or with shed_late: true only")
        if self.policy != "fair" and (self.input_weight, self.output_weight) != (1, 2):
            raise ValueError("input_weight and output_weight have an effect under policy: fair only")
        if self.attention_dp_config.enable_balance:
            if self.preset not in PRESETS:
                raise ValueError(f"attention_dp_config.enable_balance: preset {self.preset} has no such rule "
                                 f"(allowed: {', '.join(PRESETS)})")
            if self.policy != "fcfs" or self.shed_late or self.max_wait is not None:
                raise ValueError("attention_dp_config.enable_balance holds prompts back in the order of their arrival: "
                                 "no policy but fcfs, no shed_late and no max_wait")
        return self

    @property
    def id(self) -> list[str]:
        """What tells the waiting list from the default one, for the plan's id."""
        parts: list[str] = [] if self.policy == "fcfs" else [self.policy]
        weights = (self.input_weight, self.output_weight)
        parts += [f"w{weights[0]}:{weights[1]}"] if weights != (1, 2) else []
        parts += [f"dl{format_number(self.deadline)}"] if self.deadline is not None else []
        parts += ["shed"] if self.shed_late else []
        parts += [f"long{self.long_prefill_token_threshold}"] if self.long_prefill_token_threshold else []
        parts += [f"queue{self.max_waiting}"] if self.max_waiting is not None else []
        parts += self.attention_dp_config.id
        return parts + ([f"wait{format_number(self.max_wait)}"] if self.max_wait is not None else [])


class Pool(Strict):
    """Replicas with one role, all alike."""

    role: Role = Field("serve", description="what the replicas do: serve whole requests, or one phase of them")
    replicas: int = Field(1, ge=1, description="copies of the model behind the router")
    tp: int = Field(1, ge=1, description="tensor parallel degree")
    pp: int = Field(1, ge=1, description="pipeline stages")
    pp_layers: tuple[PositiveInt, ...] = Field(
        (), strict=False, description="layers of each pipeline stage; as the engine splits them where left out"
    )
    dp: int = Field(1, ge=1, description="ranks of a replica that run attention on requests of their own")
    ep: int = Field(1, ge=1, description="expert parallel degree; ep · moe_tp = tp · dp")
    moe_tp: int | None = Field(None, ge=1, description="tensor parallel degree inside an expert")
    cp: int = Field(1, ge=1, description="context parallel degree: ranks that share each prompt and its KV")
    experts: Experts = Field(Experts(), description="routed experts: how tokens travel to them")
    device: str | None = Field(None, description="device of this pool; the cluster's own where left out")
    weights: WeightDtype | None = Field(None, description="dtype of the weights; the checkpoint's own where left out")
    activations: ActivationDtype | None = Field(
        None, description="dtype that the weights are multiplied in; what the device runs them in where left out"
    )
    kv_cache: KvDtype = Field("bf16", description="dtype of the KV cache")
    precision: tuple[PrecisionRule, ...] = Field(
        (), strict=False, description="number formats of single layers or parts; the pool's where no rule names them"
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the memory that the engine may use")
    block_size: int = Field(16, ge=1, description="tokens of a KV block")
    max_model_len: int | None = Field(None, ge=1, description="context limit; the model's own where left out")
    disable_hybrid_kv_cache_manager: bool | None = Field(
        None, description="true: windowed layers keep the KV of the whole context; as the engine version where left out"
    )
    vision: bool = Field(
        False, description="true: the vision encoder stands on these devices, and encodes the images of its requests"
    )
    encode_batch: int = Field(1, ge=1, description="image slices that a unit of role encode encodes together at most")
    irp: bool = Field(False, description="role encode: the slices of one request are dealt to all units")
    speculative: Speculative | None = Field(None, description="speculative decoding; off where left out")
    lora: Lora | None = Field(None, description="LoRA adapters that requests ask for; none where left out")
    clock_mhz: float | None = Field(
        None, gt=0, description="clock that the compute units are locked to; the device's boost clock where left out"
    )
    kv_tiers: tuple[KvTier, ...] = Field(
        (), strict=False, description="where KV blocks go beyond the device's memory, the nearest first"
    )
    kv_load: Literal["always", "cheapest"] = Field(
        "always", description="load what a tier has, or only where that is estimated to be faster than computing it"
    )
    scheduler: Scheduler = Field(Scheduler(), description="the scheduler's preset and limits")

    @property
    def experts_tp(self) -> int:
        """Tensor parallel degree inside an expert: ``moe_tp``, or what ep · moe_tp = tp · dp leaves."""
        return self.moe_tp if self.moe_tp is not None else max(self.tp * self.dp // self.ep, 1)

    @property
    def devices_per_replica(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def devices(self) -> int:
        return self.replicas * self.devices_per_replica

    @model_validator(mode="after")
    def _experts_cover_the_replica(self) -> Pool:
        if self.ep * self.experts_tp != self.tp * self.dp:
            raise ValueError(f"ep · moe_tp must be tp · dp, got {self.ep} · {self.experts_tp} != {self.tp} · {self.dp}")
        return self


class Plan(Strict):
    """A whole deployment: a model, a cluster, the pools that serve it, and the router before them."""

    model: str = Field(description="a name in model_specs/, an alias, or a path to a config.json")
    cluster: Cluster = Field(description="devices to use: a mapping, a list of groups, or short, 8xh100-sxm")
    pools: tuple[Pool, ...] = Field(
        min_length=1, strict=False, description="the groups of replicas that serve the model"
    )
    router: str | dict[Role, str] = Field(
        "least-loaded", description="how requests are spread over the replicas: one name, or one a role"
    )
    transfer: Transfer = Field(Transfer(), description="how KV goes from pools that prefill to those that decode")
    fleet: Fleet | None = Field(
        None, description="what happens to replicas: autoscaling, failures, stragglers, maintenance, changes of role"
    )
    techniques: tuple[dict[str, Any] | str, ...] = Field(
        (), strict=False, description="serving techniques that are switched on"
    )
    engine: Engine = Field("vllm", description="serving engine whose host overheads and limits apply")
    engine_version: str | None = Field(None, description="version of the engine; the newest known where left out")

    @field_validator("engine_version")
    @classmethod
    def _begins_with_numbers(cls, version: str | None) -> str | None:
        if version is not None and re.match(r"\d+\.\d+", version) is None:
            raise ValueError("must be a version, as 0.11.0 is")
        return version

    def __hash__(self) -> int:
        """Of what tells most plans apart; routers and techniques may be mappings, which have none."""
        return hash((self.model, self.cluster, self.pools, self.engine, self.engine_version))

    @property
    def devices(self) -> int:
        return sum(pool.devices for pool in self.pools)

    @property
    def most(self) -> Plan:
        """The plan with as many replicas as its fleet may ever have, all of them there all the time."""
        if self.fleet is None:
            return self
        rules = [self.fleet.scaling(index) for index in range(len(self.pools))]
        pools = tuple(
            pool if rule is None else pool.model_copy(update={"replicas": rule.max_replicas})
            for pool, rule in zip(self.pools, rules, strict=True)
        )
        return self.model_copy(update={"pools": pools, "fleet": None})

    def alone(self, pool: Pool) -> Plan:
        """One of its pools as a plan of its own, on its group of devices, without what is between the pools."""
        changes = {"cluster": self.cluster.only(pool.device), "router": self.router_of(pool.role)}
        return self.model_copy(update={"pools": (pool,), "fleet": None, "transfer": Transfer(), **changes})

    def router_of(self, role: Role) -> str:
        """The name of the router before the pools with this role."""
        return self.router if isinstance(self.router, str) else self.router.get(role, "least-loaded")

    @property
    def id(self) -> str:
        """Short, unique among the plans of one search, and stable: what ties are broken by."""
        word, life = self.transfer.id, self.fleet.id if self.fleet else ""
        pools = " + ".join(_pool_id(pool) for pool in self.pools)
        return pools + (f" via {word}" if word else "") + (f" with {life}" if life else "")


_DEGREES = ("tp", "pp", "dp", "ep", "cp")
_OTHERS = {
    # what else tells pools apart, where it is not the default; key -> how the id writes it
    "moe_tp": "moetp",
    "activations": "a",
    "gpu_memory_utilization": "u",
    "block_size": "b",
    "max_model_len": "len",
    "encode_batch": "eb",
    "clock_mhz": "clk",
}


def _pool_id(pool: Pool) -> str:
    """``2xtp4-pp2-fp8-kvbf16`` and whatever else is not the default, in a fixed order."""
    scheduler = pool.scheduler
    parts = [f"{name}{getattr(pool, name)}" for name in _DEGREES if name == "tp" or getattr(pool, name) > 1]
    parts += ["l" + ".".join(map(str, pool.pp_layers))] if pool.pp_layers else []
    parts += [pool.weights or "auto", f"kv{pool.kv_cache}"]
    parts += [word] if (word := pool.experts.id) else []
    parts += [scheduler.preset] if scheduler.preset != "vllm" else []
    parts += [f"t{scheduler.max_num_batched_tokens}"] if scheduler.max_num_batched_tokens else []
    parts += [f"s{scheduler.max_num_seqs}"] if scheduler.max_num_seqs else []
    parts += ["prefix"] if scheduler.prefix_caching else []
    parts += scheduler.id
    parts += [_swap_id(scheduler)] if scheduler.preemption == "swap" else []
    if scheduler.async_scheduling is not None:
        parts.append("async" if scheduler.async_scheduling else "sync")
    if pool.disable_hybrid_kv_cache_manager is not None:
        parts.append("nohybrid" if pool.disable_hybrid_kv_cache_manager else "hybrid")
    parts += [
        f"{short}{format_number(getattr(pool, key))}" if key == "clock_mhz" else f"{short}{getattr(pool, key)}"
        for key, short in _OTHERS.items()
        if getattr(pool, key) != Pool.model_fields[key].default
    ]
    parts += [rule.id for rule in pool.precision]
    parts += ["vision"] if pool.vision else []
    parts += ["irp"] if pool.irp else []
    parts += [pool.lora.id] if pool.lora and pool.lora.adapters else []
    parts += [pool.speculative.id] if pool.speculative and pool.speculative.num_speculative_tokens else []
    parts += [tier.short for tier in pool.kv_tiers]
    parts += [pool.kv_load] if pool.kv_load != "always" else []
    role = "" if pool.role == "serve" else f"{pool.role}-"
    device = f"{pool.device}-" if pool.device else ""
    return f"{role}{device}{pool.replicas}x{'-'.join(parts)}"


def _swap_id(scheduler: Scheduler) -> str:
    space = "" if scheduler.swap_space is None else format_bytes(scheduler.swap_space)
    group = "" if scheduler.swap_group == 1 else f"g{scheduler.swap_group}"
    return f"swap{space}{group}{'async' if scheduler.swap_async else ''}"
