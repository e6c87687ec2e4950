"""Which pools may encode images, and beside which others."""

from __future__ import annotations

from collections.abc import Sequence

from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool

OF_ENCODERS = ("role", "replicas", "device", "gpu_memory_utilization", "clock_mhz", "encode_batch", "irp")
"""Keys of a pool that a unit which only encodes has a use for."""


def wrong_vision(model: ModelSpec, pool: Pool) -> str | None:
    """Why this pool cannot encode images as it says, or None."""
    encodes = pool.role == "encode"
    if (encodes or pool.vision) and model.vision is None:
        key = "role=encode" if encodes else "vision=true"
        return f"{key}: {model.name} has no vision encoder (it reads text only, or its encoder is not known here)"
    if encodes:
        return _wrong_encoder(pool)
    for key in ("irp", "encode_batch"):
        if getattr(pool, key) != Pool.model_fields[key].default:
            return f"{key}={_shown(getattr(pool, key))}: of pools with role=encode, this one has role={pool.role}"
    if not pool.vision:
        return None
    if pool.role == "decode":
        return "vision=true with role=decode: images are encoded before the prefill, elsewhere (leave the key out)"
    for key in ("pp", "dp", "cp"):
        if getattr(pool, key) > 1:
            return f"vision=true with {key}={getattr(pool, key)} is not simulated in this release"
    heads = model.vision.heads if model.vision else 1
    if heads % pool.tp:
        return f"vision=true: tp={pool.tp} does not divide the {heads} heads of the vision encoder of {model.name}"
    return None


def _wrong_encoder(pool: Pool) -> str | None:
    for key, field in Pool.model_fields.items():
        if key not in OF_ENCODERS and getattr(pool, key) != field.default:
            return (
                f"{key}={_shown(getattr(pool, key))} with role=encode: a unit is one device with the encoder alone "
                f"(allowed keys: {', '.join(OF_ENCODERS)})"
            )
    return None


def cannot_encode(plan: Plan, *, with_prefixes: bool) -> str | None:
    """Why this plan cannot serve a trace with images, or None. ``with_prefixes``: its prompts share prefixes."""
    if plan.fleet is not None and plan.fleet.is_on:
        return "fleet: replicas that come and go are not simulated with images in this release"
    entries = [(k, pool) for k, pool in enumerate(plan.pools) if pool.role in ("serve", "prefill")]
    encoders = any(pool.role == "encode" for pool in plan.pools)
    for index, pool in entries:
        at = f"pools[{index}]"
        if not encoders and not pool.vision:
            return f"{at} encodes none (allowed: vision: true there, or a pool with role: encode)"
        if pool.scheduler.prefix_caching and with_prefixes:
            return f"{at}.scheduler.prefix_caching: prefixes of prompts with images are not simulated in this release"
        if pool.scheduler.policy == "deadline" or pool.scheduler.shed_late:
            return f"{at}.scheduler: deadlines that run while images are encoded are not simulated in this release"
        adapters = pool.lora is not None and pool.lora.adapters > 0
        if adapters or pool.kv_tiers or pool.scheduler.preemption == "swap":
            return f"{at}: lora, kv_tiers and preemption: swap are not simulated with images in this release"
    return None


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).split(" ")[0]


def wrong_encoders(pools: Sequence[Pool]) -> str | None:
    """Why the pools of one plan cannot share the encoding of images, or None."""
    encoders = [pool for pool in pools if pool.role == "encode"]
    entries = [pool for pool in pools if pool.role in ("serve", "prefill")]
    if len(encoders) > 1:
        return "pools: one pool may have role=encode (its replicas are what there are more of)"
    if encoders and not entries:
        return "pools with role=encode and none that prefills or serves (allowed: beside serve, or prefill and decode)"
    seeing = [pool.vision for pool in entries]
    if encoders and any(seeing):
        return "vision=true beside a pool with role=encode, which encodes for all (leave the key out)"
    if any(seeing) and not all(seeing):
        return "vision=true in some pools that serve or prefill (allowed: in all of them, or a pool with role=encode)"
    return None
