"""Tensor and pipeline parallelism in the tables: uneven heads, unequal stages, and what lies between nodes."""

from __future__ import annotations

import pytest

from apexsim.cost.graph import cut_of, stage_operators
from apexsim.cost.memory import DoesNotFit, stage_kv_token_bytes, stage_weight_bytes
from apexsim.cost.operators import Gemm
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Pool
from apexsim.spec.tensor_parallel import TP_RULES, fullest_rank
from tests.cost_worlds import attempt, compiled, same_bytes


@pytest.mark.parametrize(
    ("model", "tp", "heads", "kv_heads"),
    [
        ("Llama-3.1-70B", 8, 8, 1),
        ("Llama-3.1-70B", 16, 4, 1),  # every KV head on two ranks
        ("Llama-3.1-70B", 3, 24, 3),  # 8 KV heads with 8 queries each: 3, 3 and 2 of them
        ("Llama-3.1-70B", 5, 16, 2),
        ("Qwen2.5-7B", 8, 4, 1),  # 4 KV heads with 7 queries each: on two ranks, 4 and 3 queries
        ("Qwen2.5-7B", 6, 7, 1),  # some KV heads on two ranks, some on one
        ("DeepSeek-V3", 6, 22, 22),  # 128 heads over one latent
    ],
)
def test_heads_of_the_fullest_rank(model: str, tp: int, heads: int, kv_heads: int) -> None:
    assert fullest_rank(catalog.model(model).groups[0].attention, tp) == (heads, kv_heads)


@pytest.mark.parametrize("tp", range(1, 17))
def test_all_ranks_together_hold_every_head(tp: int) -> None:
    """And where tp divides the heads, no rank holds more than its share of queries."""
    for name in ("Llama-3.1-70B", "Qwen2.5-7B", "Gemma-3-27B", "DeepSeek-V3"):
        attention = catalog.model(name).groups[0].attention
        heads, kv_heads = fullest_rank(attention, tp)
        assert tp * heads >= attention.heads
        assert tp * kv_heads >= attention.kv_heads
        if attention.heads % tp == 0:
            assert tp * heads == attention.heads


@pytest.mark.parametrize("engine", sorted(set(TP_RULES) - {"aphrodite"}))
def test_engines_that_split_evenly_refuse_and_say_whose_rule_it_is(engine: str) -> None:
    reason = check_pool(catalog.model("Qwen2.5-7B"), Pool(tp=8), engine)
    assert reason is not None
    assert reason.startswith(f"tp=8 does not divide the 28 attention heads of Qwen2.5-7B ({engine} gives every rank")


def test_an_uneven_engine_takes_any_degree_up_to_the_heads() -> None:
    model = catalog.model("Qwen2.5-7B")
    assert check_pool(model, Pool(tp=8), "aphrodite") is None
    assert check_pool(model, Pool(tp=3), "aphrodite") is None
    assert str(check_pool(model, Pool(tp=32), "aphrodite")).startswith("tp=32 exceeds the 28 attention heads")
    # blocks of weights that share a scale are not cut all the same
    reason = check_pool(catalog.model("Qwen2.5-72B"), Pool(tp=5, weights="w4a16"), "aphrodite")
    assert str(reason).startswith("tp=5 splits the feed-forward width 29568 into shares that cut the 128-wide blocks")


def test_kv_heads_are_rounded_up_by_tensorrt_llm_only_of_the_even_ones() -> None:
    model = catalog.model("Llama-3.1-8B")
    (group,) = model.groups
    odd = group.attention.model_copy(update={"heads": 36, "kv_heads": 6})
    model = model.model_copy(update={"groups": (group.model_copy(update={"attention": odd}),)})
    assert check_pool(model, Pool(tp=4), "tensorrt-llm") is None
    assert fullest_rank(odd, 4) == (9, 2)
    assert str(check_pool(model, Pool(tp=4), "sglang")).startswith("tp=4 neither divides nor is a multiple of the 6")


