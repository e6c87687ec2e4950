"""What a plan asks of an engine, key by key: every key of a pool with the value that is in force.

Keys are found in the classes themselves, so a new key of a plan is a setting without being named here; one that the
table of flags does not know ends in what the engine cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel

from apexsim.engine.schedulers import Policy, resolve
from apexsim.report.launch.checkpoint import Checkpoint, served_name
from apexsim.spec import catalog
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.tiers import KvTier
from apexsim.spec.units import format_number

BOOTSTRAP_PORT = 8998
GIB, GB = 2**30, 10**9

_MODULES = {part: f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
_TRTLLM_MODULES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_dense",
    "gate": "mlp_h_to_4h", "up": "mlp_gate", "down": "mlp_4h_to_h",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One key with its value; ``asked``: it is not what a plan has where it says nothing."""

    field: str
    value: Any
    asked: bool
    tier: KvTier | None = None
    written: Any = None  # the plan's own value, where another one is in force

    @property
    def shown(self) -> str:
        """Key and value as the plan has them."""
        value = self.value if self.written is None else self.written
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if isinstance(value, float):
            value = format_number(value)
        return f"{self.field}={str(value).lower() if isinstance(value, bool) else value}"

    @property
    def word(self) -> str:
        """The value as the table writes it."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)


@dataclass(frozen=True)
class Context:
    """Everything that a quantity of the table may follow from."""

    plan: Plan
    pool: Pool
    checkpoint: Checkpoint
    policy: Policy
    setting: Setting = field(default_factory=lambda: Setting("", None, False))

    @classmethod
    def of(cls, plan: Plan, pool: Pool) -> Context:
        return cls(plan, pool, Checkpoint.of(plan), resolve(pool.scheduler))


def settings(context: Context) -> Iterator[Setting]:
    """The settings of a pool, in the order of the plan's keys, then those of the transfer between pools."""
    pool = context.pool
    in_force = {
        "weights": context.checkpoint.weights_to_make(pool),
        "kv_cache": "model" if pool.kv_cache == context.checkpoint.dtype else pool.kv_cache,
        "scheduler.preset": pool.scheduler.preset,
        "scheduler.max_num_batched_tokens": context.policy.max_num_batched_tokens,
        "scheduler.max_num_seqs": context.policy.max_num_seqs,
    }
    experts = catalog.model(context.plan.model).is_moe
    for found in _flat(pool, Pool(), ""):
        if found.field.startswith(("experts.", "ep", "moe_tp")) and not experts:
            continue
        value = in_force.get(found.field, found.value)
        yield Setting(found.field, value, found.asked or found.field in in_force, found.tier, found.value)
    if pool.role in ("prefill", "decode"):
        yield from _flat(context.plan.transfer, type(context.plan.transfer)(), "transfer.")
    fleet = context.plan.fleet
    if fleet is not None:
        for name in type(fleet).model_fields:
            yield Setting(f"fleet.{name}", "on" if getattr(fleet, name) else None, True)


def _flat(value: BaseModel, usual: BaseModel | None, prefix: str) -> Iterator[Setting]:
    for name in type(value).model_fields:
        own, default = getattr(value, name), getattr(usual, name, type(value).model_fields[name].default)
        key = f"{prefix}{name}"
        if name in _LEFT_OUT and _LEFT_OUT[name](value):
            continue
        if key == "kv_tiers":
            for tier in own:
                yield from (
                    Setting(part.field, part.value, part.asked, tier) for part in _flat(tier, None, "kv_tiers.")
                )
        elif key == "precision":
            yield Setting(key, [rule.id for rule in own] or None, bool(own))
        elif (isinstance(own, BaseModel) and not prefix) or key == "scheduler.attention_dp_config":
            yield from _flat(own, default, f"{key}.")
        else:
            yield Setting(key, None if own == () else own, own != default)


_LEFT_OUT: dict[str, Callable[[Any], bool]] = {
    "lora": lambda pool: pool.lora is None or not pool.lora.adapters,
    "speculative": lambda pool: pool.speculative is None or not pool.speculative.num_speculative_tokens,
    "timeout_iters": lambda config: not config.enable_balance,
    "batching_wait_iters": lambda config: not config.enable_balance,
    "kv_load": lambda pool: pool.kv_load == "always",
}
"""Keys that say nothing where another one switches them off."""


def _ep_word(context: Context) -> str | None:
    pool = context.pool
    if pool.ep == 1:
        return "none"
    return "all" if pool.ep == pool.tp * pool.dp else f"{pool.ep} of {pool.tp * pool.dp}"


def _whole_dp(context: Context) -> str | None:
    pool = context.pool
    if pool.dp == 1:
        return None
    return "all" if pool.tp == 1 else f"{pool.dp} beside tp {pool.tp}"


