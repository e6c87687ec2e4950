"""Reading config.json: layers, windows, quantisation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import InputError
from apexsim.spec.huggingface import ARCHITECTURES, load_model, model_from_config
from apexsim.spec.model import DenseMlp, ModelSpec, MoeMlp

SHARED_CONFIGS = Path(__file__).parents[2] / "shared" / "data" / "model_configs"
REFUSED = {"glm-5.2-fp8.json": "GlmMoeDsaForCausalLM"}

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512,
}  # fmt: skip


def read(changes: dict[str, Any] | None = None, **more: Any) -> ModelSpec:
    return model_from_config({**LLAMA, **(changes or {}), **more}, "m", "m/config.json")


def windows(model: ModelSpec) -> dict[int, int]:
    """Window -> layers that have it."""
    counts: dict[int, int] = {}
    for group in model.groups:
        counts[group.attention.window] = counts.get(group.attention.window, 0) + group.count
    return counts


def test_a_tiny_llama_is_counted_by_hand() -> None:
    model = read()
    attention = 64 * (64 + 2 * 16) + 64 * 64  # q, k and v of 8-wide heads; output
    layer = attention + 3 * 64 * 128 + 2 * 64
    assert model.parameters == 2 * 100 * 64 + 8 * layer + 64
    assert model.layer_parameters(model.groups[0]) == (attention, 3 * 64 * 128, 2 * 64)
    assert model.kv_bytes_per_token("bf16") == 8 * 2 * 2 * 8 * 2  # layers, k and v, heads, width, bytes
    assert model.kv_bytes_per_token("fp8") == model.kv_bytes_per_token("bf16") / 2


def test_tied_embeddings_are_counted_once() -> None:
    assert read().parameters - read(tie_word_embeddings=True).parameters == 100 * 64


def test_mla_caches_one_latent_a_token_whatever_the_heads() -> None:
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "q_lora_rank": 16, "kv_lora_rank": 32, "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 4, "v_head_dim": 10, "moe_intermediate_size": 24, "n_routed_experts": 6,
        "n_shared_experts": 2, "num_experts_per_tok": 2, "first_k_dense_replace": 3,
    }  # fmt: skip
    model = read(config)
    dense, sparse = model.groups
    assert (dense.count, sparse.count) == (3, 5)
    assert isinstance(dense.mlp, DenseMlp)
    assert isinstance(sparse.mlp, MoeMlp)
    assert sparse.mlp.shared_intermediate_size == 2 * 24
    assert model.kv_bytes_per_token("bf16") == 8 * (32 + 4) * 2
    heads, hidden = 8, 64
    query = hidden * 16 + 16 + 16 * heads * 16
    latent = hidden * (32 + 4) + 32 + 32 * heads * (12 + 10)
    assert dense.attention.parameters(hidden) == query + latent + heads * 10 * hidden


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, {32: 8}),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, {0: 8}),
        ({"architectures": ["MistralForCausalLM"]}, {4096: 8}),  # the default of its class
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "use_sliding_window": False}, {0: 8}),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "use_sliding_window": True,
          "max_window_layers": 6}, {0: 6, 32: 2}),
        ({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 32}, {32: 4, 0: 4}),
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 32}, {32: 7, 0: 1}),
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 32,
          "layer_types": ["full_attention"] * 6 + ["sliding_attention"] * 2}, {0: 6, 32: 2}),
        ({"architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}, {128: 4, 0: 4}),
        ({"architectures": ["Llama4ForCausalLM"], "attention_chunk_size": 64}, {64: 6, 0: 2}),
    ],
)  # fmt: skip
def test_windows_follow_the_pattern_of_the_family(changes: dict[str, Any], expected: dict[int, int]) -> None:
    assert windows(read(changes)) == expected


def test_llama4_interleaves_experts_and_dense_layers() -> None:
    model = read(architectures=["Llama4ForCausalLM"], interleave_moe_layer_step=2, intermediate_size_mlp=256)
    dense = sum(group.count for group in model.groups if isinstance(group.mlp, DenseMlp))
    assert dense == 4
    assert {g.mlp.intermediate_size for g in model.groups if isinstance(g.mlp, DenseMlp)} == {256}
    assert {g.mlp.shared_experts for g in model.groups if isinstance(g.mlp, MoeMlp)} == {1}


def test_gemma4_shares_one_projection_in_full_layers() -> None:
    text = {
        "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16,
        "sliding_window": 32, "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
    }  # fmt: skip
    model = read(architectures=["Gemma4ForConditionalGeneration"], text_config=text)
    full = next(group.attention for group in model.groups if not group.attention.window)
    assert full.shared_kv
    assert full.parameters(64) == 64 * (8 * 16 + 16) + 8 * 16 * 64 + 2 * 16
    assert full.kv_elements == 2 * 16  # keys are rotated, values are not: both are cached


def test_the_text_config_of_a_multi_modal_model_is_read() -> None:
    text = {key: value for key, value in LLAMA.items() if key != "architectures"}
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text, "vision_config": {"a": 1}}
    model = model_from_config(config, "m", "m/config.json")
    assert (model.layers, model.vocab_size) == (8, 100)


@pytest.mark.parametrize(
    ("section", "weights"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq", "bits": 4}, "w4a16"),
        ({"quant_method": "gptq", "bits": 8}, "w8a16"),
        ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["gate"]}, "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "w4a16"),
    ],
)
def test_quantisation_sections_are_read(section: dict[str, Any], weights: str) -> None:
    model = read(quantization_config=section)
    assert (model.quantization, model.unquantized) == (weights, ("lm_head",))


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, {"num_bits": 8}, "fp8"),
        ({"num_bits": 8, "type": "float", "strategy": "block"}, {"num_bits": 8}, "fp8-block"),
        ({"num_bits": 8, "type": "int"}, {"num_bits": 8}, "int8"),
        ({"num_bits": 8, "type": "int"}, None, "w8a16"),
        ({"num_bits": 4, "type": "int"}, None, "w4a16"),
        ({"num_bits": 4, "type": "int"}, {"num_bits": 8}, "w4a8"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 4}, "nvfp4"),
        ({"num_bits": 4, "type": "float", "group_size": 32}, None, "mxfp4"),
    ],
)
def test_compressed_tensors_schemes_are_read(weights: Any, activations: Any, expected: str) -> None:
    group = {"weights": weights, "input_activations": activations}
    section = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    assert read(quantization_config=section).quantization == expected


@pytest.mark.parametrize(
    ("ignored", "parts"),
    [
        (["lm_head"], ("lm_head",)),
        (["model.layers.*.self_attn", "model.layers.*.mlp.router"], ("attention", "lm_head")),
        (["re:.*self_attn", "re:vision_model.*"], ("attention", "lm_head")),
        ([f"model.layers.{i}.self_attn.q_proj" for i in range(8)], ("attention", "lm_head")),
        (["vision_model.model.layers.7.self_attn.q_proj"], ("lm_head",)),
        ([f"model.layers.{i}.mlp.gate" for i in range(8)], ("lm_head",)),
        (["language_model.model.layers.*.mlp.shared_experts*"], ("shared_experts", "lm_head")),
    ],
)
def test_parts_that_a_checkpoint_leaves_unquantised(ignored: list[str], parts: tuple[str, ...]) -> None:
    assert read(quantization_config={"quant_method": "fp8", "ignore": ignored}).unquantized == parts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 512),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 64}}, 2560),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}}, 512),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}, 512),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 512),
    ],
)
def test_the_context_follows_the_rotary_scaling(changes: dict[str, Any], expected: int) -> None:
    assert read(changes).max_context == expected


def test_modelopt_declares_its_quantisation_in_a_side_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert load_model(tmp_path).quantization == "fp8"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["KimiLinearForCausalLM"]}, "KimiLinearForCausalLM has linear attention"),
        ({"architectures": ["LlamaForCausalLn"]}, "did you mean 'LlamaForCausalLM'?"),
        ({"architectures": None}, "architectures: missing"),
        ({"hidden_size": None}, "hidden_size: missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: must be a whole number of at least 1"),
        ({"num_hidden_layers": "8"}, "num_hidden_layers = '8'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must divide num_attention_heads = 8"),
        ({"torch_dtype": "int3"}, "torch_dtype = 'int3'"),
        ({"attention_bias": "no"}, "attention_bias = 'no': must be true or false"),
        ({"architectures": ["Gemma3ForCausalLM"], "layer_types": ["linear_attention"] * 8}, "'linear_attention'"),
        ({"architectures": ["Gemma3ForCausalLM"], "layer_types": ["full_attention"]}, "each of 8 layers"),
        ({"architectures": ["Gemma4ForCausalLM"], "hidden_size_per_layer_input": 256},
         "hidden_size_per_layer_input = 256: an embedding for each layer is not simulated"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "index_topk": 2048}, "index_topk = 2048: sparse attention"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "unknown method 'aqlm'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3-bit weights"),
        ({"quantization_config": {"quant_algo": "MIXED_PRECISION"}}, "unknown algorithm 'MIXED_PRECISION'"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "config_groups"),
        ({"text_config": [1]}, "text_config"),
        ({"torch_dtype": ["bfloat16"]}, "torch_dtype = ['bfloat16']"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 4},
         "experts_per_token 4 exceeds experts 2"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": 3, "num_experts": 4, "num_experts_per_tok": 2,
          "moe_intermediate_size": 8}, "mlp_only_layers = 3"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "rope_scaling.factor = '4'"),
        ({"architectures": ["Llama4ForCausalLM"], "layer_types": ["linear_attention"] * 8}, "'linear_attention'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_that_names_it(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        read(changes)
    message = str(error.value)
    assert message.startswith("m/config.json: ")
    assert says in message
    assert "\n" not in message


def test_a_truncated_config_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA, indent=1)[:60])
    with pytest.raises(InputError, match=r"config\.json: line \d+: not JSON"):
        load_model(file)


JUNK = st.sampled_from([None, 0, -1, 1.5, 7, "x", "", [], {}, True, [1], [None], {"a": 1}, float("nan")])
RICH = {
    **LLAMA, "head_dim": 8, "sliding_window": 32, "layer_types": ["full_attention"] * 8, "moe_intermediate_size": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "top_k_experts": 2,
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
    "shared_expert_intermediate_size": 8, "mlp_only_layers": [1], "torch_dtype": "bfloat16", "text_config": {},
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    changes=st.dictionaries(st.sampled_from(sorted(RICH)), JUNK, max_size=3),
)
def test_a_corrupted_config_is_a_model_or_one_line_never_a_traceback(
    architecture: str, changes: dict[str, Any]
) -> None:
    outcome = model_or_error({**RICH, "architectures": [architecture], **changes})
    if isinstance(outcome, str):
        assert outcome.startswith("m/config.json: ")
        assert "\n" not in outcome
    else:
        assert outcome.parameters > 0


def model_or_error(config: dict[str, Any]) -> ModelSpec | str:
    try:
        return model_from_config(config, "m", "m/config.json")
    except InputError as error:
        return str(error)


def test_every_known_architecture_says_what_it_lacks() -> None:
    """No family may fail with a bare KeyError on a config that holds too little."""
    for architecture in ARCHITECTURES:
        with pytest.raises(InputError, match="missing"):
            model_from_config({"architectures": [architecture]}, "m", "m/config.json")


@pytest.mark.skipif(not SHARED_CONFIGS.is_dir(), reason="the shared model configurations are not here")
def test_every_published_config_loads_or_is_a_clear_error() -> None:
    files = sorted(SHARED_CONFIGS.glob("*.json"))
    assert files
    for file in files:
        if file.name in REFUSED:
            with pytest.raises(InputError, match=REFUSED[file.name]):
                load_model(file)
        else:
            assert load_model(file).parameters > 1e8
