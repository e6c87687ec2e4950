"""Laws with small numbers that a reader can follow: a ring, halves of a batch, what a token and a copy are worth."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apexsim.cost.beside import exposed
from apexsim.cost.context import Ring
from apexsim.cost.exchange import Way
from apexsim.cost.host import Graphs
from apexsim.cost.kernel_model import Priced
from apexsim.cost.ledger import COMMUNICATION, GEMM, LINES, MOE, MOVED_BYTES, Ledger
from apexsim.cost.operators import AdapterOp, AttentionOp, Exchange, ExpertExchange, Gemm, Operator, Recurrence
from apexsim.cost.pricing import Pricer, Sizes
from apexsim.cost.swap import swap_law
from apexsim.cost.together import ALL, FULLEST, REST, Together
from apexsim.spec import catalog
from apexsim.spec.cluster import Link
from apexsim.spec.plan import Pool, Scheduler
from tests.cost_worlds import compiled
from tests.test_cost_accounting import counters

START_S, RATE = 1e-5, 100e9
ATTENTION = AttentionOp("attention", 8, 2, 128, 128, 0, "bf16", 3)
DEEPSEEK: dict[str, Any] = {"model": "DeepSeek-V3", "device": "h200-sxm", "weights": "fp8-block"}


def ring(ranks: int = 4) -> Ring:
    """Every collective takes 10 us and what a rank must receive at 100 GB/s."""

    def collective(kind: str, message: np.ndarray, ranks: int, link: Link) -> Priced:
        seconds = START_S + (ranks - 1) / ranks * np.asarray(message) / RATE
        return Priced(seconds, False, np.zeros(np.shape(seconds), np.bool_))

    prices: Any = SimpleNamespace(kernels=SimpleNamespace(collective=collective))
    link: Any = None
    return Ring(ranks, link, prices)


def test_a_ring_hides_what_it_sends_behind_attention_or_the_other_way_round() -> None:
    """1,000 tokens of 3 layers with 2 KV heads: 512 values of 2 bytes a token and layer, 3 of 4 from elsewhere."""
    sent_s = 3 * 1000 * 512 * 2 * 0.75 / RATE
    tokens = np.array([0.0, 1000.0])
    for own_s, past_s in ((8 * sent_s, 8e-3 * sent_s), (sent_s, 1e-3 * sent_s)):
        own, past = ring().prefill(ATTENTION, np.array([0.0, own_s]), np.array([0.0, past_s]), tokens)
        np.testing.assert_allclose(own, [0.0, max(own_s / 4, sent_s)], rtol=1e-6)
        np.testing.assert_allclose(past, [0.0, max(past_s / 4, sent_s / 1000)], rtol=1e-6)  # each cached token, again


def test_partial_outputs_are_made_one_by_a_gather_and_a_sum() -> None:
    """Of 8 heads: a log-sum-exp of 4 bytes from each of 4 ranks, and 128 values of 2 bytes; in each of 3 layers."""
    merged = ring().merge_s(ATTENTION, 3)
    each = [2 * START_S + 0.75 * n * (8 * 4 * 4 + 8 * 128 * 2) / RATE for n in (1, 2, 3)]
    np.testing.assert_allclose(merged, [0.0, *(3 * seconds for seconds in each)], rtol=1e-12)


def test_two_halves_of_a_batch_by_hand() -> None:
    """Compute takes 2 s and 1 s a row, the exchange 2 s a row and 20 of 100 multiprocessors, two layers.

    Of 4 rows a half computes for 4 s and is exchanged for 4 s: max(2 · 4, 2 · 4 + 2 · 4 · 0.2) + 4 / 2 = 11.6 s in
    place of 6 + 8, so 5.6 of the 8 s are left. One row cannot be cut. Of 2 rows halves would take 3 + 3 + 2 · 2 · 0.2
    + 2 / 2 = 7.8 s in place of 4 + 4.
    """
    carrier = ExpertExchange("exchange", 1, 8, 2, 4, 1, "deepep_normal", "bf16", 20)
    ops: tuple[Operator, ...] = (Gemm("gemm", 1, 1, "bf16", 2), Exchange("dispatch", "dispatch", carrier, carrier, 2))

    def ledger(op: Operator, sizes: Sizes) -> Ledger:
        rows, table = np.arange(5.0), np.zeros((LINES, 5))
        part, seconds = (COMMUNICATION, 2 * rows) if isinstance(op, Exchange) else (GEMM, 2 + rows)
        table[part, 1:] = seconds[1:]
        return table

    prices: Any = SimpleNamespace(ledger=ledger, profile=SimpleNamespace(units=100))
    sizes = Sizes("decode", 4, Graphs(0, False), 4)
    left = exposed(prices, ops, sizes, Way("deepep", halves=True)).exchange
    np.testing.assert_allclose(left[[1, 2, 4]], [1.0, 3.8 / 4, 5.6 / 8])


def test_accepted_drafts_are_useful_tokens_with_a_head_each() -> None:
    pool = compiled(tp=4)
    laws = pool.accounting
    none = counters(pool, decode={8: 100})
    some = replace(none, accepted_tokens=400)  # of 800 decoded ones: half a token more each
    useful = [laws.account(each, 1, 10.0).mfu * laws.peak_flops * 4 * 10.0 for each in (none, some)]
    attention = 4 * 0.5 * laws.attention[0].decode_pair_flops * none.decode_kv_tokens
    assert useful[1] - useful[0] == pytest.approx(400 * (laws.token_flops + laws.sampled_flops) + attention, rel=1e-9)


@pytest.mark.parametrize("pool", [{"dp": 8, "ep": 8}, {"dp": 8}, {"tp": 2, "dp": 4, "ep": 8}])
def test_a_token_is_as_many_flop_however_the_experts_are_dealt(pool: dict[str, int]) -> None:
    """DeepSeek-V3 activates 37e9 of its parameters, 0.93e9 of them in embedding and head each (arXiv 2412.19437)."""
    laws = compiled(**DEEPSEEK, **pool).accounting
    assert laws.token_flops == pytest.approx(2 * 36e9, rel=0.05)


def test_the_latent_of_mla_is_one_tensor_a_layer() -> None:
    """So a block of 16 tokens is half as many copies as of separate keys and values: 61 calls of 8 us."""
    pool = Pool(tp=8, weights="fp8-block", scheduler=Scheduler(preemption="swap"))
    law = swap_law(catalog.model("DeepSeek-V3"), catalog.device("h200-sxm"), pool)
    assert law is not None
    assert law.group_s == pytest.approx(61 * 8e-6)
    law = swap_law(catalog.model("Llama-3.1-8B"), catalog.device("h200-sxm"), Pool(scheduler=pool.scheduler))
    assert law is not None
    assert law.group_s == pytest.approx(2 * 32 * 8e-6)


def test_all_ranks_together_load_as_many_bytes_of_an_adapter_as_each_has() -> None:
    laws = [compiled("Llama-3.1-8B", tp=tp, lora={"adapters": 1, "rank": 8}).adapters for tp in (1, 2)]
    one, two = (law.load_bytes[0] for law in laws if law is not None)
    # q and o are 4096 × 4096, k and v 4096 × 1024: A of q, k, v and B of o are on both ranks.
    assert one == 32 * 8 * 2 * (2 * 8192 + 2 * 5120)
    assert two == one + 32 * 8 * 2 * 4 * 4096


def test_a_batch_reads_no_more_adapters_than_it_has_slots() -> None:
    prices = Pricer(catalog.device("h100-sxm"), "vllm", catalog.cluster("1xh100-sxm").link(
        catalog.device("h100-sxm"), 1), "analytic")  # fmt: skip
    op = AdapterOp("lora_q", 1e6, 0.0, 0.0, 0.0, 100, 0.0, 64, 1, most_distinct=4)
    sizes = Sizes("decode", 64, Graphs(0, False), 64)
    few, many = prices.ledger(op, sizes), prices.ledger(replace(op, most_distinct=100), sizes)
    np.testing.assert_array_equal(few[:, :5], many[:, :5])
    assert few[MOVED_BYTES, 64] == 4e6
    assert many[MOVED_BYTES, 64] == pytest.approx(1e6 * 100 * (1 - 0.99**64))


def test_what_two_ranks_spend_together_by_hand() -> None:
    """Five iterations of 5 tokens, 4 of them on the fuller rank: 40 s of exchange, experts of 2.5 tokens a rank."""
    nothing, tokens = np.zeros((LINES, 1)), np.arange(7.0)
    exchange, experts = np.zeros((LINES, 7)), np.zeros((LINES, 7))
    exchange[COMMUNICATION], experts[MOE] = 10 * tokens, tokens**2
    both = Together(2, (nothing, exchange), (nothing, experts))
    counts = np.zeros((6, 7), dtype=np.int64)
    counts[FULLEST + 1, 4] = counts[ALL + 1, 2] = counts[REST + 1, 2] = 5
    spent = both.spent(counts, 8, 4)
    assert spent[COMMUNICATION] == 2 * 5 * 40
    assert spent[MOE] == 2 * 5 * (4 + 9) / 2


def test_a_stage_of_ranks_that_share_a_context_fills_a_node() -> None:
    """So its activations go over the network, at 50 in place of 450 GB/s, where four devices a stage leave both stages
    in one node. Each device sends a quarter, and gathers three in its node: (3 + 9) / (3 + 1) times as long."""
    far, near = (compiled(tp=4, pp=2, weights="fp8", cluster="2x8xh100-sxm", **cp) for cp in ({"cp": 2}, {}))
    assert far.tables.transfer_s[0, -1] / near.tables.transfer_s[0, -1] == pytest.approx(3.0, rel=0.02)


def test_a_state_is_decayed_written_and_read_and_looked_up_where_it_is_a_delta() -> None:
    """FLOP of a token that decodes, 4 heads of 8 × 16: 2 to decay and write, 1, 2 to read; 2 more to look up."""
    recurrence = Recurrence("recurrence", "mamba2", 4, 4, 8, 16, 4, 64, "float32", 1)
    assert recurrence.decode_flops == 5 * 4 * 8 * 16
    assert replace(recurrence, kind="gated-delta").decode_flops == 7 * 4 * 8 * 16


def test_waiting_for_adapters_and_copies_is_communication() -> None:
    pool = compiled(tp=4)
    none = counters(pool, decode={8: 100})
    some = replace(none, busy_s=none.busy_s + 3.0, copy_s=1.0, adapter_wait_s=2.0)
    before, after = (pool.accounting.account(each, 1, 20.0) for each in (none, some))
    more = {part: after.breakdown_s[part] - before.breakdown_s[part] for part in after.breakdown_s}
    assert more.pop("communication") == pytest.approx(3.0)
    assert more.pop("idle") == pytest.approx(-3.0)
    assert more == pytest.approx(dict.fromkeys(more, 0.0), abs=1e-9)
    assert after.energy_j == pytest.approx(before.energy_j)  # the device waits at its idle power
