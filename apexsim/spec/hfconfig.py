"""What the families of ``spec.huggingface`` share: typed access to the keys of a ``config.json``, and layers.

A missing or senseless key is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from apexsim.errors import InputError
from apexsim.spec.linear import LinearAttention
from apexsim.spec.model import Attention, DenseMlp, LayerGroup, MoeMlp

Mlp = DenseMlp | MoeMlp
Groups = tuple[LayerGroup, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """The decoder's keys, and the file that errors name."""

    keys: Mapping[str, Any]
    source: str

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; ``default`` where the key is absent or null."""
        value = self.keys.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"{self.source}: {key}: missing (a whole number of at least 1 is needed)")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{self.source}: {key} = {value!r}: must be a whole number of at least 1")
        return value

    def optional(self, key: str) -> int | None:
        """A whole number of at least 1, or None where the key is absent or null."""
        return None if self.keys.get(key) is None else self.count(key)

    def zero_or(self, key: str) -> int:
        """A whole number of at least 1; 0 where the key is absent, null or 0."""
        return self.count(key) if self.keys.get(key) else 0

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; ``default`` where the key is absent or null."""
        value = self.keys.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{self.source}: {key} = {value!r}: must be true or false")
        return default if value is None else value

    def each_layer(self, key: str, layers: int) -> Sequence[Any] | None:
        """A list with one entry for each layer; None where the key is absent, null or an empty list."""
        value = self.keys.get(key)
        if not value:
            return None
        if not isinstance(value, list) or len(value) != layers:
            got = f"{len(value)} entries" if isinstance(value, list) else repr(value)
            raise InputError(f"{self.source}: {key}: needs one entry for each of {layers} layers, got {got}")
        return value

    def some_layers(self, key: str) -> frozenset[int] | None:
        """The set of layers that a list names; None where the key is absent, null or an empty list."""
        value = self.keys.get(key)
        if not value:
            return None
        if not isinstance(value, list) or not all(isinstance(layer, int) for layer in value):
            raise InputError(f"{self.source}: {key} = {value!r}: must be a list of layer numbers")
        return frozenset(value)

    def reject(self, key: str, why: str) -> InputError:
        """The error for a value that the architecture allows and this release does not simulate."""
        return InputError(f"{self.source}: {key} = {self.keys.get(key)!r}: {why} is not simulated yet")


def max_context(config: Config) -> int:
    """Longest context in tokens, derived from the rotary scaling as vLLM does (``_get_and_verify_max_len``).

    YaRN's factor counts from its original context; linear and dynamic scaling stretch the stated one. The
    stated one already holds the scaling of Llama 3, LongRoPE and Gemma 3.
    """
    stated = config.count("max_position_embeddings")
    scaling = config.keys.get("rope_scaling") or config.keys.get("rope_parameters") or {}
    if not isinstance(scaling, Mapping):
        raise InputError(f"{config.source}: rope_scaling = {scaling!r}: must be a mapping or null")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("llama3", "longrope", "su") or str(config.keys.get("model_type", "")).startswith("gemma3"):
        return stated
    factor = scaling.get("factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < 1:
        raise InputError(f"{config.source}: rope_scaling.factor = {factor!r}: must be a number of at least 1")
    before = Config(scaling, config.source).count("original_max_position_embeddings", stated)
    return int((before if kind == "yarn" else stated) * factor)


def checkpoint_dtype(config: Config) -> Literal["bf16", "fp16"]:
    """The checkpoint's dtype. Engines run fp32 checkpoints, and those that do not say, as bf16."""
    words = {"bfloat16": "bf16", "float16": "fp16", "float32": "bf16", "half": "fp16", "auto": "bf16"}
    name = config.keys.get("dtype") or config.keys.get("torch_dtype") or "bfloat16"
    if not isinstance(name, str) or name not in words:
        raise InputError(f"{config.source}: torch_dtype = {name!r}: must be one of {', '.join(words)}")
    return "fp16" if words[name] == "fp16" else "bf16"


def gqa(
    config: Config,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
    sinks: bool = False,
    window: int = 0,
) -> Attention:
    """Grouped-query attention under the keys that all families use."""
    heads = config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError(
            f"{config.source}: num_key_value_heads = {kv_heads}: must divide num_attention_heads = {heads}"
        )
    head_dim = config.count("head_dim", max(config.count("hidden_size") // heads, 1))
    return Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, v_head_dim=head_dim, window=window,
        qkv_bias=qkv_bias, output_bias=output_bias, qk_norm=qk_norm, sinks=sinks,
    )  # fmt: skip


def dense_mlp(config: Config, *, bias: bool = False) -> DenseMlp:
    """A gated feed-forward block under the keys that all families use."""
    return DenseMlp(intermediate_size=config.count("intermediate_size"), bias=bias)


def identical_layers(config: Config, attention: Attention, mlp: Mlp, norms: int = 2) -> Groups:
    """All layers alike."""
    return (LayerGroup(count=config.count("num_hidden_layers"), attention=attention, mlp=mlp, norms=norms),)


def windowed_layers(config: Config, attention: Attention, mlp: Mlp, pattern: list[str], norms: int = 2) -> Groups:
    """Layers whose kinds repeat ``pattern`` unless the config lists them; no window where it says null."""
    sliding = attention.model_copy(update={"window": config.zero_or("sliding_window")})
    kinds = layer_kinds(config, pattern)
    return grouped(((sliding if kind == "sliding_attention" else attention, mlp) for kind in kinds), norms)


def layer_kinds(config: Config, pattern: list[str], windowed: str = "sliding_attention") -> list[str]:
    """``full_attention`` or ``windowed`` for each layer: as listed, else ``pattern`` repeated."""
    layers = config.count("num_hidden_layers")
    listed = config.each_layer("layer_types", layers)
    kinds = list(listed or [pattern[i % len(pattern)] for i in range(layers)])
    unknown = sorted({str(kind) for kind in kinds} - {"full_attention", windowed})
    if unknown:
        raise InputError(
            f"{config.source}: layer_types: {unknown[0]!r} is not simulated yet (only full_attention, {windowed})"
        )
    return kinds


def grouped(layers: Iterable[tuple[Attention | LinearAttention, Mlp | None]], norms: int = 2) -> Groups:
    """Identical layers together, in the order of their first layer."""
    found: dict[tuple[Attention | LinearAttention, Mlp | None], list[int]] = {}
    for layer, kind in enumerate(layers):
        found.setdefault(kind, []).append(layer)
    return tuple(
        LayerGroup(count=len(at), attention=attention, mlp=mlp, norms=norms, at=tuple(at) if len(found) > 1 else ())
        for (attention, mlp), at in found.items()
    )
