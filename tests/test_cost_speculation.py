"""What drafts cost: tables against those of the model alone, memory, energy, and gains that were published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.explain import Iteration
from apexsim.cost.memory import DoesNotFit
from apexsim.cost.step import CompiledPool
from apexsim.scenario import Prepared
from apexsim.spec import catalog
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Plan, Pool
from apexsim.workload.trace import Trace
from tests.cost_worlds import compiled, device_s
from tests.scenario_worlds import plan, trace

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.5}
SMALL = {"method": "draft-model", "draft_model": "Llama-3.2-1B", "num_speculative_tokens": 3, "acceptance": 0.7}
MTP = {"method": "mtp", "num_speculative_tokens": 1, "acceptance": 0.7}


def prepared(plan: Plan) -> Prepared:
    found = scenario.prepare(plan)
    assert isinstance(found, Prepared), found
    return found


def same_tables(one: CompiledPool, other: CompiledPool) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.tables, other.tables, strict=True) if isinstance(a, np.ndarray))


def test_none_and_no_drafts_are_one_plan() -> None:
    off = plan(replicas=1)
    none = plan(replicas=1, speculative={**SMALL, "num_speculative_tokens": 0})
    assert none.id == off.id
    assert same_tables(prepared(off).compiled, prepared(none).compiled)
    results = [scenario.run(prepared(each), trace(20)) for each in (off, none)]
    assert results[0].result.same_bytes(results[1].result)
    dicts = [each.summary.to_dict() for each in results]
    for each in dicts:
        each["simulation"].pop("wall_s")
    assert dicts[0] == dicts[1]
    assert "speculation" not in dicts[0]


def test_verification_is_a_decode_of_so_many_tokens() -> None:
    """ngram drafts for nothing: n sequences with 3 drafts each take the linear layers and the head of 4 n tokens."""
    off, on = compiled(seqs=512, tp=4), compiled(seqs=512, tp=4, speculative=NGRAM)
    tokens = 4 * np.arange(1, 65)
    np.testing.assert_allclose(on.tables.decode_s[0, 1:65], off.tables.decode_s[0, tokens], rtol=5e-3)
    np.testing.assert_allclose(on.tables.head_s[1:65], off.tables.head_s[tokens], rtol=5e-3)
    np.testing.assert_array_equal(on.tables.mixed_s, off.tables.mixed_s)
    assert on.memory == off.memory


def test_attention_of_drafts_reads_the_cache_once() -> None:
    off, on = compiled(tp=4), compiled(tp=4, speculative=NGRAM)
    ratio = on.tables.decode_attention_s[0, 0, 1:, 3:] / off.tables.decode_attention_s[0, 0, 1:, 3:]
    assert (ratio >= 1).all()
    assert np.median(ratio) < 2  # of four queries
    full, _ = on.accounting.executed or off.accounting.attention
    assert full.token_bytes == off.accounting.attention[0].token_bytes
    assert full.decode_pair_flops == 4 * off.accounting.attention[0].decode_pair_flops


def test_attention_work_of_a_step_by_hand() -> None:
    """Three drafts: the model's 4 queries read its cache once; the draft reads its own in 3 passes, of 4, 1 and 1.

    Llama-3.1-70B on each of 4 ranks: 80 layers of 16 heads and 2 KV heads of 128. Llama-3.2-1B on one of the four: 16
    layers of 32 heads and 8 KV heads of 64.
    """
    on = compiled(tp=4, speculative={**SMALL, "draft_tensor_parallel_size": 1})
    full, _ = on.accounting.executed or on.accounting.attention
    assert full.decode_pair_flops == 4 * (80 * 2 * 16 * 256) + (4 + 1 + 1) * (16 * 2 * 32 * 128) / 4
    assert full.token_bytes == 80 * 2 * 256 * 2 + 3 * (16 * 8 * 128 * 2) / 4
    assert on.accounting.attention[0].decode_pair_flops == 80 * 2 * 16 * 256  # what is useful


def test_a_draft_model_is_priced_and_held_as_a_model_of_its_own() -> None:
    off, on = compiled(tp=4), compiled(tp=4, speculative=SMALL)
    draft, ngram = compiled("Llama-3.2-1B", tp=4), compiled(tp=4, speculative=NGRAM)
    n = 8
    added = device_s(on, n, 1024) - device_s(ngram, n, 1024)
    # Its first pass has 32 tokens, and its sampler takes the largest.
    assert added == pytest.approx(3 * device_s(draft, n, 1024), rel=0.25)
    weights = draft.memory.weights_bytes_per_device
    assert on.memory.weights_bytes_per_device == pytest.approx(off.memory.weights_bytes_per_device + weights)
    kv = off.memory.kv_bytes_per_token_per_device + draft.memory.kv_bytes_per_token_per_device
    assert on.memory.kv_bytes_per_token_per_device == pytest.approx(kv)
    alone = compiled(tp=4, speculative={**SMALL, "draft_tensor_parallel_size": 1})
    assert alone.memory.kv_blocks < on.memory.kv_blocks < off.memory.kv_blocks


def test_an_mtp_layer_is_one_more_layer_and_the_heads_are_shared() -> None:
    """DeepSeek-V3's is 11.5e9 parameters, of 671e9 in 61 layers: 1.7 % of the weights, 1/61 of the KV."""
    pool = {"tp": 8, "ep": 8, "weights": "fp8-block"}
    off, on = (compiled("DeepSeek-V3", "h200-sxm", speculative=said, **pool) for said in (None, MTP))
    assert on.memory.weights_bytes_per_device / off.memory.weights_bytes_per_device == pytest.approx(1.0187, abs=0.003)
    kv = on.memory.kv_bytes_per_token_per_device / off.memory.kv_bytes_per_token_per_device
    assert kv == pytest.approx(62 / 61)


