"""Expert parallelism over data-parallel attention ranks: what a stage holds, and which tokens price it."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from apexsim.cost.exchange import Way, way_of
from apexsim.cost.graph import Cut, cut_of, stage_operators
from apexsim.cost.host import Graphs
from apexsim.cost.ledger import CALIBRATED, COMMUNICATION, GEMM, JOULES, MOVED_BYTES
from apexsim.cost.memory import stage_weight_bytes
from apexsim.cost.operators import Collective, Exchange, Gemm, GroupedGemm, Operator
from apexsim.cost.pricing import Pricer, Sizes, pricer
from apexsim.cost.step import CompiledPool, compile_pool
from apexsim.cost.tables import TOKEN_DENSE
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.legality import check_exchange, check_pool
from apexsim.spec.plan import Plan, Pool

DEEPSEEK = catalog.model("DeepSeek-V3")
H100, H200 = catalog.device("h100-sxm"), catalog.device("h200-sxm")
NODES = Cluster.model_validate("4x8xh100-sxm")


def pool_of(**keys: object) -> Pool:
    return parse(Pool, keys, source="test")


def operators(
    exchange: str = "auto", engine: str = "sglang", device: str = "h100-sxm", **degrees: int
) -> list[Operator]:
    pool = pool_of(experts={"exchange": exchange}, **degrees)
    return list(stage_operators(DEEPSEEK, _cut(pool, engine, device), 0))


def _cut(pool: Pool, engine: str = "sglang", device: str = "h100-sxm") -> Cut:
    cluster = Cluster.model_validate(f"8x8x{device}")
    return cut_of(DEEPSEEK, pool, way_of(pool, engine, catalog.device(device), cluster))


def _by_tokens(found: list[Operator]) -> dict[str, set[str]]:
    tokens: dict[str, set[str]] = {}
    for op in found:
        tokens.setdefault(op.rows.tokens, set()).add(op.name)
    return tokens


def _prices(ranks: int) -> Pricer:
    return pricer(H100, "sglang", NODES.link(H100, 1), "calibrated", wide=NODES.link(H100, ranks))


def _seconds(op: Operator, tokens: int, kind: str = "mixed", ranks: int = 32) -> float:
    ledger = _prices(ranks).ledger(op, Sizes(kind, tokens, Graphs(0, False), tokens))
    return float(ledger[COMMUNICATION, tokens if tokens <= TOKEN_DENSE else -1])


def test_without_data_parallel_ranks_nothing_is_exchanged() -> None:
    found = operators(tp=8, ep=8)
    assert set(_by_tokens(found)) == {"own"}
    assert not any(isinstance(op, Exchange) or (isinstance(op, Collective) and op.wide) for op in found)


def test_an_all_gather_and_the_experts_go_by_the_tokens_of_all_ranks() -> None:
    found = operators(dp=8, ep=8)
    assert _by_tokens(found)["all"] == {"dispatch", "experts", "combine"}
    wide = [op for op in found if isinstance(op, Collective)]
    assert [(op.kind, op.ranks) for op in wide] == [("all_gather", 8), ("reduce_scatter", 8)]
    assert wide[0].token_bytes - wide[1].token_bytes == 2 * 256  # router logits go along


def test_deepep_goes_by_the_fullest_rank_and_hands_over_pairs() -> None:
    found = operators("deepep", dp=32, ep=32)
    assert _by_tokens(found)["fullest"] == {"dispatch", "combine"}
    experts = next(op for op in found if isinstance(op, GroupedGemm))
    assert experts.dispatched
    assert experts.local_experts == 8
    assert experts.intermediate_size == 2048
    sent = {op.phase: op for op in found if isinstance(op, Exchange)}
    assert sent["dispatch"].prefill.transport == "deepep_normal"
    assert sent["dispatch"].decode.transport == "deepep_low_latency"
    assert (sent["dispatch"].decode.dtype, sent["combine"].decode.dtype) == ("fp8", "bf16")
    assert sent["dispatch"].decode.nodes == 4


def test_the_devices_of_a_rank_deal_its_tokens_among_them() -> None:
    found = operators("deepep-normal", tp=2, dp=8, ep=16)
    dispatch = next(op for op in found if isinstance(op, Exchange))
    assert dispatch.rows == ("fullest", 2)
    alone = operators("deepep-normal", dp=16, ep=16)
    single = next(op for op in alone if isinstance(op, Exchange))
    assert _seconds(dispatch, 1024, ranks=16) == pytest.approx(_seconds(single, 512, ranks=16), rel=1e-12)
    shared = next(op for op in found if op.name == "shared_gate_up_proj")
    assert isinstance(shared, Gemm)
    assert (shared.n, shared.rows) == (2 * 2048, ("own", 2))
    assert [op.name for op in found if isinstance(op, Collective) and op.kind == "all_gather"] == ["mlp_gather"]


@pytest.mark.parametrize(("dp", "tp", "ep"), [(8, 1, 8), (4, 2, 8), (8, 1, 2), (8, 1, 1), (2, 4, 4)])
def test_the_experts_of_all_devices_are_those_of_the_model(dp: int, tp: int, ep: int) -> None:
    found = next(op for op in operators(dp=dp, tp=tp, ep=ep) if isinstance(op, GroupedGemm))
    whole = next(op for op in operators() if isinstance(op, GroupedGemm))
    assert found.local_experts * found.expert_parameters * tp * dp == whole.local_experts * whole.expert_parameters


def test_data_parallel_ranks_copy_the_attention_and_share_the_experts() -> None:
    together = stage_weight_bytes(DEEPSEEK, _cut(pool_of(dp=8, ep=8)), 0)
    split = stage_weight_bytes(DEEPSEEK, _cut(pool_of(tp=8, ep=8)), 0)
    experts = next(op for op in operators(dp=8, ep=8) if isinstance(op, GroupedGemm))
    held = experts.count * experts.local_experts * experts.expert_parameters
    assert together > split > held


def test_prefill_takes_normal_kernels_and_decode_low_latency_ones() -> None:
    dispatch = next(op for op in operators("deepep", dp=32, ep=32) if isinstance(op, Exchange))
    normal = next(op for op in operators("deepep-normal", dp=32, ep=32) if isinstance(op, Exchange))
    low = next(op for op in operators("deepep-low-latency", dp=32, ep=32) if isinstance(op, Exchange))
    assert _seconds(dispatch, 128) == _seconds(normal, 128)
    assert _seconds(dispatch, 128, "decode") == _seconds(low, 128, "decode")
    assert _seconds(dispatch, 128) != _seconds(dispatch, 128, "decode")


def test_measured_transports_are_calibrated() -> None:
    for op in operators("deepep", dp=32, ep=32):
        if isinstance(op, Exchange):
            for kind in ("mixed", "decode"):
                ledger = _prices(32).ledger(op, Sizes(kind, 64, Graphs(0, False), 64))
                assert ledger[CALIBRATED, 64] > 0


def test_the_network_of_the_cluster_replaces_that_of_the_profile() -> None:
    slow = Cluster.model_validate({"device": "h100-sxm", "nodes": 4, "node_link": 25e9})
    pool = pool_of(dp=32, ep=32, experts={"exchange": "deepep"})
    at_half = cut_of(DEEPSEEK, pool, way_of(pool, "sglang", H100, slow))
    as_it_is = cut_of(DEEPSEEK, pool, way_of(pool, "sglang", H100, NODES))
    times = [_seconds(next(op for op in stage_operators(DEEPSEEK, cut, 0) if isinstance(op, Exchange)), 4096)
             for cut in (at_half, as_it_is)]
    assert 1.7 < times[0] / times[1] < 2.01


def test_auto_is_what_the_engine_does() -> None:
    pool = pool_of(dp=8, ep=8)
    rack = Cluster.model_validate("18x4xgb200")
    assert way_of(pool, "vllm", H100, NODES) == Way("all-gather", 1)
    assert way_of(pool, "tensorrt-llm", H100, NODES).name == "all-gather"
    assert way_of(pool, "tensorrt-llm", catalog.device("gb200"), rack) == Way("nvlink", 1)
    assert way_of(pool_of(dp=8, ep=4), "tensorrt-llm", catalog.device("gb200"), rack).name == "all-gather"
    assert way_of(pool_of(tp=8, ep=8), "vllm", H100, NODES) == Way()
    found = operators("nvlink", "tensorrt-llm", "gb200", dp=8, ep=8)
    assert {op.phase for op in found if isinstance(op, Exchange)} == {"prepare", "dispatch", "combine"}


def test_exchanges_that_cannot_be_are_refused_with_the_reason() -> None:
    def reason(exchange: str, engine: str = "sglang", cluster: str = "4x8xh100-sxm", **degrees: int) -> str:
        pool = pool_of(experts={"exchange": exchange}, **degrees)
        plan = Plan(model="DeepSeek-V3", cluster=Cluster.model_validate(cluster), pools=(pool,), engine=engine)
        return check_exchange(plan, catalog.device(cluster.split("x", 2)[-1])) or _degrees(pool)

    def _degrees(pool: Pool) -> str:
        only = pool.model_copy(update={"dp": pool.dp})
        return check_pool(DEEPSEEK, only) or ""

    assert "nothing to exchange" in reason("deepep", tp=8, ep=8)
    assert "vllm offers all-gather" in reason("deepep", "vllm", dp=8, ep=8)
    assert "no NVLinks beyond a node" in reason("nvlink", "tensorrt-llm", dp=8, ep=8)
    assert "NVIDIA" in reason("deepep", "sglang", "4x8xmi300x", dp=8, ep=8)
    assert "equally many" in reason("deepep", dp=12, ep=12)
    assert "splits them" in reason("deepep", dp=8, ep=4)
    alone = pool_of(tp=8, ep=8, experts={"overlap_shared": True})
    assert "no exchange that shared experts could run beside" in (check_pool(DEEPSEEK, alone) or "")


@pytest.mark.parametrize("degrees", [{"dp": 32, "ep": 32}, {"tp": 2, "dp": 16, "ep": 32}])
def test_an_exchange_grows_with_the_tokens(degrees: dict[str, int]) -> None:
    ranks = prod(degrees[key] for key in degrees if key != "ep")
    for exchange in ("all-gather", "deepep", "deepep-low-latency"):
        for op in operators(exchange, **degrees):
            if isinstance(op, Exchange) or (isinstance(op, Collective) and op.wide):
                ledger = _prices(ranks).ledger(op, Sizes("mixed", 4096, Graphs(0, False), 64))
                assert (np.diff(ledger[COMMUNICATION]) >= 0).all()


def compiled(**experts: object) -> CompiledPool:
    pool = pool_of(dp=8, ep=8, experts=experts)
    found = compile_pool(
        DEEPSEEK, H200, Cluster.model_validate("8xh200-sxm"), pool, engine="sglang", max_num_batched_tokens=2048,
        max_num_seqs=64,
    )
    assert isinstance(found, CompiledPool)
    return found


def test_shared_experts_hide_behind_the_exchange_but_not_longer_than_it_lasts() -> None:
    apart, beside = compiled(exchange="deepep"), compiled(exchange="deepep", overlap_shared=True)
    saved = apart.accounting.mixed - beside.accounting.mixed
    assert (apart.tables.decode_s >= beside.tables.decode_s - 1e-12).all()
    assert saved[GEMM, 1:].min() > 0
    assert (saved[GEMM] <= apart.tables.group.exchange_mixed_s + 1e-12).all()
    assert np.abs(saved[[MOVED_BYTES, JOULES]]).max() == 0  # the work is done all the same
    assert (apart.accounting.together.fullest[0] == beside.accounting.together.fullest[0]).all()


def test_notes_say_which_exchange_is_measured_and_which_is_estimated() -> None:
    def notes(device: str, exchange: str, engine: str = "sglang") -> str:
        pool = pool_of(dp=16, ep=16, experts={"exchange": exchange})
        found = compile_pool(
            DEEPSEEK, catalog.device(device), Cluster.model_validate(f"2x8x{device}"), pool, engine=engine,
            max_num_batched_tokens=1024, max_num_seqs=16,
        )
        assert isinstance(found, CompiledPool)
        return " | ".join(found.confidence.notes)

    measured, estimated = notes("h200-sxm", "deepep"), notes("b200-sxm", "deepep-low-latency", "vllm")
    assert "deepep_normal, 16 ranks on 2 nodes): fitted on measurements of this device" in measured
    assert "deepep_low_latency, 16 ranks on 2 nodes): fitted" in measured
    assert "deepep_low_latency, 16 ranks on 2 nodes): estimated from its links" in estimated
    assert "collectives between nodes" not in measured
    assert "collectives between nodes are estimated" in notes("h200-sxm", "all-gather")
    assert "the fullest of 16 expert-parallel ranks decides" in measured
