"""Hugging Face ``config.json`` to ``ModelSpec``: one small function for each family of architectures.

A key that a config leaves out has the default of its class in the ``transformers`` library, because Hugging
Face writes only what differs from it (Gemma 3 says no vocabulary). An architecture that is not in
``ARCHITECTURES`` is an error that names it: its layers may hold anything. Multi-modal models are read down to
their decoder (``text_config``) and the vision encoders of ``hfvision.py``; audio towers are no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apexsim.errors import InputError, unknown_name
from apexsim.spec.base import load_yaml, one_line, parse
from apexsim.spec.hfconfig import (
    Config,
    Groups,
    Mlp,
    checkpoint_dtype,
    dense_mlp,
    gqa,
    grouped,
    identical_layers,
    layer_kinds,
    max_context,
    windowed_layers,
)
from apexsim.spec.hflinear import minimax, nemotron_h, qwen3_next
from apexsim.spec.hfopt import OPT_DEFAULTS, opt, opt_tables
from apexsim.spec.hfvision import vision_of
from apexsim.spec.model import Attention, DenseMlp, ModelSpec, MoeMlp
from apexsim.spec.quantization import read_quantization


def load_model(path: Path | str, name: str | None = None) -> ModelSpec:
    """The model that a ``config.json``, or the folder that holds one, declares.

    Raises:
        InputError: no such file, not valid JSON, a missing or impossible key, an unknown architecture.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    config = load_yaml(file)
    beside = file.parent / "hf_quant_config.json"  # NVIDIA's older exports declare their quantisation there
    if "quantization_config" not in config and file.name == "config.json" and beside.exists():
        config = {**config, "quantization_config": load_yaml(beside).get("quantization")}
    default = file.parent.resolve().name if file.name == "config.json" else file.stem
    return model_from_config(config, name or default, str(file))


def model_from_config(config: Mapping[str, Any], name: str, source: str) -> ModelSpec:
    """The model that the keys of a ``config.json`` declare; ``source`` is what errors call the file.

    Raises:
        InputError: a missing or impossible key, an unknown architecture or quantisation method.
    """
    family = _family(config, source)
    inner = "llm_config" if "llm_config" in config else "text_config"
    text = config.get(inner) or {}
    if not isinstance(text, Mapping):
        raise InputError(f"{source}: {inner}: expected a mapping, got {text!r}")
    keys = Config({**family.defaults, **config, **text}, source)
    quantization = read_quantization(keys.keys, source)
    outside_first = Config({**text, **config}, source)
    fields = {
        "name": name,
        "architecture": config["architectures"][0],
        "hidden_size": keys.count("hidden_size"),
        "vocab_size": keys.count("vocab_size"),
        "max_context": max_context(keys),
        "tied_embeddings": outside_first.flag("tie_word_embeddings", family.tied),
        "dtype": checkpoint_dtype(keys),
        "quantization": quantization.weights if quantization else None,
        "quantization_format": quantization.format if quantization else "",
        "unquantized": quantization.unquantized if quantization else (),
        "groups": _groups(family, keys),
        "mtp_layers": keys.zero_or("num_nextn_predict_layers"),
        "vision": vision_of(config, keys, source),
        "source": source,
        **(family.tables(keys) if family.tables else {}),
    }
    return parse(ModelSpec, fields, source=source)


def llama(config: Config) -> Groups:
    """Llama 1 to 3 and everything that is published under its class (CodeLlama, Yi, Phi-3)."""
    bias = config.flag("attention_bias")
    attention = gqa(config, qkv_bias=bias, output_bias=bias)
    return identical_layers(config, attention, dense_mlp(config, bias=config.flag("mlp_bias")))


def mistral(config: Config) -> Groups:
    """Mistral: Llama with one sliding window for all layers, where it has one."""
    return windowed_layers(config, gqa(config), dense_mlp(config), ["sliding_attention"])


