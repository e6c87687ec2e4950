"""The number formats that a pool asks for, and which of them no kernel has, whatever the device."""

from __future__ import annotations

from apexsim.spec.dtypes import ActivationDtype, WeightDtype
from apexsim.spec.formats import partners, with_activations
from apexsim.spec.layer_precision import PrecisionRule
from apexsim.spec.model import DenseMlp, LayerGroup, ModelSpec, Part
from apexsim.spec.plan import Pool


def pool_word(model: ModelSpec, pool: Pool) -> str:
    """The format of a pool's linear layers: its weights, with the group of a checkpoint that it runs as it is, and
    its own activations where it names some."""
    weights = pool.weights or model.checkpoint_dtype
    own = model.quantization_format if weights == model.quantization else ""
    return with_activations(own or weights, pool.activations)


def part_words(model: ModelSpec, pool: Pool, part: Part, group: int) -> tuple[str, ...]:
    """The formats that a part has in the layers of a group, precision rules followed."""
    kept = part in model.unquantized and (pool.weights or model.checkpoint_dtype) == model.quantization
    word: str = model.dtype if kept else pool_word(model, pool)
    rules = [rule for rule in pool.precision if rule.word is not None and rule.part in ("all", part)]
    if not rules:
        return (word,)
    found = []
    for layer in (layer for layer, g in enumerate(model.order) if g == group):
        found.append(next((rule.word or word for rule in reversed(rules) if rule.covers(layer)), word))
    return tuple(dict.fromkeys(found))


def check_precision(model: ModelSpec, pool: Pool) -> str | None:
    """Why no kernel runs the formats of ``pool``, or one of its rules names nothing of ``model``; or None."""
    reason = _unpaired(pool.weights or model.checkpoint_dtype, pool.activations) or _uncached(model, pool.kv_cache)
    if reason is not None:
        return reason
    for rule in pool.precision:
        reason = _wrong_rule(model, rule)
        if reason is not None:
            return f"precision {rule.id}: {reason}"
    return None


def _wrong_rule(model: ModelSpec, rule: PrecisionRule) -> str | None:
    if rule.last_layer >= model.layers:
        return f"{model.name} has layers 0 to {model.layers - 1}"
    if rule.part != "lm_head":
        order = model.order
        met = {order[layer] for layer in range(model.layers) if rule.covers(layer)}
        if not any(_has(model.groups[g], rule.part) for g in met):
            return f"these layers of {model.name} have no {rule.part.replace('_', ' ')}"
    reason = _unpaired(rule.weights, rule.activations) if rule.weights else None
    return reason or (_uncached(model, rule.kv_cache) if rule.kv_cache else None)


def _has(group: LayerGroup, part: str) -> bool:
    if part in ("attention", "all"):
        return True
    if group.mlp is None or isinstance(group.mlp, DenseMlp):
        return part == "mlp" and group.mlp is not None
    return part == "experts" or (part == "shared_experts" and group.mlp.shared_experts > 0)


def _unpaired(weights: WeightDtype, activations: ActivationDtype | None) -> str | None:
    if activations is None or activations in partners(weights):
        return None
    known = ", ".join(partners(weights))
    return f"activations={activations}: no kernel multiplies {weights} weights by them (known: {known})"


def _uncached(model: ModelSpec, kv_cache: str) -> str | None:
    latent = any(group.attention.kind == "mla" for group in model.groups)
    if kv_cache in ("int8", "int4") and latent:
        return f"kv_cache={kv_cache}: no MLA kernel reads the latent of {model.name} from it (known: bf16, fp16, fp8)"
    return None
