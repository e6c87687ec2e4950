"""What drafts for a pool: the model that each pass runs through, and whether the pool can run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from apexsim.spec import catalog
from apexsim.spec.model import Attention, DenseMlp, LayerGroup, ModelSpec, MoeMlp
from apexsim.spec.plan import Pool


class Draft(NamedTuple):
    """What each draft is one pass through, with the pool that it would be alone."""

    model: ModelSpec
    pool: Pool
    copies: int = 1  # of its layers in memory: MTP layers take turns
    inputs: int = 0  # hidden vectors of the target that are projected to one first
    own_tables: bool = True  # embedding and LM head are its own; else they are the target's


def drafts_of(pool: Pool) -> int:
    """Drafts of a sequence in each step."""
    return pool.speculative.num_speculative_tokens if pool.speculative else 0


def acceptance_of(pool: Pool) -> tuple[float, ...]:
    """Probability of each draft of a step that it is accepted where all before it were."""
    return pool.speculative.probabilities if pool.speculative else ()


def draft_of(model: ModelSpec, pool: Pool) -> Draft | None:
    """The draft of a pool of ``model``; None where nothing is computed for it: no speculation, or ngram.

    Raises:
        UsageError: nobody knows the draft model.
    """
    speculative = pool.speculative
    if speculative is None or speculative.num_speculative_tokens == 0 or speculative.method == "ngram":
        return None
    tp = speculative.draft_tensor_parallel_size or pool.tp
    alone = Pool(
        tp=tp, device=pool.device, kv_cache=pool.kv_cache, block_size=pool.block_size, clock_mhz=pool.clock_mhz,
    )  # fmt: skip
    if speculative.method == "draft-model":
        return Draft(catalog.model(speculative.draft_model or ""), alone)
    group = next((each for each in reversed(model.groups) if each.attention.window == 0), model.groups[-1])
    attention = group.attention
    if isinstance(attention, Attention):
        attention = attention.model_copy(update={"window": 0})
    if speculative.method == "mtp":
        # DeepSeek-V3, arXiv 2412.19437, section 2.2: a whole layer after a projection of two hidden vectors to one.
        spread = {"dp": pool.dp, "ep": pool.ep, "moe_tp": pool.moe_tp, "experts": pool.experts}
        update = spread if model.is_moe else {}
        layer = group.model_copy(update={"count": 1, "attention": attention})
        own = alone.model_copy(update={**update, "weights": pool.weights})
        return Draft(_layer(model, "MTP layer", layer), own, max(model.mtp_layers, 1), 2, own_tables=False)
    layer = group.model_copy(update={"count": 1, "attention": attention, "mlp": _dense(group)})
    # EAGLE, arXiv 2401.15077, section 3.1: a dense layer after a projection of feature and embedding to one.
    return Draft(_layer(model, "EAGLE head", layer), alone, 1, 2, own_tables=False)


def _layer(model: ModelSpec, name: str, layer: LayerGroup) -> ModelSpec:
    return model.model_copy(update={"name": f"{model.name} {name}", "groups": (layer,), "aliases": ()})


def _dense(group: LayerGroup) -> DenseMlp:
    """A dense block as wide as what a token runs through."""
    mlp = group.mlp
    assert mlp is not None  # models with layers of mixers alone are refused
    if not isinstance(mlp, MoeMlp):
        return mlp
    width = mlp.experts_per_token * mlp.intermediate_size + mlp.shared_intermediate_size
    return DenseMlp(intermediate_size=width, gated=mlp.gated)


def check_drafts(
    model: ModelSpec, pool: Pool, check_pool: Callable[[ModelSpec, Pool], str | None]
) -> str | None:
    """Why the pool cannot speculate as it says, or None."""
    if drafts_of(pool) == 0:
        return None
    reason = _no_such_step(pool) or _wrong_method(model, pool)
    if reason is not None:
        return f"speculative: {reason}"
    draft = draft_of(model, pool)
    if draft is None:
        return None
    reason = _wrong_draft(model, pool, draft) or check_pool(draft.model, draft.pool)
    return None if reason is None else f"speculative: {draft.model.name}: {reason}"


def _no_such_step(pool: Pool) -> str | None:
    """Where steps of several tokens are not simulated."""
    degrees = {"pp": pool.pp, "cp": pool.cp}
    for name, degree in degrees.items():
        if degree > 1:
            return f"not simulated with {name}={degree} (each sequence of a batch goes at its own pace)"
    if pool.scheduler.preemption == "swap":
        return "not simulated with scheduler.preemption = swap (its blocks for drafts would go along)"
    return f"not simulated in a {pool.role} pool" if pool.role not in ("serve", "decode") else None


def _wrong_method(model: ModelSpec, pool: Pool) -> str | None:
    assert pool.speculative is not None
    method, k = pool.speculative.method, pool.speculative.num_speculative_tokens
    if method == "mtp" and model.mtp_layers == 0:
        return f"method=mtp: {model.name} has no multi-token-prediction layers (allowed: draft-model, eagle, ngram)"
    if method == "mtp" and k % model.mtp_layers:
        return f"num_speculative_tokens={k} is no multiple of the {model.mtp_layers} MTP layers of {model.name}"
    if model.linear is not None:
        return f"{model.name} has layers with a constant state, which rejected drafts would have to leave again"
    if method == "ngram" and pool.scheduler.async_scheduling:
        return "ngram reads the tokens of a step before the next is composed: async_scheduling cannot be true"
    return None


def _wrong_draft(model: ModelSpec, pool: Pool, draft: Draft) -> str | None:
    if draft.pool.tp not in (1, pool.tp):
        return f"draft_tensor_parallel_size={draft.pool.tp} (allowed: 1, or the pool's tp={pool.tp})"
    if draft.model.vocab_size != model.vocab_size:
        return f"its vocabulary of {draft.model.vocab_size} is not the {model.vocab_size} of {model.name}"
    longest = min(pool.max_model_len or model.max_context, model.max_context)
    if draft.model.max_context < longest:
        return f"it sees {draft.model.max_context} tokens, the pool serves {longest} (set max_model_len)"
    if draft.model.window not in (0, model.window):
        return f"its window of {draft.model.window} tokens is not the {model.window} of {model.name}"
    return None
