"""Accounting: what a run's counters say of its time, energy and work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apexsim.cost.accounting import Account
from apexsim.cost.power import power_model
from apexsim.cost.step import CompiledPool
from apexsim.engine.result import Counters
from apexsim.spec import catalog
from tests.cost_worlds import compiled


def counters(
    pool: CompiledPool, mixed: dict[int, int] | None = None, decode: dict[int, int] | None = None,
    context: float = 500.0,
) -> Counters:
    """Counters of iterations that hold one whole prompt of their tokens, or only decodes of a mean context."""
    t, seqs = pool.tables, len(pool.tables.head_s)
    mixed, decode = mixed or {}, decode or {}
    by_tokens = np.zeros(8193, dtype=np.int64)
    by_sequences, sampled = np.zeros(seqs, dtype=np.int64), np.zeros(seqs, dtype=np.int64)
    prefill_s = decode_s = busy_s = 0.0
    for tokens, count in mixed.items():
        by_tokens[tokens] += count
        sampled[1] += count
        index = tokens if tokens <= t.token_dense else t.token_dense + (tokens - t.token_dense) // t.token_stride
        prefill_s += count * float(t.prefill_s[:, :, index].sum())
        busy_s += count * float(t.mixed_s[:, index].max() + t.prefill_s[:, :, index].sum(axis=1).max() + t.head_s[1])
    for sequences, count in decode.items():
        by_sequences[sequences] += count
        sampled[sequences] += count
        rows = t.decode_attention_s[:, 0, sequences]
        attention = sum(float(np.interp(context, t.context_knots, row)) for row in rows)
        decode_s += count * attention
        busy_s += count * float(t.decode_s[:, sequences].max() + attention + t.head_s[sequences])
    decoded = sum(n * count for n, count in decode.items())
    return Counters(
        mixed=by_tokens, decode=by_sequences, sampled=sampled, scheduled=sampled, iterations=int(sampled.sum()),
        busy_s=busy_s, prefill_attention_s=prefill_s, decode_attention_s=decode_s,
        prefill_tokens=sum(n * count for n, count in mixed.items()), decode_tokens=decoded,
        prefill_pairs=sum(n * (n + 1) / 2 * count for n, count in mixed.items()), decode_kv_tokens=decoded * context,
        prefill_pairs_windowed=0.0, decode_kv_tokens_windowed=0.0, preemptions=0, kv_peak_blocks=0, kv_blocks=1,
    )


def account(pool: CompiledPool, found: Counters, replicas: int = 1, idle_s: float = 1.0) -> Account:
    return pool.accounting.account(found, replicas, found.busy_s / replicas + idle_s)


@pytest.mark.parametrize("pool", [{"tp": 4}, {"tp": 2, "pp": 3}, {"tp": 8, "weights": "fp8"}])
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_breakdown_sums_to_the_time_of_all_replicas(pool: dict[str, object], replicas: int) -> None:
    built = compiled(**pool)
    found = counters(built, {2048: 30, 100: 7}, {32: 400, 1: 50})
    result = account(built, found, replicas)
    assert sum(result.breakdown_s.values()) == pytest.approx(found.busy_s + replicas * 1.0, rel=1e-12)
    assert set(result.breakdown_s) == {"gemm", "attention", "moe", "communication", "host", "idle"}
    assert all(seconds >= 0 for seconds in result.breakdown_s.values())


def test_parts_are_those_of_the_tables() -> None:
    built = compiled(tp=4)
    found = counters(built, {2048: 10})
    parts = account(built, found).breakdown_s
    assert parts["moe"] == 0.0
    assert 0 < parts["host"] < 0.2 * found.busy_s  # launches that the kernels of 2048 tokens do not hide
    assert parts["idle"] == pytest.approx(1.0)
    assert sum(parts[name] for name in ("gemm", "communication", "attention", "host")) == pytest.approx(found.busy_s)
    assert parts["gemm"] > parts["communication"] > 0


def test_experts_are_a_part_of_their_own() -> None:
    built = compiled("Mixtral-8x7B", tp=2)
    parts = account(built, counters(built, {}, {32: 100})).breakdown_s
    assert parts["moe"] > 0.5 * sum(seconds for name, seconds in parts.items() if name != "idle")


def test_what_an_iteration_lasts_beyond_the_device_is_host_time() -> None:
    built = compiled(tp=4, engine_version="0.11.1")
    found = counters(built, {}, {8: 1000})
    slower = replace(found, busy_s=found.busy_s + 0.7)
    assert account(built, slower).breakdown_s["host"] == pytest.approx(0.7)


def test_iterations_between_knots_are_interpolated() -> None:
    built = compiled(tp=4)
    low, high, between = (
        account(built, counters(built, {tokens: 1})).breakdown_s["gemm"] for tokens in (2048, 2112, 2080)
    )
    head = account(built, counters(built, {2048: 2})).breakdown_s["gemm"] - low
    assert head == pytest.approx(low)
    assert between == pytest.approx((low + high) / 2)


def test_useful_flops_are_two_for_each_parameter_and_token() -> None:
    """8B: prompts of 2048 tokens cost 2 · (parameters less embeddings) each, plus attention and one LM head row."""
    built, model = compiled("Llama-3.1-8B"), catalog.model("Llama-3.1-8B")
    found = counters(built, {2048: 50})
    result = built.accounting.account(found, 1, found.busy_s)
    dense = 2.0 * (model.parameters - model.embedding_parameters) * 2048 * 50
    attention = 4.0 * 32 * 32 * 128 * 2048 * 2049 / 2 * 50
    head = 2.0 * model.vocab_size * model.hidden_size * 50
    assert result.mfu == pytest.approx((dense + attention + head) / found.busy_s / 989.4e12, rel=2e-3)
    assert 0.4 < result.mfu < 0.95


def test_decoding_moves_the_weights_and_the_cache() -> None:
    built, model = compiled("Llama-3.1-8B"), catalog.model("Llama-3.1-8B")
    found = counters(built, {}, {1: 1000}, context=4000.0)
    result = built.accounting.account(found, 1, found.busy_s)
    moved = 1000 * (2.0 * (model.parameters - model.vocab_size * model.hidden_size) + 4000 * 131_072)
    assert result.mbu == pytest.approx(moved / found.busy_s / 3.35e12, rel=0.03)
    assert result.mfu < 0.02


def test_energy_is_idle_power_plus_what_the_work_takes() -> None:
    built = compiled("Llama-3.1-8B", tp=2)
    profile = catalog.device("h100-sxm")
    nothing = built.accounting.account(counters(built), 2, 100.0)
    assert nothing.energy_j == pytest.approx(2 * 2 * profile.idle_w * 100.0)
    assert nothing.mean_power_w == pytest.approx(profile.idle_w)
    busy = counters(built, {}, {64: 2000})
    result = built.accounting.account(busy, 1, busy.busy_s)
    assert profile.idle_w < result.mean_power_w < profile.tdp_w


def test_prefill_draws_more_than_decode_and_never_more_than_the_board_allows() -> None:
    built = compiled("Llama-3.1-8B")
    prefill, decode = counters(built, {8192: 100}), counters(built, {}, {8: 1000})
    hot = built.accounting.account(prefill, 1, prefill.busy_s).mean_power_w
    cool = built.accounting.account(decode, 1, decode.busy_s).mean_power_w
    assert cool < hot <= catalog.device("h100-sxm").tdp_w


def test_a_device_without_a_power_figure_has_no_energy() -> None:
    profile = catalog.device("h100-sxm").model_copy(update={"tdp_w": None, "idle_w": None})
    assert power_model(profile) is None
    built = compiled("Llama-3.1-8B")
    unknown = replace(built.accounting, power=None).account(counters(built, {64: 1}), 1, 1.0)
    assert unknown.energy_j is None
    assert unknown.mean_power_w is None


def test_fractions_tell_measured_from_assumed_and_extrapolated() -> None:
    h100, mi300x = compiled("Llama-3.1-8B"), compiled("Llama-3.1-8B", "mi300x")
    usual = account(h100, counters(h100, {2048: 10}, {16: 1000}))
    assert 0.85 < usual.calibrated_fraction < 1.0  # norms and activations are analytic
    assert account(mi300x, counters(mi300x, {2048: 10}, {16: 1000})).calibrated_fraction == 0.0
    far = account(h100, counters(h100, {}, {16: 1000}, context=120_000.0))
    assert usual.extrapolated_fraction < 0.2
    assert far.extrapolated_fraction <= 1.0


def test_an_empty_run_accounts_for_nothing() -> None:
    built = compiled("Llama-3.1-8B")
    result = built.accounting.account(counters(built), 1, 0.0)
    assert result.energy_j == 0.0
    assert result.mean_power_w is None
    assert result.mfu == result.mbu == result.calibrated_fraction == 0.0


def test_attention_of_prompts_and_of_decoding_takes_energy() -> None:
    built = compiled("Llama-3.1-8B")
    for found in (counters(built, {8192: 10}), counters(built, {}, {64: 100}, context=8000.0)):
        without = replace(found, prefill_attention_s=0.0, decode_attention_s=0.0)
        duration = found.busy_s + 1.0
        more = built.accounting.account(found, 1, duration).energy_j
        less = built.accounting.account(without, 1, duration).energy_j
        attention_s = found.prefill_attention_s + found.decode_attention_s
        watts = (more - less) / attention_s
        assert 100 < watts <= 590.0 * (1 + 1e-12)  # above idle, and at most up to the board's 700 W


