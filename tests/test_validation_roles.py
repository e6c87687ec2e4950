"""Measured runs whose workers prefill or decode: what a row says of them, what a harness is known to have run."""

from __future__ import annotations

import re
from statistics import median

import numpy as np
import pytest

from apexsim.engine.routers import FRONT_ENDS, Offered, router
from apexsim.validation.case import Case, Skipped, read_set
from apexsim.validation.recipes import SEATS, workers_of
from apexsim.validation.sets import read_table
from apexsim.validation.simulate import simulate_case
from tests.validation_worlds import CLOSED, case_of, cases_of, reason_of, shared_set

APART = CLOSED | {
    "mode": "disagg", "devices": 3, "tp": "", "prefill_workers": 1, "prefill_tp": 1, "decode_workers": 2,
    "decode_tp": 1,
}  # fmt: skip
"""A small model on one device that prefills and two that decode."""

R1 = APART | {
    "model": "deepseek-ai/DeepSeek-V3", "device": "gb200", "weights": "nvfp4", "devices": 36, "engine": "tensorrt-llm",
    "engine_version": "0.8.1.post2", "max_num_seqs": "", "max_num_batched_tokens": "", "prefix_caching": "",
    "source": "AIConfigurator silicon_sample.csv (db-dump/2026-04-27)", "concurrency": 24, "input_tokens": 1024,
    "output_tokens": 1024, "prefill_batch": 1, "prefill_tp": 1, "prefill_dp": 4, "prefill_ep": 4, "prefill_moe_tp": 1,
    "decode_workers": 4, "decode_tp": 8, "decode_dp": 1, "decode_ep": 8, "decode_moe_tp": 1,
}  # fmt: skip


def test_workers_become_pools(tmp_path):
    plan = case_of(tmp_path, APART).plan
    assert [(pool.role, pool.replicas, pool.tp) for pool in plan.pools] == [("prefill", 1, 1), ("decode", 2, 1)]
    assert plan.router == {"prefill": "round-robin", "decode": "round-robin"}
    outcome = simulate_case(case_of(tmp_path / "again", APART))
    assert outcome.skipped is None
    assert all(found.simulated > 0 for found in outcome.metrics.values())


def test_limits_of_a_row_are_those_of_its_pools(tmp_path):
    prefill, decode = case_of(tmp_path, APART, prefill_batch=2, decode_batch=3).plan.pools
    assert (prefill.scheduler.max_num_seqs, decode.scheduler.max_num_seqs) == (2, 3)
    prefill, decode = case_of(tmp_path / "none", APART).plan.pools
    assert (prefill.scheduler.max_num_seqs, decode.scheduler.max_num_seqs) == (64, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prefill_workers": ""}, "column 'prefill_workers' is empty: a disaggregated run needs its workers"),
        ({"decode_workers": ""}, "column 'decode_workers' is empty"),
        ({"decode_tp": ""}, "column 'decode_tp' is empty"),
        ({"devices": 4}, "is 4 (allowed: 3, workers · tp · pp · dp of both pools)"),
        ({"decode_ep": 2}, "ep · moe_tp must be tp · dp"),
    ],
)
def test_a_row_that_lacks_its_workers_is_skipped(tmp_path, changes, words):
    assert words in reason_of(tmp_path, APART, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decode_pp": 2, "devices": 5}, None),
        ({"prefill_pp": 2, "decode_tp": 2, "devices": 6}, None),
        ({"decode_workers": 9, "devices": 10, "prefill_workers": 1}, None),
        ({"load": "rate", "rate_rps": 3, "requests": 30, "concurrency": ""}, None),
        ({"load": "offline", "requests": 30, "concurrency": "", "power_w_per_device": 400}, None),
        ({"decode_dp": 2, "decode_ep": 2, "devices": 5}, "has no experts"),
        ({"decode_tp": 3, "devices": 7}, "does not divide the 32 attention heads"),
        ({"model": "meta-llama/Llama-3.1-70B"}, r"the plan does not fit: pools\[0\]: .* short by"),
    ],
)
def test_any_mix_of_workers_is_simulated_or_skipped_with_its_reason(tmp_path, changes, words):
    outcome = simulate_case(case_of(tmp_path, APART, **changes))
    if words is None:
        assert outcome.skipped is None
        assert all(found.simulated is not None for found in outcome.metrics.values())
    else:
        assert re.search(words, outcome.skipped or "")


