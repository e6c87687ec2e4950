"""Operators have the shapes that a rank really computes, and add up to the published models."""

from __future__ import annotations

import networkx as nx
import pytest

from apexsim.cost.graph import (
    cut_of,
    group_counts,
    head_operators,
    layers_of_stage,
    padded_vocab,
    stage_graph,
    stage_operators,
)
from apexsim.cost.memory import stage_kv_token_bytes, stage_weight_bytes
from apexsim.cost.operators import AttentionOp, Collective, Gemm, GroupedGemm
from apexsim.spec import catalog
from apexsim.spec.plan import Pool


def gemms(model: str, **pool: object) -> dict[str, tuple[int, int, int]]:
    """name -> (n, k, count) of the GEMMs of the first stage."""
    spec = catalog.model(model)
    operators = stage_operators(spec, cut_of(spec, Pool(**pool)), 0)
    return {op.name: (op.n, op.k, op.count) for op in operators if isinstance(op, Gemm)}


def test_llama_70b_at_tp8_by_hand() -> None:
    """Hidden 8192, 64 heads and 8 KV heads of 128, intermediate 28672, 80 layers: a rank has 8 heads and 1 KV head."""
    assert gemms("Llama-3.1-70B", tp=8) == {
        "qkv_proj": ((8 + 1 + 1) * 128, 8192, 80),
        "o_proj": (8192, 8 * 128, 80),
        "gate_up_proj": (2 * 3584, 8192, 80),
        "down_proj": (8192, 3584, 80),
    }
    spec = catalog.model("Llama-3.1-70B")
    cut = cut_of(spec, Pool(tp=8))
    head, gathered, _ = head_operators(spec, cut, 12.0)
    assert isinstance(head, Gemm)
    assert (head.n, head.k) == (128256 // 8, 8192)
    assert isinstance(gathered, Collective)
    sums = [op for op in stage_operators(spec, cut, 0) if isinstance(op, Collective)]
    assert sum(op.count for op in sums) == 2 * 80 + 1  # two a layer and one for the split embedding
    assert {op.token_bytes for op in sums} == {8192 * 2}


def test_kv_heads_are_copied_where_there_are_fewer_than_ranks() -> None:
    spec = catalog.model("Qwen2.5-7B")  # 28 heads, 4 KV heads of 128
    (op,) = [op for op in stage_operators(spec, cut_of(spec, Pool(tp=7)), 0) if isinstance(op, AttentionOp)]
    assert (op.heads, op.kv_heads) == (4, 1)


def test_kv_bytes_of_a_token() -> None:
    """70B: 80 layers x 2 x 8 heads x 128 x 2 bytes = 327,680, an eighth of it on each of eight ranks, half in fp8."""
    spec = catalog.model("Llama-3.1-70B")
    assert stage_kv_token_bytes(spec, cut_of(spec, Pool()), 0) == 327_680
    assert stage_kv_token_bytes(spec, cut_of(spec, Pool(tp=8)), 0) == 327_680 / 8
    assert stage_kv_token_bytes(spec, cut_of(spec, Pool(tp=8, kv_cache="fp8")), 0) == 327_680 / 16


def test_latent_attention_keeps_one_latent_for_all_heads() -> None:
    """DeepSeek-V3: 61 layers x (512 + 64) x 2 bytes a token, on every rank."""
    spec = catalog.model("DeepSeek-V3")
    for tp in (1, 8):
        cut = cut_of(spec, Pool(tp=tp, weights="bf16"))
        assert stage_kv_token_bytes(spec, cut, 0) == 61 * 576 * 2


@pytest.mark.parametrize("name", catalog.model_names())
def test_weights_of_one_rank_are_the_parameters_of_the_model(name: str) -> None:
    """What operators leave out (biases, head norms, sinks, gates) is under 0.1 %; the vocabulary's padding comes on."""
    spec = catalog.model(name)
    weights = stage_weight_bytes(spec, cut_of(spec, Pool(weights="bf16")), 0)
    if spec.quantization is None:
        assert weights == pytest.approx(2 * spec.parameters, rel=2e-3)
    padding = padded_vocab(spec.vocab_size, 1) - spec.vocab_size
    assert padding < 64


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (8, 1), (1, 4), (2, 3)])
def test_ranks_and_stages_hold_the_whole_model_together(tp: int, pp: int) -> None:
    spec = catalog.model("Llama-3.1-70B")
    cut = cut_of(spec, Pool(tp=tp, pp=pp))
    total = tp * sum(stage_weight_bytes(spec, cut, stage) for stage in range(pp))
    norms = (tp - 1) * 80 * 2 * 8192 * 2  # every rank has them
    assert total - norms == pytest.approx(2 * spec.parameters, rel=1e-3)


def test_uneven_stages_as_vllm_cuts_them() -> None:
    """The remainder goes to the stages before the last, which has the LM head."""
    assert [len(layers_of_stage(80, 3, stage)) for stage in range(3)] == [27, 27, 26]
    assert [len(layers_of_stage(10, 4, stage)) for stage in range(4)] == [2, 3, 3, 2]
    for layers, pp in ((80, 3), (61, 8), (7, 7)):
        covered = [layer for stage in range(pp) for layer in layers_of_stage(layers, pp, stage)]
        assert covered == list(range(layers))


def test_stages_share_out_every_kind_of_layer() -> None:
    spec = catalog.model("Gemma-3-27B")
    whole = tuple(group.count for group in spec.groups)
    counts = [group_counts(spec, 4, stage) for stage in range(4)]
    assert tuple(sum(column) for column in zip(*counts, strict=True)) == whole
    assert all(all(count > 0 for count in stage) for stage in counts)  # windowed layers lie among the full ones


def test_experts_are_split_over_the_ranks_or_dealt_to_them() -> None:
    spec = catalog.model("Mixtral-8x7B")
    split = next(op for op in stage_operators(spec, cut_of(spec, Pool(tp=4)), 0) if isinstance(op, GroupedGemm))
    dealt = next(op for op in stage_operators(spec, cut_of(spec, Pool(tp=4, ep=4)), 0) if isinstance(op, GroupedGemm))
    assert (split.local_experts, split.intermediate_size) == (8, 14336 // 4)
    assert (dealt.local_experts, dealt.intermediate_size) == (2, 14336)
    assert split.local_experts * split.expert_parameters == dealt.local_experts * dealt.expert_parameters


def test_parts_that_a_checkpoint_leaves_alone_keep_their_dtype() -> None:
    spec = catalog.model("gpt-oss-120b")
    cut = cut_of(spec, Pool())
    assert (cut.experts, cut.attention, cut.lm_head) == ("mxfp4", "bf16", "bf16")
    assert cut_of(spec, Pool(weights="bf16")).experts == "bf16"
    assert cut_of(catalog.model("Llama-3.1-70B"), Pool(weights="fp8")).mlp == "fp8"


def test_the_graph_is_a_chain_but_for_shared_experts() -> None:
    dense = catalog.model("Llama-3.1-8B")
    graph = stage_graph(dense, cut_of(dense, Pool()), 0)
    assert nx.dag_longest_path_length(graph) == graph.number_of_nodes() - 1
    shared = catalog.model("DeepSeek-V3")
    graph = stage_graph(shared, cut_of(shared, Pool(weights="fp8-block")), 0)
    assert nx.is_directed_acyclic_graph(graph)
    assert max(degree for _, degree in graph.out_degree()) == 2  # routed and shared experts start from one norm
