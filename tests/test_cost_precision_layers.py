"""Precision by layer: memory and step times of layers that differ, and of rules that say nothing new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.graph import cut_of, layers_of, stage_operators
from apexsim.cost.memory import stage_kv_token_bytes, stage_weight_bytes
from apexsim.cost.operators import AttentionOp, Gemm
from apexsim.spec import catalog
from apexsim.spec.formats import weight_bytes
from apexsim.spec.plan import Pool
from tests.cost_worlds import compiled, same_bytes

MODEL = "Llama-3.1-8B"
TIMES = ("mixed_s", "decode_s", "decode_attention_s", "prefill_s", "head_s")


def pool(*rules: dict[str, Any], **more: Any) -> Pool:
    return Pool.model_validate({**more, "precision": list(rules)})


def test_weights_by_hand() -> None:
    """Two of 32 layers and the LM head in bf16, the rest in w4a16."""
    model = catalog.model(MODEL)
    cut = cut_of(model, pool({"layers": "0,31", "weights": "bf16"}, weights="w4a16"))
    uniform = cut_of(model, Pool(weights="w4a16"))
    layer = model.layer_parameters(model.groups[0])
    more = 2 * (layer.attention + layer.mlp) * (2 - weight_bytes("w4a16"))
    assert stage_weight_bytes(model, cut, 0) - stage_weight_bytes(model, uniform, 0) == pytest.approx(more, rel=1e-12)


def test_one_part_of_one_layer_is_one_operator_of_its_own() -> None:
    model = catalog.model(MODEL)
    operators = stage_operators(model, cut_of(model, pool({"layers": "5", "part": "attention", "weights": "fp8"})), 0)
    counts = {(op.name, op.weights): op.count for op in operators if isinstance(op, Gemm)}
    assert counts["qkv_proj", "fp8"] == counts["o_proj", "fp8"] == 1
    assert counts["qkv_proj", "bf16"] == 31
    assert sum(op.count for op in operators if isinstance(op, Gemm) and op.name == "down_proj") == 32


def test_the_head_has_a_rule_of_its_own() -> None:
    model = catalog.model(MODEL)
    cut = cut_of(model, pool({"part": "lm_head", "weights": "fp8"}, {"part": "all", "weights": "w4a16"}))
    assert (cut.lm_head, cut.router, len(cut.rules)) == ("fp8", "bf16", 1)
    plain, quick = (compiled(MODEL, tokens=2048, seqs=64, precision=rules).tables
                    for rules in ((), ({"part": "lm_head", "weights": "fp8"},)))  # fmt: skip
    assert quick.head_s[1] < 0.75 * plain.head_s[1]
    assert np.array_equal(quick.decode_s, plain.decode_s)


@pytest.mark.parametrize("name", [MODEL, "Llama-3.2-1B"])
def test_a_head_of_few_bits_takes_fewer_bytes_and_parts_from_a_tied_embedding(name: str) -> None:
    model = catalog.model(name)
    sizes = [
        stage_weight_bytes(model, cut_of(model, pool(*rules)), 0)
        for rules in ((), ({"part": "lm_head", "weights": "fp8"},))
    ]
    table = model.vocab_size * model.hidden_size
    assert sizes[1] - sizes[0] == (table if model.tied_embeddings else -table)


def test_stages_get_their_own_layers() -> None:
    model = catalog.model(MODEL)
    cut = cut_of(model, pool({"layers": "0-3", "weights": "fp8"}, pp=4))
    words = [{own.mlp: count for _, own, count in layers_of(model, cut, stage)} for stage in range(4)]
    assert words == [{"fp8": 4, "bf16": 4}, {"bf16": 8}, {"bf16": 8}, {"bf16": 8}]


def test_experts_of_some_layers() -> None:
    """DeepSeek-V3's fp8-block checkpoint with the experts of its last ten layers in w4a16."""
    model = catalog.model("deepseek-ai/DeepSeek-V3")
    cut = cut_of(model, pool({"layers": "51-60", "part": "experts", "weights": "w4a16"}, tp=8))
    own = {op.weights: op.count for op in stage_operators(model, cut, 0) if op.name == "experts"}
    assert own == {model.checkpoint_dtype: 48, "w4a16": 10}


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, 31), length=st.integers(1, 32), low=st.sampled_from(("fp8", "int8", "w4a16", "w4a8")),
    kv=st.sampled_from((None, "fp8", "int4")), part=st.sampled_from(("all", "mlp", "attention")),
)  # fmt: skip
def test_38_a_mixed_plan_lies_between_its_uniform_ends(
    first: int, length: int, low: str, kv: str | None, part: str
) -> None:
    kv = kv if part != "mlp" else None
    layers = f"{first}-{min(first + length - 1, 31)}"
    rule = {"layers": layers, "part": part, "weights": low} | ({"kv_cache": kv} if kv else {})
    ends = [compiled(MODEL, tokens=1024, seqs=8, precision=r) for r in ((), ({**rule, "layers": "all"},))]
    mixed = compiled(MODEL, tokens=1024, seqs=8, precision=(rule,))
    for name in TIMES:
        one, other, between = (getattr(each.tables, name) for each in (*ends, mixed))
        assert (between >= np.minimum(one, other) * (1 - 1e-9)).all(), name
        assert (between <= np.maximum(one, other) * (1 + 1e-9)).all(), name
    weights = sorted(each.memory.weights_bytes_per_device for each in ends)
    assert weights[0] * (1 - 1e-12) <= mixed.memory.weights_bytes_per_device <= weights[1] * (1 + 1e-12)
    capacity = sorted(each.memory.kv_capacity_tokens for each in ends)
    assert capacity[0] <= mixed.memory.kv_capacity_tokens <= capacity[1]


def test_39_rules_that_say_what_holds_anyway_change_no_byte() -> None:
    rules = (
        {"layers": "0-7", "weights": "fp8"}, {"layers": "9", "kv_cache": "fp8"}, {"part": "lm_head", "weights": "bf16"},
    )  # fmt: skip
    plain, said = (
        compiled(MODEL, tokens=2048, seqs=32, weights="fp8", kv_cache="fp8", precision=each) for each in ((), rules)
    )
    assert same_bytes(plain.tables, said.tables)
    assert plain.memory == said.memory


def test_the_cache_of_some_layers() -> None:
    model = catalog.model(MODEL)
    cut = cut_of(model, pool({"layers": "0-15", "kv_cache": "int8"}))
    kinds = {op.kv_dtype: op.count for op in stage_operators(model, cut, 0) if isinstance(op, AttentionOp)}
    assert kinds == {"int8": 16, "bf16": 16}
    half = 0.5 * (model.kv_bytes_per_token("int8") + model.kv_bytes_per_token("bf16"))
    assert stage_kv_token_bytes(model, cut, 0) == pytest.approx(half)