def test_a_known_harness_fills_in_its_recipe(tmp_path):
    case = case_of(tmp_path, R1)
    prefill, decode = case.plan.pools
    assert (prefill.dp, prefill.scheduler.max_num_batched_tokens, prefill.scheduler.max_num_seqs) == (4, 16384, 2048)
    assert (decode.tp, decode.ep, decode.scheduler.max_num_seqs) == (8, 8, 32)
    assert case.plan.engine_version is None
    assert case.plan.router == {"prefill": "join-shortest-queue", "decode": "round-robin-front-ends"}
    assert case.load.lengths.range_ratio == 0.8
    assert any("prefill_batch = 1 is not what ran" in text for text in case.assumptions)
    assert any("decode_batch = 32 (InferenceX's recipe)" in text for text in case.assumptions)
    stated = case_of(tmp_path / "stated", R1, decode_batch=5).plan.pools[1]
    assert stated.scheduler.max_num_seqs == 5
    # another source, or a number of clients that no recipe has, is another matter
    (other,) = cases_of(tmp_path / "other", R1 | {"source": "mine"})
    assert isinstance(other, Case)
    assert [pool.scheduler.max_num_seqs for pool in other.plan.pools] == [1, 2048]
    assert other.plan.router["decode"] == "round-robin"
    assert case_of(tmp_path / "odd", R1, concurrency=25).plan.pools[1].scheduler.max_num_seqs == 2048


def test_what_is_drafted_is_drafted_where_it_decodes(tmp_path):
    told = {"speculative": "mtp", "num_speculative_tokens": 2, "attention_dp_timeout_iters": 60}
    case = case_of(tmp_path, R1, **told)
    prefill, decode = case.plan.pools
    assert prefill.speculative is None
    assert decode.speculative.num_speculative_tokens == 2
    assert any("attention_dp_config has no effect" in text for text in case.assumptions)
    fast, slow = (
        simulate_case(case_of(tmp_path / name, R1, requests=48, **keys)).metrics["tpot_mean_s"].simulated
        for name, keys in (("drafts", told), ("none", {}))
    )
    assert fast < 0.8 * slow


def test_graphs_reach_as_far_as_the_recipe_has_seats(tmp_path):
    wide = {"decode_workers": 2, "decode_tp": 1, "decode_dp": 4, "decode_ep": 4, "devices": 12, "concurrency": 6144}
    assert case_of(tmp_path, R1, **wide).host().largest_graph == 768
    assert case_of(tmp_path / "few", R1).host().largest_graph == 512


def test_recipes_have_one_answer_for_each_number_of_clients():
    for shape, rows in SEATS.items():
        seen = [(workers, clients) for workers, _, many in rows for clients in many]
        assert len(seen) == len(set(seen)), shape


def test_front_ends_deal_their_own_requests_in_turn():
    offered = Offered(4 * FRONT_ENDS * 3, np.full(4 * FRONT_ENDS * 3, -1))
    turns = router("round-robin-front-ends").candidates(offered, 4, 7).candidates[:, 0].reshape(-1, FRONT_ENDS)
    assert (np.diff(turns, axis=0) % 4 == 1).all()
    assert len(set(turns[0])) > 1
    assert (np.bincount(turns.ravel()) == 3 * FRONT_ENDS).all()


def test_the_published_set_is_simulated_whole_and_met():
    """Every row makes a plan; of each device, a few runs are within what the page says of them all."""
    table = read_table(shared_set("closed-loop-disaggregated") / "runs.csv")
    cases = read_set(table)
    assert not [case for case in cases if isinstance(case, Skipped)]
    known = [case for case in cases if isinstance(case, Case) and case.graphs is not None]
    assert len(known) == 100  # all but SGLang's
    assert {workers_of(case.row) for case in known} <= {row[0] for rows in SEATS.values() for row in rows}
    sample = [case for case in known if case.load.requests <= 1000][::5]
    outcomes = [simulate_case(case) for case in sample]
    assert len(sample) >= 10
    errors = {
        column: median(abs(outcome.metrics[column].error or 0.0) for outcome in outcomes)
        for column in ("ttft_mean_s", "tpot_mean_s")
    }
    assert errors["ttft_mean_s"] < 0.30
    assert errors["tpot_mean_s"] < 0.20