def test_mtp_gains_as_much_as_was_published_and_more_at_small_batches() -> None:
    """CloudMatrix-Infer (arXiv 2506.12708) reports +6 to +49 % for one token at 70 %, more at small batches."""
    pool = {"tp": 8, "ep": 8, "weights": "fp8-block"}
    off, on = (compiled("DeepSeek-V3", "h200-sxm", speculative=said, **pool) for said in (None, MTP))
    gains = [1.7 * device_s(off, n, 4096) / device_s(on, n, 4096) - 1 for n in (1, 8, 64, 256)]
    assert all(0 <= gain <= 0.55 for gain in gains), gains
    assert gains[0] > gains[1] > gains[2]
    assert gains[0] > gains[3]


def test_the_gain_of_experts_dips_where_they_are_read_for_the_first_time_and_ends_with_the_graphs() -> None:
    """Verifying reads more experts than decoding while some are unread; above 512 tokens a step is launched singly."""
    pool = {"tp": 8, "ep": 8, "weights": "fp8-block", "scheduler": {"max_num_seqs": 512}}
    off, on = (prepared(plan("DeepSeek-V3", "8xh200-sxm", speculative=said, **pool)) for said in (None, MTP))

    def steps(n: int) -> tuple[float, float]:
        """(experts' seconds with drafts over those without, tokens/s gained)"""
        taken = [scenario.explain(each, Iteration(n, 2048.0)) for each in (off, on)]
        experts = [sum(op.seconds for op in one.operators if op.name.endswith("experts")) for one in taken]
        assert (taken[1].launches_s > 0) == (n > 256)
        return experts[1] / experts[0], 1.7 * taken[0].duration_s / taken[1].duration_s - 1

    ratios, gains = zip(*(steps(n) for n in (64, 128, 256, 264)), strict=True)
    assert ratios[0] > ratios[1] > ratios[2] > 1
    assert gains[0] < gains[1]
    assert gains[2] > 0.3 > 0.1 > gains[3]


