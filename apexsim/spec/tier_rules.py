"""Which KV tiers a pool can have: rules of ``legality.py``, a reason in one line or None."""

from __future__ import annotations

from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.plan import Pool
from apexsim.spec.tiers import TIERS


def wrong_tiers(pool: Pool) -> str | None:
    """Why no engine keeps blocks in these tiers, or None."""
    names = [tier.tier for tier in pool.kv_tiers]
    if not names:
        return "kv_load: only with kv_tiers" if pool.kv_load != "always" else None
    if names != [name for name in TIERS if name in names]:
        return f"kv_tiers {', '.join(names)}: the order is {', '.join(TIERS)}, each at most once"
    if not pool.scheduler.prefix_caching:
        return "kv_tiers keep blocks of prompts for others to find: they need scheduler.prefix_caching = true"
    if pool.scheduler.attention_dp_config.enable_balance:
        return "kv_tiers with attention_dp_config (ranks that hold prompts back) is not simulated in this release"
    if pool.kv_tiers[0].write == "back":
        return (
            "kv_tiers[0].write = back: the first tier takes what the device computes (through); an allocation that "
            "evicts does not wait for a copy"
        )
    return None


def wrong_swap(pool: Pool) -> str | None:
    """Why preempted requests are not swapped as the plan says, or None."""
    scheduler = pool.scheduler
    if scheduler.preemption == "recompute":
        for key in ("swap_space", "swap_group", "swap_async"):
            if getattr(scheduler, key) != type(scheduler).model_fields[key].default:
                return f"scheduler.{key}: only with preemption = swap"
        return None
    if scheduler.attention_dp_config.enable_balance:
        return "scheduler.preemption = swap with attention_dp_config (ranks that hold prompts back) is not simulated"
    return None


def check_tiers(profile: HardwareProfile, pool: Pool) -> str | None:
    """Why the device cannot reach the tiers or the swap space, or None."""
    if pool.scheduler.preemption == "swap" and profile.pcie_bandwidth is None:
        return f"scheduler.preemption = swap: the PCIe of {profile.name} is not known"
    for k, tier in enumerate(pool.kv_tiers):
        if tier.tier == "host" and tier.bandwidth is None and profile.pcie_bandwidth is None:
            return f"kv_tiers[{k}].bandwidth: missing, and the PCIe of {profile.name} is not known (as in 25GB/s)"
    return None
