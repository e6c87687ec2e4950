"""Runs that decoded speculatively, or whose attention ranks waited for each other: what rows say, what is known."""

from __future__ import annotations

from dataclasses import replace

from apexsim.report.validation_tables import set_table
from apexsim.validation.case import Case, Skipped, read_set
from apexsim.validation.host_fit import groups, runs_of
from apexsim.validation.run import validate_folder
from tests.validation_worlds import CLOSED, case_of, cases_of, reason_of, table_of

R1 = CLOSED | {
    "model": "deepseek-ai/DeepSeek-R1", "device": "b200-sxm", "devices": 8, "tp": 8, "weights": "nvfp4",
    "engine": "tensorrt-llm", "engine_version": "1.2.0rc6.post2", "max_num_seqs": "", "max_num_batched_tokens": "",
    "source": "AIConfigurator silicon_sample.csv (2026-03-25.csv)",
}  # fmt: skip
RANKS = R1 | {"tp": 1, "dp": 8, "ep": 8}


def test_a_row_may_say_how_it_drafted(tmp_path):
    told = {"speculative": "mtp", "num_speculative_tokens": 2, "draft_acceptance": 0.8}
    case = case_of(tmp_path, R1, source="", **told)
    drafts = case.plan.pools[0].speculative
    assert (drafts.method, drafts.num_speculative_tokens, drafts.acceptance) == ("mtp", 2, 0.8)
    assert case_of(tmp_path / "none", R1).plan.pools[0].speculative is None
    assert "num_speculative_tokens" in reason_of(tmp_path / "how many", R1, source="", speculative="mtp")


def test_images_of_a_known_harness_say_what_they_ran(tmp_path):
    with_drafts = case_of(tmp_path, R1, engine_version="1.2.0rc6.post3")
    assert with_drafts.plan.pools[0].speculative.num_speculative_tokens == 3
    assert "draft_acceptance = 0.7 (not published; the default of plans)" in with_drafts.assumptions
    older = R1 | {"engine_version": "1.1.0rc2.post2", "ep": 8}
    either = case_of(tmp_path / "both", older)
    assert (either.plan.pools[0].speculative, either.guessed) == (None, ("speculative = none",))
    assert any("does not say which" in text for text in either.assumptions)
    (told,) = read_set(table_of(tmp_path / "told", older), {"speculative": "mtp"})
    assert isinstance(told, Case)
    assert (told.plan.pools[0].speculative.num_speculative_tokens, told.guessed) == (3, ())
    name = "2026_04_06_deepseek_r1_b200_sxm_trtllm_fp4_agg_1024x8192_c16_tp8_{}_1"
    assert case_of(tmp_path / "only", older, run=name.format("ep8")).plan.pools[0].speculative is not None
    assert case_of(tmp_path / "never", older, run=name.format("ep1"), ep=1).plan.pools[0].speculative is None
    # another model, or another source, is another matter
    for other in ({"model": "Qwen/Qwen3-235B-A22B", "weights": ""}, {"source": ""}):
        (case,) = cases_of(tmp_path / str(len(other)), older | {"engine_version": "1.2.0rc6.post3", "ep": 8} | other)
        assert isinstance(case, Skipped) or case.plan.pools[0].speculative is None


def test_attention_ranks_of_that_harness_wait_for_each_other(tmp_path):
    rule = case_of(tmp_path, RANKS).plan.pools[0].scheduler.attention_dp_config
    assert (rule.enable_balance, rule.timeout_iters, rule.batching_wait_iters) == (True, 60, 0)
    assert not case_of(tmp_path / "other", RANKS, source="").plan.pools[0].scheduler.attention_dp_config.enable_balance
    assert not case_of(tmp_path / "one", R1).plan.pools[0].scheduler.attention_dp_config.enable_balance
    assert case_of(tmp_path / "none", RANKS).guessed == ()
    both = case_of(tmp_path / "mtp", RANKS, engine_version="1.2.0rc6.post3").plan.pools[0]
    assert both.speculative.num_speculative_tokens == 1


def test_rows_that_rest_on_a_guess_stand_apart(tmp_path):
    told = R1 | {"run": "told", "speculative": "none", "requests": 8, "ep": 8}
    guess = told | {"run": "guess", "speculative": "", "engine_version": "1.1.0rc2.post2"}
    table = table_of(tmp_path, told, guess)
    result = validate_folder(table.folder, workers=1)
    assert [len(outcomes) for outcomes in result.groups.values()] == [2, 1]
    apart = f"of {table.name}: speculative = none, a guess"
    assert [outcome.run for outcome in result.groups[apart]] == ["guess"]
    assert [row[0] for row in set_table(result).rows if row[1] == "tpot_mean_s"] == [table.name, apart]
    assert result.orders == ()
    # a fit learns from the other one alone
    cases = [replace(case, set="closed-loop-grid") for case in read_set(table) if isinstance(case, Case)]
    assert [case.run for case in runs_of(groups()["tensorrt-llm-1"], cases)] == ["told"]
