"""``config.json`` of models with layers of constant state: Nemotron-H, Qwen3-Next, MiniMax-01."""

from __future__ import annotations

from apexsim.errors import InputError
from apexsim.spec.hfconfig import Config, Groups, Mlp, dense_mlp, gqa, grouped, layer_kinds
from apexsim.spec.linear import LinearAttention, StateDtype
from apexsim.spec.model import Attention, DenseMlp, MoeMlp

MIXERS = {"M": "Mamba-2", "*": "attention"}
BLOCKS = {"-": "feed-forward", "E": "experts"}


def nemotron_h(config: Config) -> Groups:
    """Nemotron-H and Nemotron 3: a letter a layer, each either a mixer or a feed-forward block.

    A mixer and the block right behind it are one layer here, so a model has fewer layers than its config counts.
    """
    pattern = _pattern(config)
    mamba = LinearAttention(
        kind="mamba2",
        value_heads=config.count("mamba_num_heads"),
        key_heads=config.count("n_groups"),
        key_dim=config.count("ssm_state_size"),
        value_dim=config.count("mamba_head_dim"),
        conv_kernel=config.count("conv_kernel", 4),
        conv_bias=config.flag("use_conv_bias", True),
        chunk=config.count("chunk_size", 128),
        state_dtype=_state_dtype(config, "mamba_ssm_cache_dtype"),
    )
    head_dim = config.optional("head_dim") or config.optional("attention_head_dim")
    full = gqa(Config({**config.keys, "head_dim": head_dim}, config.source))
    mixers: dict[str, Attention | LinearAttention] = {"M": mamba, "*": full}
    layers: list[tuple[Attention | LinearAttention, Mlp | None]] = []
    for place, letter in enumerate(pattern):
        if letter in MIXERS:
            behind = pattern[place + 1 : place + 2]
            layers.append((mixers[letter], _nemotron_block(config, behind) if behind in BLOCKS else None))
        elif place == 0 or pattern[place - 1] not in MIXERS:
            raise config.reject("hybrid_override_pattern", "a feed-forward layer behind another one")
    return tuple(
        group.model_copy(update={"norms": 1 if group.mlp is None else 2}) for group in grouped(layers)
    )


def qwen3_next(config: Config) -> Groups:
    """Qwen3-Next: three layers of gated DeltaNet to one of gated attention; experts and a shared one everywhere."""
    bias = config.flag("attention_bias")
    full = gqa(config, qkv_bias=bias, output_bias=bias, qk_norm=True).model_copy(update={"output_gate": True})
    linear = LinearAttention(
        kind="gated-delta",
        value_heads=config.count("linear_num_value_heads"),
        key_heads=config.count("linear_num_key_heads"),
        key_dim=config.count("linear_key_head_dim"),
        value_dim=config.count("linear_value_head_dim"),
        conv_kernel=config.count("linear_conv_kernel_dim"),
        state_dtype=_state_dtype(config, "mamba_ssm_dtype"),
    )
    experts = MoeMlp(
        experts=config.count("num_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=config.count("moe_intermediate_size"),
        shared_experts=1,
        shared_intermediate_size=config.count("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    every = config.count("full_attention_interval", 4)
    kinds = layer_kinds(config, ["linear_attention"] * (every - 1) + ["full_attention"], windowed="linear_attention")
    dense, step = config.some_layers("mlp_only_layers") or frozenset(), config.count("decoder_sparse_step", 1)
    return grouped(
        (linear if kind == "linear_attention" else full, dense_mlp(config) if i in dense or (i + 1) % step else experts)
        for i, kind in enumerate(kinds)
    )


def minimax(config: Config) -> Groups:
    """MiniMax-Text-01 and M1: lightning attention in seven of eight layers, experts in all."""
    heads = config.count("num_attention_heads")
    full = gqa(config)
    linear = LinearAttention(
        kind="lightning", value_heads=heads, key_heads=heads, key_dim=full.head_dim, value_dim=full.head_dim,
        chunk=config.count("block_size", 256),
    )  # fmt: skip
    experts = MoeMlp(
        experts=config.count("num_local_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=config.count("intermediate_size"),
    )
    softmax = config.each_layer("attn_type_list", config.count("num_hidden_layers"))
    if softmax is None:
        pattern = ["linear_attention"] * 7 + ["full_attention"]
        softmax = [kind == "full_attention" for kind in layer_kinds(config, pattern, windowed="linear_attention")]
    return grouped((full if is_full else linear, experts) for is_full in softmax)


def _pattern(config: Config) -> str:
    pattern, layers = config.keys.get("hybrid_override_pattern"), config.count("num_hidden_layers")
    if not isinstance(pattern, str) or len(pattern) != layers or set(pattern) - set(MIXERS) - set(BLOCKS):
        letters = ", ".join(f"{letter} ({name})" for letter, name in (MIXERS | BLOCKS).items())
        raise InputError(
            f"{config.source}: hybrid_override_pattern = {pattern!r}: must name each of {layers} layers, by {letters}"
        )
    return pattern


def _nemotron_block(config: Config, letter: str) -> Mlp:
    """Squared ReLU: two matrices, no gate."""
    if letter == "-":
        return DenseMlp(intermediate_size=config.count("intermediate_size"), gated=False, bias=config.flag("mlp_bias"))
    shared = config.zero_or("n_shared_experts")
    return MoeMlp(
        experts=config.count("n_routed_experts"),
        experts_per_token=config.count("num_experts_per_tok"),
        intermediate_size=config.count("moe_intermediate_size"),
        shared_experts=shared,
        shared_intermediate_size=shared * config.count("moe_shared_expert_intermediate_size") if shared else 0,
        gated=False,
        router_bias=True,
    )


def _state_dtype(config: Config, key: str) -> StateDtype:
    """Dtype of the state; 16 bits where the config does not say, as vLLM has it."""
    words: dict[object, StateDtype] = {None: "bf16", "bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
    value = config.keys.get(key)
    if value not in words:
        raise InputError(f"{config.source}: {key} = {value!r}: must be bfloat16, float16 or float32")
    return words[value]
