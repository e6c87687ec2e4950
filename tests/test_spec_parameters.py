"""Parameter counts against published ones: the test that a config.json is read as its authors meant it.

Sources, by the word in the table:
* hub: total of the safetensors index that the model's Hugging Face page shows;
* card: the model card's own figure;
* report: the technical report's own figure.
"""

from __future__ import annotations

import pytest

from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.huggingface import model_from_config

PUBLISHED = [
    # model, parameters, source
    ("Llama-2-7B", 6_738_415_616, "hub: meta-llama/Llama-2-7b-hf"),
    ("Llama-2-13B", 13_015_864_320, "hub: meta-llama/Llama-2-13b-hf"),
    ("Llama-2-70B", 68_976_648_192, "hub: meta-llama/Llama-2-70b-hf"),
    ("Llama-30B", 32_528_943_616, "hub: huggyllama/llama-30b"),
    ("Llama-3.1-8B", 8_030_261_248, "hub: meta-llama/Llama-3.1-8B"),
    ("Llama-3.1-70B", 70_553_706_496, "hub: meta-llama/Llama-3.1-70B"),
    ("Llama-3.1-405B", 405_853_388_800, "hub: meta-llama/Llama-3.1-405B"),
    ("Llama-3-8B", 8_030_261_248, "hub: meta-llama/Meta-Llama-3-8B"),
    ("Llama-3-70B", 70_553_706_496, "hub: meta-llama/Meta-Llama-3-70B"),
    ("Llama-3.2-1B", 1_235_814_400, "hub: meta-llama/Llama-3.2-1B"),
    ("Llama-3.2-3B", 3_212_749_824, "hub: meta-llama/Llama-3.2-3B"),
    ("Llama-3.3-70B", 70_553_706_496, "hub: meta-llama/Llama-3.3-70B-Instruct"),
    ("Llama-4-Maverick-17B-128E", 400e9, "card: 400B in total"),
    ("OPT-13B", 12.85e9, "report: OPT (arXiv 2205.01068), by the shapes of table 1"),
    ("OPT-66B", 66e9, "report: OPT, the model's name; 65,719,701,504 by the shapes of table 1"),
    ("OPT-175B", 175e9, "report: OPT, the model's name; 174,604,468,224 by the shapes of table 1"),
    ("CodeLlama-34B", 33_743_970_304, "hub: codellama/CodeLlama-34b-hf"),
    ("Yi-34B", 34_388_917_248, "hub: 01-ai/Yi-34B"),
    ("Mistral-7B-v0.1", 7_241_732_096, "hub: mistralai/Mistral-7B-v0.1"),
    ("Mistral-7B", 7_248_023_552, "hub: mistralai/Mistral-7B-v0.3"),
    ("Mistral-Nemo", 12_247_782_400, "hub: mistralai/Mistral-Nemo-Instruct-2407"),
    ("Mistral-Small-24B", 23_572_403_200, "hub: mistralai/Mistral-Small-24B-Instruct-2501"),
    ("Mistral-Large-123B", 122_610_069_504, "hub: mistralai/Mistral-Large-Instruct-2407"),
    ("Mixtral-8x7B", 46_702_792_704, "hub: mistralai/Mixtral-8x7B-v0.1"),
    ("Mixtral-8x22B", 140.6e9, "hub: mistralai/Mixtral-8x22B-v0.1, 141B with 39B active on the card"),
    ("Qwen2.5-0.5B", 494_032_768, "hub: Qwen/Qwen2.5-0.5B-Instruct"),
    ("Qwen2.5-1.5B", 1_543_714_304, "hub: Qwen/Qwen2.5-1.5B-Instruct"),
    ("Qwen2.5-3B", 3_085_938_688, "hub: Qwen/Qwen2.5-3B-Instruct"),
    ("Qwen2.5-14B", 14_770_033_664, "hub: Qwen/Qwen2.5-14B-Instruct"),
    ("Qwen2.5-32B", 32_763_876_352, "hub: Qwen/Qwen2.5-32B-Instruct"),
    ("Qwen2.5-7B", 7_615_616_512, "hub: Qwen/Qwen2.5-7B-Instruct"),
    ("Qwen1.5-72B", 72_287_920_128, "hub: Qwen/Qwen1.5-72B"),
    ("Qwen2.5-72B", 72_706_203_648, "hub: Qwen/Qwen2.5-72B-Instruct"),
    ("Qwen3-4B", 4_022_468_096, "hub: Qwen/Qwen3-4B"),
    ("Qwen3-8B", 8_190_735_360, "hub: Qwen/Qwen3-8B"),
    ("Qwen3-14B", 14_768_307_200, "hub: Qwen/Qwen3-14B"),
    ("Qwen3-32B", 32_762_123_264, "hub: Qwen/Qwen3-32B"),
    ("Qwen3-30B-A3B", 30_532_122_624, "hub: Qwen/Qwen3-30B-A3B"),
    ("Qwen3-235B-A22B", 235_093_634_560, "hub: Qwen/Qwen3-235B-A22B"),
    ("Gemma-2B", 2_506_172_416, "hub: google/gemma-2b"),
    ("Gemma-2-9B", 9_241_705_984, "hub: google/gemma-2-9b"),
    ("Gemma-2-27B", 27_227_128_320, "hub: google/gemma-2-27b"),
    ("Gemma-3-4B", 0.675e9 + 3.209e9, "report: Gemma 3, table 1, embedding + others, without the vision encoder"),
    ("Gemma-3-12B", 1.012e9 + 10.759e9, "report: Gemma 3, table 1"),
    ("Gemma-3-27B", 1.416e9 + 25.600e9, "report: Gemma 3, table 1"),
    ("gpt-oss-20b", 20.91e9, "card: gpt-oss, table 1"),
    ("gpt-oss-120b", 116.83e9, "card: gpt-oss, table 1"),
    ("Nemotron-H-8B", 8.10e9, "hub: nvidia/Nemotron-H-8B-Base-8K"),
    ("Qwen3-Next-80B-A3B", 81.3e9 - 1.64e9, "hub: Qwen/Qwen3-Next-80B-A3B-Instruct, less its one MTP layer"),
    ("MiniMax-Text-01", 456e9, "report: MiniMax-01, arXiv 2501.08313"),
    ("DeepSeek-V2-Lite", 15.7e9, "report: DeepSeek-V2, appendix B"),
    ("DeepSeek-V2", 235_741_434_880, "hub: deepseek-ai/DeepSeek-V2"),
    ("DeepSeek-V3", 671e9, "report: DeepSeek-V3, the main model without its MTP module"),
]

