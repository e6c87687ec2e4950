"""Which plans of several pools are legal, and which of them this release simulates."""

from __future__ import annotations

from apexsim.spec.drafts import drafts_of
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.vision_rules import wrong_encoders

ALONE_ONLY = "not simulated with several pools"


def check_pools(model: ModelSpec, plan: Plan) -> str | None:
    """Why these pools cannot work together, or None."""
    roles = [pool.role for pool in plan.pools]
    if ("prefill" in roles) != ("decode" in roles):
        lonely = "prefill" if "prefill" in roles else "decode"
        other = "decode" if lonely == "prefill" else "prefill"
        return f"pools with role={lonely} and none with role={other} (a plan of several pools needs both, or neither)"
    reason = wrong_encoders(plan.pools)
    if reason is not None:
        return reason
    for index, pool in enumerate(plan.pools):
        reason = wrong_beside_others(model, pool)
        if reason is not None:
            return f"pools[{index}].{reason}"
    if "lora-aware" in {plan.router_of(pool.role) for pool in plan.pools}:
        return f"router=lora-aware: adapters are {ALONE_ONLY}"
    formats = {pool.kv_cache for pool in plan.pools if pool.role in ("prefill", "decode")}
    if len(formats) > 1:
        return (
            f"pools: kv_cache = {' and '.join(sorted(formats))}: KV goes from pool to pool as it is "
            "(allowed: one format for all that prefill or decode)"
        )
    return None


def wrong_beside_others(model: ModelSpec, pool: Pool) -> str | None:
    """What of this pool the engine does not do where several pools, or images, take part; None where all is well."""
    scheduler = pool.scheduler
    decode = pool.role == "decode"
    hands = pool.role in ("prefill", "decode")
    later = {
        "kv_tiers": bool(pool.kv_tiers),
        "lora": pool.lora is not None and pool.lora.adapters > 0,
        "scheduler.preemption=swap": scheduler.preemption == "swap",
        "scheduler.attention_dp_config": scheduler.attention_dp_config.enable_balance,
        "scheduler.max_waiting (admission control belongs where requests enter)": decode
        and scheduler.max_waiting is not None,
        "scheduler.max_wait": decode and scheduler.max_wait is not None,
        "scheduler.shed_late": decode and scheduler.shed_late,
        f"role={pool.role} of a model with layers of a constant state": hands and model.linear is not None,
        f"role={pool.role} with speculative decoding by another model": decode
        and drafts_of(pool) > 0
        and pool.speculative is not None
        and pool.speculative.method != "mtp",
    }
    for key, asked in later.items():
        if asked:
            return f"{key}: {ALONE_ONLY}"
    return None
