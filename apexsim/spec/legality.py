"""Which plans are legal for a model, and which of them this release simulates.

A reason is one line of text; None means the plan is fine. Nothing is approximated in silence: what the plan
language knows and the engine does not yet do is refused here.
"""

from __future__ import annotations

from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.context_rules import wrong_context
from apexsim.spec.drafts import check_drafts
from apexsim.spec.experts import DIRECT, OFFERED, Experts
from apexsim.spec.formats import block_of, weights_part
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.lora_rules import wrong_lora
from apexsim.spec.model import DenseMlp, ModelSpec, MoeMlp, Part
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.precision import check_precision, part_words
from apexsim.spec.tensor_parallel import TP_RULES, wrong_heads
from apexsim.spec.tier_rules import wrong_swap, wrong_tiers
from apexsim.spec.vision_rules import wrong_encoders, wrong_vision


def check_plan(model: ModelSpec, plan: Plan) -> str | None:
    """Why ``plan`` cannot run ``model``, or None. Needs no device: memory is another question."""
    if plan.techniques:
        return f"techniques {list(plan.techniques)}: this release simulates none"
    if plan.devices > plan.cluster.devices:
        return f"the plan needs {plan.devices} devices, the cluster {plan.cluster} has {plan.cluster.devices}"
    pool = plan.pools[0]
    if pool.disable_hybrid_kv_cache_manager is not None and not _has_kv_manager(plan):
        return f"disable_hybrid_kv_cache_manager: {plan.engine} {plan.engine_version or ''} has no such manager"
    if pool.device is not None and pool.device != plan.cluster.device:
        return f"the pool asks for device {pool.device}, the cluster holds {plan.cluster.device}"
    return wrong_encoders(plan.pools) or check_pool(model, pool, plan.engine)


def _has_kv_manager(plan: Plan) -> bool:
    """Whether the engine's version frees the KV that has left a window, of any layers."""
    known = (p.kv_manager_of(plan.engine_version) for p in catalog.engine_profiles() if p.engine == plan.engine)
    return any(manager is not None and manager.frees for manager in known)


