"""Layers with a constant state: bytes, pages and step times by hand from published configs."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.cost.graph import cut_of, stage_operators
from apexsim.cost.kvgroups import kept_kv
from apexsim.cost.kvpages import KvPages
from apexsim.cost.operators import Gemm, Recurrence
from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.huggingface import model_from_config
from apexsim.spec.legality import check_pool
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool, Scheduler
from tests.cost_worlds import compiled

STATES = {
    # bytes of one layer's state: convolution and recurrence, in 16 bits
    "Nemotron-H-8B": 2 * (3 * (8192 + 2 * 8 * 128) + 128 * 64 * 128),
    "Qwen3-Next-80B-A3B": 2 * (3 * (2 * 16 * 128 + 32 * 128) + 32 * 128 * 128),
    "MiniMax-Text-01": 2 * 64 * 128 * 128,
}
LINEAR = {"Nemotron-H-8B": 24, "Qwen3-Next-80B-A3B": 36, "MiniMax-Text-01": 70}


def recurrences(model: ModelSpec, pool: Pool) -> list[Recurrence]:
    cut = cut_of(model, pool)
    return [op for op in stage_operators(model, cut, 0) if isinstance(op, Recurrence)]


@pytest.mark.parametrize("name", STATES)
def test_state_bytes_by_hand(name: str) -> None:
    model = catalog.model(name)
    assert model.linear is not None
    assert model.linear.state_bytes() == STATES[name]
    assert model.state_bytes() == LINEAR[name] * STATES[name]
    ops = recurrences(model, Pool())
    assert sum(op.count * op.state_bytes for op in ops) == model.state_bytes()
    halves = recurrences(model, Pool(tp=2))
    assert sum(op.count * op.state_bytes for op in halves) == model.state_bytes() / 2


@pytest.mark.parametrize(
    ("name", "groups", "block"),
    [("Nemotron-H-8B", 6, 528), ("Qwen3-Next-80B-A3B", 3, 544), ("MiniMax-Text-01", 7, 512)],
)
def test_pages_of_attention_grow_until_a_state_fits(name: str, groups: int, block: int) -> None:
    """vLLM logs "Setting attention block size to 528 tokens" for Nemotron-H-8B, 544 for Qwen3-Next-80B-A3B."""
    model = catalog.model(name)
    pool = kept_kv(model, Pool(), cut_of(model, Pool()), "vllm", None).pool
    assert pool is not None
    assert pool.pages == KvPages(1, 0, groups, block, block, 0)
    (full,) = {group.attention.kv_elements for group in model.groups} - {0}
    assert pool.page_bytes[0] == LINEAR[name] / groups * block * full * 2
    assert block * full * 2 >= STATES[name] > (block - 16) * full * 2


def test_a_state_of_32_bits_takes_longer_pages() -> None:
    """Qwen3.5-27B: 48 heads, state in 32 bits, four KV heads of 256: vLLM 0.19 logs 784 tokens, padded by 0.13 %."""
    config = {
        "architectures": ["Qwen3NextForCausalLM"], "vocab_size": 1000, "hidden_size": 5120, "intermediate_size": 64,
        "num_hidden_layers": 64, "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 262144, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48, "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
        "mamba_ssm_dtype": "float32",
    }  # fmt: skip
    model = model_from_config(config, "m", "m/config.json")
    pool = kept_kv(model, Pool(), cut_of(model, Pool()), "vllm", None).pool
    assert pool is not None
    assert pool.pages.block_size == 784
    assert model.linear is not None
    assert 784 * 4096 / model.linear.state_bytes() - 1 == pytest.approx(0.0013, abs=1e-4)


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_projections_hold_the_weights_of_the_mixers(name: str, tp: int) -> None:
    """All ranks together: the parameters of the mixers but for vectors and convolutions, which are not GEMMs."""
    model = catalog.model(name)
    assert model.linear is not None
    cut = cut_of(model, Pool(tp=tp))
    held = sum(op.n * op.k for op in stage_operators(model, cut, 0) if isinstance(op, Gemm) and op.name == "in_proj")
    groups = sum(isinstance(group.attention, type(model.linear)) for group in model.groups)
    assert held * tp == pytest.approx(groups * model.hidden_size * model.linear.input_width, rel=1e-9)


def test_decoding_does_not_depend_on_the_context_of_linear_layers() -> None:
    """What the tables of Nemotron-H rise by is what its four layers of attention do."""
    pool = compiled("Nemotron-H-8B", seqs=64)
    rise = np.diff(pool.tables.decode_attention_s[0, 0, 64])
    alone = compiled("Nemotron-H-8B", seqs=64, max_model_len=64).tables.decode_attention_s[0, 0, 64, 0]
    assert pool.tables.decode_attention_s[0, 0, 64, 0] == alone
    assert (rise >= 0).all()
    reached = catalog.device("h100-sxm")
    read = 64 * 24 * 2 * STATES["Nemotron-H-8B"] / (reached.memory_bandwidth * reached.efficiency.memory)
    assert read < alone < 1.4 * read


def test_states_cost_by_the_sequence_and_prompts_by_the_token() -> None:
    tables = compiled("Nemotron-H-8B", seqs=256).tables
    states = tables.decode_attention_s[0, 0, :, 0]
    assert states[0] == 0
    np.testing.assert_allclose(states[200] / states[100], 2.0, rtol=0.02)
    assert (np.diff(tables.prefill_s[0, 0]) >= 0).all()
    assert tables.prefill_s[0, 0, 0] == 0


def test_capacity_in_sequences_and_tokens() -> None:
    """A sequence of 8192 tokens holds 16 pages of attention and six of states."""
    memory = compiled("Nemotron-H-8B").memory
    assert memory.pages is not None
    assert memory.pages.held(8192) == 16 + 6
    assert memory.kv_capacity_tokens == memory.kv_blocks * 8192 // 22


def test_work_of_the_states_is_booked() -> None:
    work = compiled("Nemotron-H-8B").accounting.recurrence
    state = STATES["Nemotron-H-8B"]
    assert 24 * 2 * state < work.decode_bytes < 24 * 2.3 * state
    assert work.decode_flops == 24 * 5 * 128 * 64 * 128
    assert work.prefill_flops == 24 * 128 * (2 * 128 * (128 + 64) + 4 * 128 * 64)
    assert compiled("Llama-3.1-8B").accounting.recurrence.decode_bytes == 0


def test_a_prefix_cache_with_states_is_refused() -> None:
    reason = check_pool(catalog.model("Nemotron-H-8B"), Pool(scheduler=Scheduler(prefix_caching=True)))
    assert reason is not None
    assert "constant state" in reason


def test_a_pattern_that_makes_no_sense_is_an_error() -> None:
    config = {
        "architectures": ["NemotronHForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "mamba_num_heads": 8,
        "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "hybrid_override_pattern": "M-M*",
    }  # fmt: skip
    model = model_from_config(config, "m", "m/config.json")
    assert [(group.count, group.mlp is None) for group in model.groups] == [(1, False), (1, True), (1, True)]
    with pytest.raises(InputError, match="must name each of 4 layers"):
        model_from_config({**config, "hybrid_override_pattern": "M-X*"}, "m", "m/config.json")
    with pytest.raises(InputError, match="behind another one"):
        model_from_config({**config, "hybrid_override_pattern": "M--*"}, "m", "m/config.json")
    with pytest.raises(InputError, match="beside layers of full attention"):
        model_from_config({**config, "hybrid_override_pattern": "M-M-"}, "m", "m/config.json")