def tpot_s(speculative: dict[str, Any] | None, concurrency: int = 1) -> float:
    """Mean TPOT of Llama-3.1-70B on four H100s, prompts of 500 tokens, answers of 400."""
    ready = prepared(plan("Llama-3.1-70B", tp=4, speculative=speculative))
    n = 4 * concurrency
    load = Trace("alike", np.zeros(n), np.full(n, 500), np.full(n, 400))
    mean = scenario.run(ready, load, concurrency=concurrency, with_itl=False).summary.tpot_s.mean
    assert mean is not None
    return mean


def test_speed_up_of_one_sequence_is_tokens_of_a_step_over_the_cost_of_one() -> None:
    """By hand: a step of the model is 15.5 ms; three drafts of the 1B model cost 3 · 0.8 to 3 · 1.3 ms more."""
    tokens = sum(0.7**j for j in range(4))
    speed_up = tpot_s(None) / tpot_s(SMALL)
    assert tokens / (1 + 3 * 1.3 / 15.5) * 0.95 < speed_up < tokens / (1 + 3 * 0.8 / 15.5) * 1.05


def test_drafts_that_are_rejected_cost_time_and_energy() -> None:
    wrong = {**SMALL, "acceptance": 0.0}
    assert tpot_s(wrong) > tpot_s(None)
    off, on = (scenario.run(prepared(plan(replicas=1, speculative=said)), trace(20)).summary for said in (None, wrong))
    assert on.energy.total_j > off.energy.total_j
    assert on.utilization.mfu < off.utilization.mfu
    assert on.speculation is not None
    assert on.speculation.acceptance_rate == 0
    assert sum(on.breakdown_s.values()) == pytest.approx(on.duration_s)


def test_the_gain_falls_with_the_batch() -> None:
    gains = [tpot_s(None, n) / tpot_s(SMALL, n) for n in (1, 16, 64)]
    assert gains[0] > gains[1] > gains[2]


def test_the_summary_says_what_was_accepted() -> None:
    summary = scenario.run(prepared(plan(replicas=1, speculative=SMALL)), trace(60)).summary
    said = summary.to_dict()["speculation"]
    assert said["tokens_per_step"] == pytest.approx(1 + 3 * said["acceptance_rate"])
    assert said["acceptance_rate"] == pytest.approx((0.7 + 0.49 + 0.343) / 3, abs=0.05)


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ({"pp": 2, "speculative": NGRAM}, "not simulated with pp=2"),
        ({"speculative": MTP}, "has no multi-token-prediction layers"),
        ({"speculative": {**SMALL, "draft_model": "Qwen2.5-0.5B"}}, "vocabulary of 151936 is not the 128256"),
        ({"speculative": {**SMALL, "draft_model": "Llama-3-8B"}}, "sees 8192 tokens, the pool serves 131072"),
        ({"tp": 4, "speculative": {**SMALL, "draft_tensor_parallel_size": 2}}, "allowed: 1, or the pool's tp=4"),
        ({"speculative": NGRAM, "scheduler": {"async_scheduling": True}}, "async_scheduling cannot be true"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(pool: dict[str, Any], reason: str) -> None:
    assert reason in (check_pool(catalog.model("Llama-3.1-70B"), Pool.model_validate(pool)) or "")


def test_a_draft_that_leaves_no_room_does_not_fit() -> None:
    large = {**SMALL, "draft_model": "Llama-3.1-8B"}
    assert isinstance(scenario.prepare(plan("Llama-3.1-70B", tp=2, speculative=large)), DoesNotFit)


def test_ngram_is_synchronous() -> None:
    assert prepared(plan(replicas=1)).policy.ahead
    ready = prepared(plan(replicas=1, speculative=NGRAM))
    assert not ready.policy.ahead
    assert replace(ready.policy, acceptance=()).acceptance == ()
    assert ready.compiled.tables.host_serial_s[1] > prepared(plan(replicas=1)).compiled.tables.host_serial_s[1]