def check_cluster(profile: HardwareProfile, cluster: Cluster) -> str | None:
    """Why no such node exists, or None: ``16xh100-sxm`` says one node of 16 where a switch joins 8."""
    scaleup = profile.scaleup
    if scaleup is None or scaleup.topology != "switch" or scaleup.rack_scale:
        return None
    per_node, domain = cluster.devices_per_node, scaleup.domain
    if per_node <= domain:
        return None
    nodes = -(-per_node // domain) * cluster.nodes
    return (
        f"cluster {cluster}: a node of {profile.name} holds at most {domain} devices, not {per_node} "
        f"({nodes}x{domain}x{profile.name} is {nodes} nodes of {domain})"
    )


def check_clock(profile: HardwareProfile, pool: Pool) -> str | None:
    """Why the device cannot be locked to the pool's clock, or None."""
    if pool.clock_mhz is None:
        return None
    low, high = profile.min_clock_mhz, profile.boost_clock_mhz
    if low is None or high is None:
        return f"clock_mhz = {pool.clock_mhz:g}: the clocks of {profile.name} are not known (leave the key out)"
    if not low <= pool.clock_mhz <= high:
        return f"clock_mhz = {pool.clock_mhz:g}: {profile.name} runs at {low:g} to {high:g} MHz"
    return None


def check_exchange(plan: Plan, profile: HardwareProfile) -> str | None:
    """Why the engine, on this device and cluster, has no such exchange of tokens between experts, or None."""
    pool = plan.pools[0]
    name = pool.experts.exchange
    if name == "auto":
        return None
    offered = OFFERED.get(plan.engine, ())
    if name not in offered:
        return f"experts.exchange={name}: {plan.engine} offers {', '.join(offered) or 'none'}"
    if name.startswith("deepep") and profile.vendor != "NVIDIA":
        return f"experts.exchange={name}: DeepEP runs on NVIDIA devices, {profile.name} is not one"
    if name == "nvlink" and not (profile.scaleup is not None and profile.scaleup.rack_scale):
        return f"experts.exchange=nvlink: {profile.name} has no NVLinks beyond a node"
    if name == "unified-bus" and not (profile.scaleup is not None and profile.scaleup.technology.startswith("UB")):
        return f"experts.exchange=unified-bus: {profile.name} has no unified bus (Ascend in a CloudMatrix384)"
    devices, node = pool.tp * pool.dp, plan.cluster.devices_per_node
    if name in DIRECT and devices > node and devices % node:
        return f"experts.exchange={name}: {devices} devices cannot be equally many on nodes of {node}"
    return None


def check_pool(model: ModelSpec, pool: Pool, engine: str = "vllm") -> str | None:
    """Why ``engine`` cannot run ``model`` in ``pool``, or None."""
    return (
        _not_simulated_yet(pool) or check_precision(model, pool) or _wrong_degrees(model, pool, engine)
        or _wrong_limits(model, pool) or wrong_tiers(pool) or wrong_swap(pool)
        or check_drafts(model, pool, check_pool) or wrong_context(model, pool, engine)
        or wrong_lora(model, pool) or wrong_vision(model, pool)
    )


def _not_simulated_yet(pool: Pool) -> str | None:
    decode = pool.role == "decode"
    later = {
        "role=decode with prefix_caching (its KV comes from elsewhere)": decode and pool.scheduler.prefix_caching,
        "role=decode with kv_tiers": decode and bool(pool.kv_tiers),
        f"role={pool.role} with speculative decoding": pool.role == "prefill" and pool.speculative is not None,
        f"dp={pool.dp} with pp={pool.pp} (ranks in lockstep over several stages)": pool.dp > 1 and pool.pp > 1,
        f"cp={pool.cp} with dp={pool.dp}": pool.cp > 1 and pool.dp > 1,
        f"cp={pool.cp} with ep={pool.ep}": pool.cp > 1 and pool.ep > 1,
        f"cp={pool.cp} with speculative decoding": pool.cp > 1 and pool.speculative is not None,
    }
    return next((f"{feature} is not simulated in this release" for feature, used in later.items() if used), None)


def _wrong_degrees(model: ModelSpec, pool: Pool, engine: str) -> str | None:
    reason = _wrong_stages(model, pool)
    if reason:
        return reason
    rule = TP_RULES[engine]
    for index, group in enumerate(model.groups):
        blocks = Blocks(model, pool, index)
        reason = wrong_heads(group.attention, pool.tp, engine)
        if reason:
            return f"tp={pool.tp} {reason} of {model.name} ({engine} {rule.says})"
        reason = _wrong_width(group.mlp, pool.tp, blocks, uneven=rule.uneven)
        if reason:
            return f"tp={pool.tp} {reason} of {model.name}"
        if isinstance(group.mlp, MoeMlp):
            reason = _wrong_experts(group.mlp, pool, blocks, uneven=rule.uneven)
            if reason:
                return f"{reason} of {model.name}"
    if pool.experts != Experts() and not model.is_moe:
        return f"experts: {model.name} has no experts (leave the key out)"
    if pool.ep > 1 and not model.is_moe:
        return f"ep={pool.ep}: {model.name} has no experts"
    if pool.dp > 1 and not model.is_moe:
        return f"dp={pool.dp}: {model.name} has no experts that its ranks could share (use replicas: {pool.dp})"
    return _wrong_exchange(pool)


def _wrong_stages(model: ModelSpec, pool: Pool) -> str | None:
    """Every stage needs a layer; a split that is stated needs all layers once."""
    if pool.pp > model.layers:
        return f"pp={pool.pp} exceeds the {model.layers} layers of {model.name}"
    split = pool.pp_layers
    if split and (len(split) != pool.pp or sum(split) != model.layers):
        return (
            f"pp_layers={list(split)} has {len(split)} stages and {sum(split)} layers, not the pp={pool.pp} stages and "
            f"{model.layers} layers of {model.name}"
        )
    return None


def _wrong_exchange(pool: Pool) -> str | None:
    name = pool.experts.exchange
    if pool.scheduler.attention_dp_config.enable_balance and pool.dp == 1:
        return "scheduler.attention_dp_config: with dp=1 there are no ranks that could wait for each other"
    if name != "auto" and pool.dp == 1:
        return f"experts.exchange={name}: with dp=1 every device has all tokens, there is nothing to exchange"
    if pool.experts.overlap_shared and pool.dp == 1:
        return "experts.overlap_shared: with dp=1 there is no exchange that shared experts could run beside"
    if pool.experts.overlap == "two-batch":
        if not name.startswith(("deepep", "unified-bus")):
            return f"experts.overlap=two-batch runs beside DeepEP's kernels or unified-bus, not beside exchange={name}"
        if pool.experts.overlap_shared:
            return "experts.overlap_shared: with overlap=two-batch the exchange already runs beside the other half"
    if name in DIRECT and pool.experts_tp > 1:
        return f"experts.exchange={name} sends tokens to whole experts, moe_tp={pool.experts_tp} splits them"
    return None


class Blocks:
    """The widest block of weights with one scale in each part of a group of layers."""

    def __init__(self, model: ModelSpec, pool: Pool, group: int) -> None:
        self._where = model, pool, group

    def widest(self, part: Part) -> tuple[int, str]:
        """(weights of a block, their dtype)."""
        model, pool, group = self._where
        words = part_words(model, pool, part, group)
        return max((block_of(word), weights_part(word)) for word in words)


def _wrong_width(mlp: DenseMlp | MoeMlp | None, tp: int, blocks: Blocks, *, uneven: bool) -> str | None:
    """Each rank gets an equal share of every feed-forward matrix that all ranks hold, unless the engine is uneven."""
    if isinstance(mlp, DenseMlp):
        return _wrong_share("feed-forward width", mlp.intermediate_size, tp, blocks.widest("mlp"), uneven=uneven)
    if mlp is not None and mlp.shared_experts:
        widest = blocks.widest("shared_experts")
        return _wrong_share("shared experts' width", mlp.shared_intermediate_size, tp, widest, uneven=uneven)
    return None


def _wrong_experts(mlp: MoeMlp, pool: Pool, blocks: Blocks, *, uneven: bool) -> str | None:
    """Whole experts over the ep ranks, each of them in equal shares over moe_tp."""
    copies = pool.experts.redundant_experts
    if copies and pool.ep == 1:
        return f"experts.redundant_experts={copies}: with ep=1 every device has all {mlp.experts} experts"
    if (mlp.experts + copies) % pool.ep:
        added = f" and {copies} redundant ones" if copies else ""
        return f"ep={pool.ep} does not divide the {mlp.experts} experts{added}"
    widest = blocks.widest("experts")
    reason = _wrong_share("expert width", mlp.intermediate_size, pool.experts_tp, widest, uneven=uneven)
    name = "tp" if pool.ep == pool.dp == 1 else "moe_tp"
    return f"{name}={pool.experts_tp} {reason}" if reason else None


def _wrong_share(name: str, width: int, ranks: int, widest: tuple[int, str], *, uneven: bool) -> str | None:
    block, weights = widest
    if width % ranks and not uneven:
        return f"does not divide the {name} {width}"
    if -(-width // ranks) % block:
        return f"splits the {name} {width} into shares that cut the {block}-wide blocks of {weights} weights"
    return None


def _wrong_limits(model: ModelSpec, pool: Pool) -> str | None:
    if model.linear is not None and pool.scheduler.prefix_caching:
        return f"prefix_caching: {model.name} has layers with a constant state, of which no prefix can be shared"
    if model.linear is not None and pool.speculative is not None:
        return f"speculative: {model.name} has layers with a constant state, which cannot take back a rejected draft"
    if model.linear is not None and pool.kv_tiers:
        return f"kv_tiers: {model.name} has layers with a constant state, which is not kept there"
    if pool.max_model_len is not None and pool.max_model_len > model.max_context:
        return f"max_model_len={pool.max_model_len} exceeds the {model.max_context} tokens of {model.name}"
    return None