def test_the_fullest_rank_decides_time_and_memory() -> None:
    """Three devices are as slow, and hold as little KV a device, as if all ranks were as full as the fullest."""
    three = compiled("Llama-3.1-8B", tp=3, engine="aphrodite")
    two, four = (compiled("Llama-3.1-8B", tp=tp, engine="aphrodite") for tp in (2, 4))
    by_tp = [pool.tables.decode_s[0, 64] for pool in (two, three, four)]
    assert by_tp == sorted(by_tp, reverse=True)
    kv = [pool.memory.kv_bytes_per_token_per_device for pool in (two, three, four)]
    assert kv[1] == pytest.approx(kv[0] * 3 / 4)  # 3 of 8 KV heads
    model = catalog.model("Llama-3.1-8B")
    operators = stage_operators(model, cut_of(model, Pool(tp=3)), 0)
    (down,) = (op for op in operators if isinstance(op, Gemm) and op.name == "down_proj")
    assert down.k == -(-14336 // 3)


def test_an_even_engine_and_an_uneven_one_agree_where_heads_divide() -> None:
    model = catalog.model("Llama-3.1-70B")
    tables = [compiled("Llama-3.1-70B", tp=4, engine=engine).tables for engine in ("vllm", "aphrodite")]
    assert same_bytes(*tables)
    assert fullest_rank(model.groups[0].attention, 4) == (16, 2)


# --- stages ---------------------------------------------------------------------------------------------------


def test_the_ends_of_a_pipeline_hold_embedding_and_head() -> None:
    """Each is a table of the vocabulary; the first stage looks up and, with several ranks, sums; the last samples."""
    model = catalog.model("Llama-3.1-70B")
    cut = cut_of(model, Pool(tp=2, pp=4))
    names = [{op.name for op in stage_operators(model, cut, stage)} for stage in range(4)]
    assert [name for name in names if "embedding" in name or "embedding_sum" in name] == names[:1]
    weights = [stage_weight_bytes(model, cut, stage) for stage in range(4)]
    table = 128256 / 2 * model.hidden_size * 2
    assert weights[0] - weights[1] == weights[3] - weights[2] == pytest.approx(table)
    tables = compiled(tp=2, pp=4).tables
    assert tables.mixed_s[0, 512] > tables.mixed_s[1, 512] == tables.mixed_s[2, 512] == tables.mixed_s[3, 512]
    assert tables.head_s[64] > 0  # the engine adds it on the last stage only


def test_layers_go_where_the_plan_puts_them() -> None:
    model = catalog.model("Llama-3.1-70B")
    stated = Pool(tp=2, pp=4, pp_layers=(21, 20, 20, 19))
    cut = cut_of(model, stated)
    kv = [stage_kv_token_bytes(model, cut, stage) for stage in range(4)]
    assert [each / (kv[1] / 20) for each in kv] == pytest.approx([21, 20, 20, 19])
    tables = compiled(tp=2, pp=4, pp_layers=(21, 20, 20, 19)).tables
    assert tables.decode_s[0, 8] > tables.decode_s[1, 8] > tables.decode_s[3, 8]


def test_the_engines_own_split_stated_changes_no_byte() -> None:
    one, other = compiled(tp=2, pp=3), compiled(tp=2, pp=3, pp_layers=(27, 27, 26))
    assert same_bytes(one.tables, other.tables)
    assert one.memory == other.memory


def test_the_fullest_stage_decides_the_blocks() -> None:
    """A layer off the stage that embeds or samples leaves it room for KV; too many on one stage leave none."""
    blocks = {
        layers: compiled(tp=1, pp=4, pp_layers=layers, tokens=2048).memory.kv_blocks
        for layers in ((20, 20, 20, 20), (19, 21, 21, 19), (10, 30, 20, 20))
    }
    assert blocks[20, 20, 20, 20] > blocks[19, 21, 21, 19] > blocks[10, 30, 20, 20]
    assert isinstance(attempt(tp=1, pp=4, pp_layers=(1, 50, 28, 1), tokens=2048), DoesNotFit)


@pytest.mark.parametrize("split", [(40, 40), (20, 20, 20, 21), (80,)])
def test_a_split_that_is_none_is_refused(split: tuple[int, ...]) -> None:
    reason = check_pool(catalog.model("Llama-3.1-70B"), Pool(tp=2, pp=4, pp_layers=split))
    assert str(reason).startswith(f"pp_layers={list(split)} has {len(split)} stages and {sum(split)} layers, not")


# --- nodes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tp", "pp", "links"),
    [
        (4, 2, ["scaleup"]),
        (4, 4, ["scaleup", "nic", "scaleup"]),
        (8, 2, ["nic"]),
        (2, 6, ["scaleup", "scaleup", "scaleup", "nic", "scaleup"]),
        (3, 4, ["scaleup", "nic", "nic"]),  # the third stage lies in both nodes
    ],
)
def test_only_stages_in_different_nodes_talk_over_the_network(tp: int, pp: int, links: list[str]) -> None:
    cluster, profile = Cluster.model_validate("2x8xh100-sxm"), catalog.device("h100-sxm")
    found = [cluster.stage_link(profile, tp, pp, stage).link_class for stage in range(pp - 1)]
    assert found == links


def test_a_transfer_within_a_node_is_priced_as_one() -> None:
    t = compiled(tp=4, pp=4, cluster="2x8xh100-sxm", tokens=2048).tables.transfer_s
    assert t[0, -1] == t[2, -1] < 0.5 * t[1, -1]


def test_ranks_of_two_nodes_are_allowed_and_pay_for_the_network() -> None:
    """Half the weights a rank, and still a slower decode iteration; two stages of eight are faster for prompts, too."""
    inside = compiled(tp=8, cluster="2x8xh100-sxm", tokens=2048)
    across = compiled(tp=16, cluster="2x8xh100-sxm", tokens=2048)
    assert across.tables.decode_s[0, 8] > inside.tables.decode_s[0, 8]
    staged = compiled(tp=8, pp=2, cluster="2x8xh100-sxm", tokens=2048)
    assert staged.tables.mixed_s[:, -1].max() + staged.tables.transfer_s[0, -1] < across.tables.mixed_s[0, -1]
    assert any("collectives between nodes are estimated" in note for note in across.confidence.notes)