ACTIVE = [
    ("Mixtral-8x7B", 12.9e9, "announcement: 12.9B parameters per token"),
    ("Mixtral-8x22B", 39e9, "card: 39B active"),
    ("Qwen3-30B-A3B", 3.3e9, "card: 3.3B activated"),
    ("Qwen3-235B-A22B", 22e9, "card: 22B activated"),
    ("Llama-4-Maverick-17B-128E", 17e9, "card: 17B activated"),
    ("DeepSeek-V3", 37e9, "report: 37B activated"),
    ("Kimi-K2-Thinking", 32.6e9, "report: Kimi K2, 32.6B activated"),
    ("Kimi-K2", 32.6e9, "report: Kimi K2, 32.6B activated"),
]

# Configurations of families that model_specs/ does not ship, with the keys that their config.json holds.
FAMILIES = {
    "Gemma-7B": (
        {"architectures": ["GemmaForCausalLM"], "hidden_size": 3072, "intermediate_size": 24576, "head_dim": 256,
         "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 28, "vocab_size": 256000,
         "max_position_embeddings": 8192},
        8_537_680_896, "hub: google/gemma-7b"),
    "Gemma-2-2B": (
        {"architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
         "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 26, "vocab_size": 256000,
         "max_position_embeddings": 8192, "sliding_window": 4096},
        2_614_341_888, "hub: google/gemma-2-2b"),
    "Gemma-3-1B": (
        {"architectures": ["Gemma3ForCausalLM"], "hidden_size": 1152, "intermediate_size": 6912, "head_dim": 256,
         "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 26, "vocab_size": 262144,
         "max_position_embeddings": 32768, "sliding_window": 512, "sliding_window_pattern": 6},
        999_885_952, "hub: google/gemma-3-1b-it"),
    "Phi-3-mini": (
        {"architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
         "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32, "vocab_size": 32064,
         "max_position_embeddings": 4096},
        3_821_079_552, "hub: microsoft/Phi-3-mini-4k-instruct"),
    "Qwen2-57B-A14B": (
        {"architectures": ["Qwen2MoeForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
         "moe_intermediate_size": 2560, "shared_expert_intermediate_size": 20480, "num_experts": 64,
         "num_experts_per_tok": 8, "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 28,
         "vocab_size": 151936, "max_position_embeddings": 131072},
        57.41e9, "card: Qwen/Qwen2-57B-A14B"),
    "GLM-4.5-Air": (
        {"architectures": ["Glm4MoeForCausalLM"], "hidden_size": 4096, "intermediate_size": 10944,
         "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8,
         "first_k_dense_replace": 1, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
         "num_hidden_layers": 46, "attention_bias": True, "use_qk_norm": False, "vocab_size": 151552,
         "max_position_embeddings": 131072, "num_nextn_predict_layers": 1},
        106e9, "report: GLM-4.5, table 1, 106B without the MTP layer"),
    "Nemotron-3-Nano-30B-A3B": (
        {"architectures": ["NemotronHForCausalLM"], "hidden_size": 2688, "intermediate_size": 1856,
         "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_hidden_layers": 52,
         "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64,
         "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "n_routed_experts": 128,
         "num_experts_per_tok": 6, "n_shared_experts": 1, "moe_intermediate_size": 1856,
         "moe_shared_expert_intermediate_size": 3712, "vocab_size": 131072, "max_position_embeddings": 262144},
        31.6e9, "card: nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "published", "source"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_parameters_match_the_published_ones_within_one_percent(name: str, published: float, source: str) -> None:
    assert catalog.model(name).parameters == pytest.approx(published, rel=0.01), source


@pytest.mark.parametrize(("name", "published", "source"), ACTIVE, ids=[row[0] for row in ACTIVE])
def test_active_parameters_match_the_published_ones(name: str, published: float, source: str) -> None:
    """To 2 %: the published ones are rounded to two digits, and count embeddings or not."""
    assert catalog.model(name).active_parameters == pytest.approx(published, rel=0.02), source


@pytest.mark.parametrize(("name", "published"), [("gpt-oss-20b", 3.61e9), ("gpt-oss-120b", 5.13e9)])
def test_active_parameters_of_gpt_oss_match_the_card_which_leaves_out_the_embedding(
    name: str, published: float
) -> None:
    model = catalog.model(name)
    assert model.active_parameters - model.vocab_size * model.hidden_size == pytest.approx(published, rel=0.01)


def test_active_parameters_of_minimax_leave_out_the_embeddings() -> None:
    """45.9B active (arXiv 2501.08313)."""
    model = catalog.model("MiniMax-Text-01")
    assert model.active_parameters - model.embedding_parameters == pytest.approx(45.9e9, rel=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_configs_that_we_do_not_ship_are_read_as_well(name: str) -> None:
    config, published, source = FAMILIES[name]
    model = model_from_config(config, name, f"{name}/config.json")
    assert model.parameters == pytest.approx(published, rel=0.01), source


def test_hub_totals_are_met_to_the_last_parameter() -> None:
    """A safetensors index counts every tensor: where one is published, 1 % would hide a forgotten bias."""
    exact = [row for row in PUBLISHED if isinstance(row[1], int)]
    assert len(exact) >= 15
    assert {name: catalog.model(name).parameters for name, _, _ in exact} == {row[0]: row[1] for row in exact}


@pytest.mark.parametrize(
    ("name", "hidden", "layers"), [("OPT-13B", 5120, 40), ("OPT-66B", 9216, 64), ("OPT-175B", 12288, 96)]
)
def test_opt_has_learned_positions_and_biases_everywhere(name: str, hidden: int, layers: int) -> None:
    """12 h² + 13 h a layer: four projections and a block of 4 h, their biases, two norms of weight and bias."""
    model = catalog.model(name)
    tables = (50272 + 2048 + 2) * hidden
    assert model.parameters == layers * (12 * hidden**2 + 13 * hidden) + tables + 2 * hidden
    assert model.kv_bytes_per_token("fp16") == 2 * 2 * layers * hidden


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_layer_norm_before": False}, "do_layer_norm_before"),
        ({"word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ({"ffn_dim": None}, "ffn_dim: missing"),
    ],
)
def test_opt_sizes_of_another_kind_are_refused(changes: dict[str, object], words: str) -> None:
    config = {
        "architectures": ["OPTForCausalLM"], "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24,
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        model_from_config({**config, **changes}, "opt", "config.json")