def mixtral(config: Config) -> Groups:
    """Mixtral: Mistral with experts in every layer."""
    experts = MoeMlp(
        experts=config.count("num_local_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=config.count("intermediate_size"),
    )
    return windowed_layers(config, gqa(config), experts, ["sliding_attention"])


def qwen2(config: Config) -> Groups:
    """Qwen2 and 2.5: biases on q, k and v; layers from ``max_window_layers`` on may have a sliding window."""
    return _qwen_layers(config, gqa(config, qkv_bias=True), dense_mlp(config))


def qwen3(config: Config) -> Groups:
    """Qwen3 dense: norms over the heads of q and k instead of biases."""
    return _qwen_layers(config, _qwen3_attention(config), dense_mlp(config))


def qwen2_moe(config: Config) -> Groups:
    """Qwen1.5/2 MoE: routed experts and one gated shared expert."""
    attention = gqa(config, qkv_bias=config.flag("qkv_bias", True))
    experts = _qwen_experts(config).model_copy(
        update={
            "shared_experts": 1,
            "shared_intermediate_size": config.count("shared_expert_intermediate_size"),
            "shared_gate": True,
        }
    )
    return grouped((attention, mlp) for mlp in _qwen_mlps(config, experts))


def qwen3_moe(config: Config) -> Groups:
    """Qwen3 MoE: routed experts only, in every ``decoder_sparse_step``-th layer."""
    attention = _qwen3_attention(config)
    return grouped((attention, mlp) for mlp in _qwen_mlps(config, _qwen_experts(config)))


def gemma(config: Config) -> Groups:
    """Gemma 1: Llama with heads of 256 and tied embeddings."""
    return identical_layers(config, gqa(config), dense_mlp(config))


def gemma2(config: Config) -> Groups:
    """Gemma 2: every other layer has a sliding window; norms before and after each block."""
    pattern: list[str] = ["sliding_attention", "full_attention"]
    return windowed_layers(config, gqa(config), dense_mlp(config), pattern, norms=4)


def gemma3(config: Config) -> Groups:
    """Gemma 3: five layers with a sliding window to one without; norms over the heads of q and k."""
    pattern = ["sliding_attention"] * (config.count("sliding_window_pattern", 6) - 1) + ["full_attention"]
    return windowed_layers(config, gqa(config, qk_norm=True), dense_mlp(config), pattern, norms=4)


def gemma4(config: Config) -> Groups:
    """Gemma 4: full layers have wider heads and one projection for keys and values; experts beside an MLP.

    Variants with per-layer embeddings or KV caches shared between layers are refused.
    """
    for key, why in (
        ("hidden_size_per_layer_input", "an embedding for each layer"),
        ("num_kv_shared_layers", "a KV cache shared between layers"),
        ("use_double_wide_mlp", "a double-wide feed-forward block"),
    ):
        if config.keys.get(key):
            raise config.reject(key, why)
    heads = config.count("num_attention_heads")
    full = Attention(
        heads=heads,
        kv_heads=config.count("num_global_key_value_heads", config.count("num_key_value_heads")),
        head_dim=config.count("global_head_dim", config.count("head_dim")),
        v_head_dim=config.count("global_head_dim", config.count("head_dim")),
        qk_norm=True,
        shared_kv=config.flag("attention_k_eq_v"),
    )
    sliding = gqa(config, qk_norm=True, window=config.count("sliding_window"))
    mlp, norms = (_gemma4_experts(config), 7) if config.flag("enable_moe_block") else (dense_mlp(config), 4)
    kinds = layer_kinds(config, ["sliding_attention"] * 5 + ["full_attention"])
    return grouped(((full if kind == "full_attention" else sliding, mlp) for kind in kinds), norms)


def gpt_oss(config: Config) -> Groups:
    """gpt-oss: sinks and biases everywhere, experts in every layer, a sliding window in every other."""
    bias = config.flag("attention_bias", True)
    attention = gqa(config, qkv_bias=bias, output_bias=bias, sinks=True)
    experts = MoeMlp(
        experts=config.count("num_local_experts"),
        experts_per_token=config.count("num_experts_per_tok", config.optional("experts_per_token")),
        intermediate_size=config.count("intermediate_size"),
        bias=True,
        router_bias=True,
    )
    return windowed_layers(config, attention, experts, ["sliding_attention", "full_attention"])


def llama4(config: Config) -> Groups:
    """Llama 4: every ``interleave_moe_layer_step``-th layer has experts and a shared one; q and k have norms
    without weights. Three of four layers attend inside chunks of ``attention_chunk_size`` tokens, for which a
    window of that size stands: an upper bound, a query sees half of its chunk on average.
    """
    layers, step = config.count("num_hidden_layers"), config.count("interleave_moe_layer_step")
    width = config.count("intermediate_size")
    experts = MoeMlp(
        experts=config.count("num_local_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=width,
        shared_experts=1,
        shared_intermediate_size=width,
    )
    dense = DenseMlp(intermediate_size=config.count("intermediate_size_mlp"))
    rotary = config.each_layer("no_rope_layers", layers) or [int((i + 1) % 4 != 0) for i in range(layers)]
    pattern = ["chunked_attention" if has_rotary else "full_attention" for has_rotary in rotary]
    kinds = layer_kinds(config, pattern, windowed="chunked_attention")
    sparse = config.some_layers("moe_layers") or frozenset(range(step - 1, layers, step))
    bias = config.flag("attention_bias")
    full = gqa(config, qkv_bias=bias, output_bias=bias)
    chunked = full.model_copy(update={"window": config.count("attention_chunk_size"), "chunked": True})
    return grouped(
        (chunked if kind == "chunked_attention" else full, experts if i in sparse else dense)
        for i, kind in enumerate(kinds)
    )


def deepseek(config: Config) -> Groups:
    """DeepSeek-V2, V3, R1 and Kimi-K2: latent attention, shared experts, the first layers dense."""
    if config.keys.get("index_topk"):
        raise config.reject("index_topk", "sparse attention with an indexer")
    nope, rope = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    heads = config.count("num_attention_heads")
    attention = Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=nope + rope,
        v_head_dim=config.count("v_head_dim"),
        q_lora_rank=config.optional("q_lora_rank"),
        kv_lora_rank=config.count("kv_lora_rank"),
        rope_head_dim=rope,
        qkv_bias=config.flag("attention_bias"),
        output_bias=config.flag("attention_bias"),
    )
    return grouped((attention, mlp) for mlp in _deepseek_mlps(config))


def glm4(config: Config) -> Groups:
    """GLM-4 dense (0414): biases on q, k and v, norms before and after each block."""
    attention = gqa(config, qkv_bias=config.flag("attention_bias"))
    return identical_layers(config, attention, dense_mlp(config), norms=4)


def glm4_moe(config: Config) -> Groups:
    """GLM-4.5 and 4.6: grouped-query attention with DeepSeek's experts."""
    attention = gqa(config, qkv_bias=config.flag("attention_bias"), qk_norm=config.flag("use_qk_norm"))
    return grouped((attention, mlp) for mlp in _deepseek_mlps(config))


@dataclass(frozen=True)
class Family:
    """How a class of ``config.json`` is read: its layers, and the defaults it has in ``transformers``."""

    groups: Callable[[Config], Groups]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False
    tables: Callable[[Config], Mapping[str, Any]] | None = None  # further fields of ``ModelSpec``


_MISTRAL = Family(mistral, {"sliding_window": 4096, "num_key_value_heads": 8})
_GEMMA3 = Family(
    gemma3,
    {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
     "max_position_embeddings": 131072, "sliding_window": 4096},
    tied=True,
)  # fmt: skip
_LLAMA4 = Family(
    llama4,
    {"vocab_size": 202048, "max_position_embeddings": 131072, "intermediate_size_mlp": 16384, "head_dim": 128,
     "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
     "attention_chunk_size": 8192},
)  # fmt: skip
_QWEN2, _QWEN3, _QWEN3_MOE = Family(qwen2), Family(qwen3, {"head_dim": 128}), Family(qwen3_moe)

ARCHITECTURES: dict[str, Family] = {
    "LlamaForCausalLM": Family(llama), "Phi3ForCausalLM": Family(llama), "InternVLChatModel": Family(llama),
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": _LLAMA4,
    "MistralForCausalLM": _MISTRAL,
    "Mistral3ForConditionalGeneration": _MISTRAL,
    "MixtralForCausalLM": Family(mixtral, {"sliding_window": None, "num_key_value_heads": 8}),
    "Qwen2ForCausalLM": _QWEN2, "MiniCPMV": _QWEN2,
    "Qwen2VLForConditionalGeneration": _QWEN2,
    "Qwen2_5_VLForConditionalGeneration": _QWEN2,
    "Qwen2MoeForCausalLM": Family(qwen2_moe),
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3VLForConditionalGeneration": _QWEN3,
    "Qwen3MoeForCausalLM": _QWEN3_MOE,
    "Qwen3VLMoeForConditionalGeneration": _QWEN3_MOE,
    "GemmaForCausalLM": Family(gemma, {"head_dim": 256}, tied=True),
    "Gemma2ForCausalLM": Family(gemma2, {"head_dim": 256, "sliding_window": 4096}, tied=True),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Gemma4ForCausalLM": Family(gemma4, tied=True),
    "Gemma4ForConditionalGeneration": Family(gemma4, tied=True),
    "GptOssForCausalLM": Family(gpt_oss, {"head_dim": 64, "sliding_window": 128, "max_position_embeddings": 131072}),
    "DeepseekV2ForCausalLM": Family(deepseek),
    "DeepseekV3ForCausalLM": Family(deepseek),
    "NemotronHForCausalLM": Family(nemotron_h, {"max_position_embeddings": 4096}),
    "Qwen3NextForCausalLM": Family(qwen3_next, {"head_dim": 256}),
    "MiniMaxText01ForCausalLM": Family(minimax), "MiniMaxM1ForCausalLM": Family(minimax),
    "Glm4ForCausalLM": Family(glm4),
    "OPTForCausalLM": Family(opt, OPT_DEFAULTS, tied=True, tables=opt_tables),
    "Glm4MoeForCausalLM": Family(glm4_moe),
}
"""Every class of ``config.json`` that can be read."""

_KNOWN_AND_REFUSED = {
    "DeepseekV32ForCausalLM": "sparse attention with an indexer",
    "GlmMoeDsaForCausalLM": "sparse attention with an indexer",
    "KimiLinearForCausalLM": "linear attention layers",
    "JambaForCausalLM": "state-space layers",
    "MambaForCausalLM": "state-space layers",
    "MllamaForConditionalGeneration": "cross-attention layers",
}


def _groups(family: Family, keys: Config) -> Groups:
    try:
        return family.groups(keys)
    except ValidationError as problem:
        raise InputError(f"{keys.source}: {one_line(problem, ModelSpec, None)}") from None


def _family(config: Mapping[str, Any], source: str) -> Family:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(f"{source}: architectures: missing (a list with the model's class is needed)")
    if names[0] in _KNOWN_AND_REFUSED:
        why = _KNOWN_AND_REFUSED[names[0]]
        raise InputError(f"{source}: architectures: {names[0]} has {why}: not simulated yet")
    if names[0] not in ARCHITECTURES:
        raise InputError(f"{source}: architectures: {unknown_name('architecture', names[0], ARCHITECTURES)}")
    return ARCHITECTURES[names[0]]


def _qwen_layers(config: Config, attention: Attention, mlp: DenseMlp) -> Groups:
    if not config.flag("use_sliding_window"):
        return identical_layers(config, attention, mlp)
    layers, first = config.count("num_hidden_layers"), config.zero_or("max_window_layers")
    pattern = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    return windowed_layers(config, attention, mlp, pattern)


def _qwen3_attention(config: Config) -> Attention:
    bias = config.flag("attention_bias")
    return gqa(config, qkv_bias=bias, output_bias=bias, qk_norm=True)


def _qwen_experts(config: Config) -> MoeMlp:
    return MoeMlp(
        experts=config.count("num_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=config.count("moe_intermediate_size"),
    )


def _qwen_mlps(config: Config, experts: MoeMlp) -> list[Mlp]:
    if config.flag("use_sliding_window"):
        raise config.reject("use_sliding_window", "a window in Qwen's MoE models")
    layers, step = config.count("num_hidden_layers"), config.count("decoder_sparse_step", 1)
    dense_layers = config.some_layers("mlp_only_layers") or frozenset()
    return [experts if i not in dense_layers and (i + 1) % step == 0 else dense_mlp(config) for i in range(layers)]


def _deepseek_mlps(config: Config) -> list[Mlp]:
    first, step = config.zero_or("first_k_dense_replace"), config.count("moe_layer_freq", 1)
    width, shared = config.count("moe_intermediate_size"), config.zero_or("n_shared_experts")
    experts = MoeMlp(
        experts=config.count("n_routed_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=width,
        shared_experts=shared,
        shared_intermediate_size=shared * width,
        router_bias=config.keys.get("topk_method", "noaux_tc") == "noaux_tc",
        groups=config.count("n_group", 1),
        groups_per_token=config.optional("topk_group") or 0,
    )
    layers = config.count("num_hidden_layers")
    return [experts if i >= first and i % step == 0 else dense_mlp(config) for i in range(layers)]


def _gemma4_experts(config: Config) -> MoeMlp:
    return MoeMlp(
        experts=config.count("num_experts"),
        experts_per_token=config.count("top_k_experts"),
        intermediate_size=config.count("moe_intermediate_size"),
        shared_experts=1,
        shared_intermediate_size=config.count("intermediate_size"),
    )
