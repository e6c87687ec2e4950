"""The pools of a disaggregated run: one that prefills and one that decodes, each with its workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apexsim.validation.drafting import speculative_of
from apexsim.validation.recipes import has_front_ends, is_of_harness, recipe_of
from apexsim.validation.stated import CannotSimulate, Known

ROLES = ("prefill", "decode")
DEGREES = ("tp", "pp", "dp", "ep")


def is_disaggregated(known: Known) -> bool:
    """Whether the run's workers prefill or decode."""
    return bool(known.get("mode") == "disagg")


def role_pools(known: Known, common: Mapping[str, Any], scheduler: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Both pools as a plan has them.

    Args:
        common: keys of either pool.
        scheduler: keys of either pool's scheduler.

    Raises:
        CannotSimulate: the row does not say how many workers there are, or of how many devices each is.
    """
    pools = [_pool(known, role, common, scheduler) for role in ROLES]
    if known.get("attention_dp_timeout_iters") is not None:
        known.assume("attention_dp_config has no effect: ranks only wait with prompts while they decode, too")
    devices = sum(pool["replicas"] * pool["tp"] * pool["pp"] * pool["dp"] for pool in pools)
    stated = known.get("devices")
    if stated is not None and int(stated) != devices:
        raise CannotSimulate(
            f"{known.row.where('devices')} is {stated} (allowed: {devices}, workers · tp · pp · dp of both pools)",
            mistake=True,
        )
    return pools


def _pool(
    known: Known, role: str, common: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> dict[str, Any]:
    sizes = {name: known.get(f"{role}_{name}") for name in ("workers", "tp")}
    missing = [f"{role}_{name}" for name, value in sizes.items() if value is None]
    if missing:
        raise CannotSimulate(f"column {missing[0]!r} is empty: a disaggregated run needs its workers")
    degrees = {name: int(known.default(f"{role}_{name}", 1)) for name in DEGREES}
    limits = dict(scheduler)
    recipe = recipe_of(known.row)
    if role == "prefill":
        limits |= _prefill_limits(known, recipe, scheduler)
    else:
        limits |= {"prefix_caching": False, **_decode_limits(known, recipe, scheduler)}
        common = {**common, "speculative": speculative_of(known)}
    return {
        **common, "role": role, "replicas": int(sizes["workers"]), **degrees, "scheduler": limits,
        "moe_tp": known.get(f"{role}_moe_tp"),
    }  # fmt: skip


def _prefill_limits(known: Known, recipe: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """What a rank that prefills takes in an iteration: as the recipe says, over what the row says, else as the row."""
    tokens, batch = recipe.get("prefill_tokens"), known.get("prefill_batch")
    if batch is not None and is_of_harness(known.row):
        known.assume(f"prefill_batch = {batch} is not what ran (InferenceX's recipes have 1 to 16)")
        batch = None
    if tokens is not None:
        known.assume(f"max_num_batched_tokens = {tokens} where it prefills (InferenceX's recipe)")
        return {"max_num_batched_tokens": tokens, "max_num_seqs": min(int(scheduler["max_num_seqs"]), tokens)}
    return {} if batch is None else _seats(batch, scheduler)


def _decode_limits(known: Known, recipe: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """How many requests a rank that decodes runs at once: as the row says, else its recipe, else the preset."""
    batch = known.get("decode_batch")
    if batch is None and "decode_batch" in recipe:
        batch = recipe["decode_batch"]
        known.assume(f"decode_batch = {batch} (InferenceX's recipe)")
    return {} if batch is None else _seats(batch, scheduler)


def _seats(batch: int, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_num_seqs": int(batch), "max_num_batched_tokens": max(scheduler["max_num_batched_tokens"], int(batch))}


def nodes_of(pools: list[dict[str, Any]], per_node: int) -> int:
    """Nodes that hold all workers, none of them across two that could stand in one."""
    nodes = 0
    for pool in pools:
        each = pool["tp"] * pool["pp"] * pool["dp"]
        fits = per_node // each
        nodes += -(-pool["replicas"] // fits) if fits else pool["replicas"] * -(-each // per_node)
    return nodes


def role_router(known: Known, pools: list[dict[str, Any]]) -> dict[str, str]:
    """Who spreads the requests: the orchestrator over workers, in turn; an engine over its attention ranks, by load."""
    many = has_front_ends(known.row)
    for pool in pools:
        word = "workers in turn" + (" by each of ten front ends" if many else "")
        word = "attention ranks with the fewest unfinished ones" if pool["dp"] > 1 else word
        known.assume(f"requests that {pool['role']} to the {word}")
    turns = "round-robin-front-ends" if many else "round-robin"
    return {pool["role"]: "join-shortest-queue" if pool["dp"] > 1 else turns for pool in pools}


def engine_of(known: Known, engine: str, version: str | None) -> str | None:
    """The engine's version; None (the newest known) where the cell has the orchestrator's image."""
    if engine == "tensorrt-llm" and version is not None:
        known.assume(f"engine_version = newest known ({version!r} is the orchestrator's image)")
        return None
    return version