def _switch(context: Context) -> str:
    value = context.setting.value
    return "on" if isinstance(value, int) and value > (1 if context.setting.field in ("dp", "cp") else 0) else "off"


def _modules(names: dict[str, str]) -> Callable[[Context], list[str] | None]:
    def chosen(context: Context) -> list[str] | None:
        lora = context.pool.lora
        return None if lora is None else [names[part] for part in lora.matrices]

    return chosen


def _tier_bytes(context: Context) -> float:
    tier = context.setting.tier
    assert tier is not None
    return tier.capacity


def _drafts(context: Context, *methods: str) -> int | None:
    """Drafts of a step, for these ways to draft."""
    speculative = context.pool.speculative
    return speculative.num_speculative_tokens if speculative is not None and speculative.method in methods else None


def _verified(context: Context) -> int | None:
    drafts = _drafts(context, "ngram")
    return drafts if drafts is not None else (context.setting.value or 0) + 1


VALUES: dict[str, Callable[[Context], Any]] = {
    "comma_layers": lambda c: ",".join(map(str, c.pool.pp_layers)) or None,
    "ep_word": _ep_word,
    "odd_moe_tp": lambda c: c.pool.moe_tp if c.pool.moe_tp not in (None, c.pool.tp * c.pool.dp // c.pool.ep) else None,
    "attention_devices": lambda c: c.pool.tp * c.pool.dp,
    "attention_and_context_devices": lambda c: c.pool.tp * c.pool.dp * c.pool.cp,
    "whole_dp": _whole_dp,
    "switch": _switch,
    "draft_checkpoint": lambda c: served_name(c.setting.value),
    "draft_steps": lambda c: _drafts(c, "mtp", "eagle", "draft-model"),
    "draft_chain": lambda c: None if _drafts(c, "mtp", "eagle", "draft-model") is None else 1,
    "verified_tokens": _verified,
    "mtp_layers": lambda c: _drafts(c, "mtp"),
    "drafts_of_others": lambda c: _drafts(c, "draft-model", "ngram"),
    "largest_rank": lambda c: max(c.pool.lora.ranks) if c.pool.lora else None,
    "vllm_rank": lambda c: next(n for n in _VLLM_RANKS if n >= max(c.pool.lora.ranks)) if c.pool.lora else None,
    "lora_slots": lambda c: c.pool.lora.max_loras if c.pool.lora else None,
    "lora_modules": _modules(_MODULES),
    "lora_attention_names": _modules(_TRTLLM_MODULES),
    "tier_gib": lambda c: round(_tier_bytes(c) * c.pool.devices_per_replica / c.pool.dp / GIB, 3),
    "tier_gb": lambda c: max(1, round(_tier_bytes(c) / GB)),
    "tier_bytes": lambda c: round(_tier_bytes(c)),
    "drafting": lambda c: True if c.pool.speculative and c.pool.speculative.num_speculative_tokens else None,
    "most_in_flight": lambda c: c.pool.dp * (c.policy.max_num_seqs + c.setting.value),
    "waiting_of_both_phases": lambda c: c.setting.value if c.pool.role == "serve" else None,
    "waiting_of_one_phase": lambda c: None if c.pool.role == "serve" else c.setting.value,
    "if_it_prefills": lambda c: c.setting.value if c.pool.role == "prefill" else None,
    "unless_it_prefills": lambda c: None if c.pool.role == "prefill" else c.setting.value,
    "tokens_of_all_ranks": lambda c: c.policy.max_num_batched_tokens * c.pool.dp,
    "seqs_of_all_ranks": lambda c: c.policy.max_num_seqs * c.pool.dp,
    "nixl": lambda c: "NixlConnector",
    "kv_both": lambda c: "kv_both",
    "nixl_word": lambda c: "nixl",
    "bootstrap_port": lambda c: BOOTSTRAP_PORT,
    "transceiver": lambda c: "DEFAULT",
}
"""Quantities that a row of the table may write in place of a key's own value; None: the row does not apply."""


def fields() -> frozenset[str]:
    """Every key of a plan that some setting may have, as the table names them."""
    return frozenset(_keys(Plan, ""))


def _keys(cls: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in cls.model_fields.items():
        key = f"{prefix}{name}"
        inner = [part for part in _models_in(info.annotation) if key not in ("cluster", "precision")]
        parts = [part for part in inner if part.__name__ not in ("Zipf", "Popularity")]
        if key == "pools":
            yield key
            yield from _keys(Pool, "")
        elif parts:
            yield from _keys(parts[0], f"{key}.")
        else:
            yield key


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]

