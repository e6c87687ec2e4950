"""The values that are in force although the user did not write them: printed once, so that nothing is silent."""

from __future__ import annotations

from apexsim.scenario import Prepared


def defaults_in_force(prepared: Prepared) -> str:
    """One line: every key of the plan that was left out, with the value that stands in for it."""
    plan, pool, scheduler = prepared.plan, prepared.pool, prepared.pool.scheduler
    written = plan.model_fields_set | pool.model_fields_set
    values: dict[str, object] = {
        "router": plan.router,
        "engine": plan.engine,
        "engine_version": plan.engine_version or "newest known",
        "weights": prepared.model.quantization or prepared.model.dtype,
        "kv_cache": pool.kv_cache,
        "gpu_memory_utilization": pool.gpu_memory_utilization,
        "block_size": pool.block_size,
        "max_model_len": prepared.compiled.memory.max_model_len,
    }
    limits: dict[str, object] = {
        "preset": scheduler.preset,
        "max_num_batched_tokens": prepared.policy.max_num_batched_tokens,
        "max_num_seqs": prepared.policy.max_num_seqs,
        "prefix_caching": scheduler.prefix_caching,
    }
    left_out = [f"{key}={value}" for key, value in values.items() if key not in written]
    left_out += [f"{key}={value}" for key, value in limits.items() if key not in scheduler.model_fields_set]
    return f"defaults in force: {', '.join(left_out) or 'none'}"
