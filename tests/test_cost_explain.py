"""``explain`` takes apart what the engine adds up: the rows of an iteration are its duration, no more and no less."""

from __future__ import annotations

import numpy as np
import pytest

import apexsim as ax
from apexsim import scenario
from apexsim.cost.explain import Iteration
from apexsim.errors import UsageError
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

PROMPT, BATCH = 96, 5

SMALL = {"max_num_seqs": 64, "max_num_batched_tokens": 4096}

POOLS = {
    "dense": ("Llama-3.1-8B", {"tp": 2, "weights": "fp8", "kv_cache": "fp8"}),
    "experts": ("Mixtral-8x7B", {"tp": 4, "ep": 4}),
    "latent": ("DeepSeek-V2-Lite", {"tp": 1}),
    "windows": ("Gemma-3-12B", {"tp": 1}),
    "slow clock": ("Llama-3.1-8B", {"tp": 1, "clock_mhz": 1200}),
    "pages of several kinds": ("Nemotron-H-8B", {"tp": 1}),
    "a shared context": ("Llama-3.1-8B", {"tp": 2, "cp": 2}),
    "ranks in lockstep": ("DeepSeek-V2-Lite", {"tp": 1, "dp": 2, "ep": 2}),
    "drafts": ("Llama-3.1-8B", {"tp": 1, "speculative": {
        "method": "draft-model", "draft_model": "Llama-3.2-1B", "num_speculative_tokens": 3, "acceptance": 0.0,
    }}),
    "ranks that draft": ("DeepSeek-V3", {"tp": 1, "dp": 16, "ep": 16, "max_model_len": 4096, "scheduler": SMALL,
        "speculative": {"method": "mtp", "num_speculative_tokens": 3, "acceptance": 0.0},
    }),
    "eager": ("Llama-3.1-8B", {"tp": 1, "scheduler": {"async_scheduling": False}}),
}


def prepared(name: str) -> scenario.Prepared:
    model, pool = POOLS[name]
    data = {"model": model, "cluster": "2x8xh100-sxm" if pool.get("dp", 1) > 8 else "8xh100-sxm", "pools": [pool]}
    found = scenario.prepare(parse(Plan, data, source="test"))
    assert isinstance(found, scenario.Prepared)
    return found


def iterations(plan: scenario.Prepared, requests: int) -> list[tuple[int, float]]:
    """(iterations, seconds) of what the engine ran for so many equal requests a rank that come at once."""
    count = requests * plan.pool.dp
    trace = Trace("at once", np.zeros(count), np.full(count, PROMPT), np.full(count, 3))
    timeline = scenario.replay(plan, trace, timeline=True).timeline
    assert timeline is not None
    mine = timeline.replica == 0
    return list(zip(timeline.steps[mine].tolist(), (timeline.end_s - timeline.begin_s)[mine].tolist(), strict=True))


@pytest.mark.parametrize("name", POOLS)
def test_the_rows_of_a_prefill_are_the_engines_iteration(name):
    plan = prepared(name)
    steps, duration_s = iterations(plan, 1)[0]
    found = scenario.explain(plan, Iteration(chunk=PROMPT))
    assert steps == 1
    assert found.duration_s == pytest.approx(duration_s, rel=1e-9)


@pytest.mark.parametrize("name", POOLS)
def test_the_rows_of_decodes_are_the_engines_iterations(name):
    plan = prepared(name)
    decodes = iterations(plan, BATCH)[1:]
    assert sum(steps for steps, _ in decodes) == 2
    each = [scenario.explain(plan, Iteration(BATCH, PROMPT + 1.0 + i)) for i in range(2)]
    assert sum(one.duration_s for one in each) == pytest.approx(sum(seconds for _, seconds in decodes), rel=1e-9)


@pytest.mark.parametrize("name", ["dense", "drafts"])
def test_the_rows_of_a_mixed_iteration_are_the_engines(name):
    """One sequence decodes, and verifies its drafts, beside a prompt that came while the first was computed."""
    plan = prepared(name)
    trace = Trace("behind", np.array([0.0, 1e-4]), np.full(2, PROMPT), np.full(2, 9))
    line = scenario.replay(plan, trace, timeline=True).timeline
    assert line is not None
    at = int(np.flatnonzero((line.decoding > 0) & (line.prefill_tokens > 0))[0])
    found = scenario.explain(plan, Iteration(1, PROMPT + 1.0 + line.steps[:at].sum() - 1, chunk=PROMPT))
    assert found.duration_s == pytest.approx(line.end_s[at] - line.begin_s[at], rel=1e-9)


def test_later_chunks_pay_for_what_is_cached():
    plan = prepared("dense")
    first, later = (scenario.explain(plan, Iteration(chunk=512, past=past)) for past in (0, 8192))
    assert {op.name for op in first.operators} == {op.name for op in later.operators}
    attention = [next(op for op in each.operators if op.name == "attention") for each in (first, later)]
    assert attention[1].seconds > 5 * attention[0].seconds
    assert [each.extrapolated for each in attention] == [False, True]
    assert first.duration_s - attention[0].seconds == pytest.approx(later.duration_s - attention[1].seconds)


@pytest.mark.parametrize("name", POOLS)
def test_no_operator_beats_its_roofline(name):
    plan = prepared(name)
    for iteration in (Iteration(64, 2048.0), Iteration(chunk=4096)):
        for op in scenario.explain(plan, iteration).operators:
            assert op.reached <= 1 / 0.95 + 1e-9, op
            assert op.seconds > 0, op


def test_a_large_batch_moves_gemms_from_memory_to_compute():
    plan = prepared("dense")
    bounds = {
        chunk: next(op for op in scenario.explain(plan, Iteration(chunk=chunk)).operators if op.name == "gate_up_proj")
        for chunk in (64, 8192)
    }
    assert (bounds[64].bound, bounds[8192].bound) == ("memory", "compute")
    assert bounds[8192].intensity > 5 * bounds[64].intensity


def test_stages_of_a_pipeline_the_slowest_is_shown():
    data = {"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{"pp": 2, "weights": "bf16"}]}
    plan = scenario.prepare(parse(Plan, data, source="test"))
    assert isinstance(plan, scenario.Prepared)
    found = scenario.explain(plan, Iteration(256, 128.0))
    assert found.stage == 1  # it has the LM head and the sampler
    assert "lm_head" in {op.name for op in found.operators}
    assert "an iteration of the slowest of 2 stages, " in ax.explain(data).lines[0]


def test_the_report_says_what_binds_and_what_is_measured():
    report = ax.explain({"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{}]}, batch=4, context=500)
    data = report.to_dict()
    assert data["decode"]["binds"] == "memory"
    assert data["decode"]["duration_s"] == pytest.approx(sum(data["decode"]["by_bound_s"].values()))
    assert 0.5 < data["decode"]["calibrated_share"] <= 1
    assert "memory bandwidth takes" in report.lines[0]
    assert report.to_pandas().groupby("phase")["seconds"].sum()["decode"] == pytest.approx(data["decode"]["kernels_s"])
    assert "FLOP/B" in report._repr_html_()
    assert report.plot_roofline().get_xscale() == "log"


def test_what_was_never_measured_is_said():
    report = ax.explain({"model": "Llama-3.1-8B", "cluster": "1xmi300x", "pools": [{}]})
    assert report.decode.calibrated_share == 0
    assert "0% of the kernels' time rests on measurements" in report.lines[0]


@pytest.mark.parametrize("flags", [{"batch": 0}, {"batch": 257}, {"context": 131073}, {"prompt": -1}])
def test_more_than_the_plan_can_hold_is_refused_in_one_line(flags):
    with pytest.raises(UsageError, match=rf"{next(iter(flags))} -?\d+ \(allowed: 1 to "):
        ax.explain({"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{}]}, **flags)


def test_what_other_work_hides_is_said_and_not_drawn():
    pool = {
        "dp": 16, "ep": 16, "weights": "fp8-block",
        "experts": {"exchange": "deepep-low-latency", "overlap_shared": True},
    }  # fmt: skip
    report = ax.explain({"model": "DeepSeek-V3", "cluster": "2x8xh200-sxm", "pools": [pool]})
    rows = {row[0]: row for row in report.tables[0].rows}
    assert rows["shared_down_proj"][6] == "hidden"
    assert report.plot_roofline().get_yscale() == "log"


@pytest.mark.parametrize(("model", "fit"), [("Llama-3.1-8B", 432), ("Gemma-3-12B", 121), ("Nemotron-H-8B", 838)])
def test_sequences_that_fit_are_counted_in_the_pages_of_the_engine(model, fit):
    report = ax.explain({"model": model, "cluster": "1xh100-sxm", "pools": [{}]}, context=1024)
    assert f"{fit} sequences of 1,024" in report.lines[2]  # as docs/attention.md has them


def test_a_batch_is_no_larger_than_the_cache():
    plan = {"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{}]}
    assert ax.explain(plan, context=100_000).decode.iteration.decoding == 4
    with pytest.raises(UsageError, match=r"batch 5 \(allowed: 1 to 4, by its KV cache, at context 100000\)"):
        ax.explain(plan, batch=5, context=100_000)


def test_accepted_drafts_count_as_tokens_and_ranks_are_named():
    speculative = {"method": "ngram", "num_speculative_tokens": 2, "acceptance": [0.5, 0.4]}
    plan = {"model": "Llama-3.1-8B", "cluster": "1xh100-sxm", "pools": [{"speculative": speculative}]}
    report = ax.explain(plan, batch=10)
    assert report.decoded_tokens == pytest.approx(10 * (1 + 0.5 + 0.5 * 0.4))
    assert "tokens/s of a replica" in report.lines[0]
    ranks = {"model": "DeepSeek-V2-Lite", "cluster": "2xh100-sxm", "pools": [{"dp": 2, "ep": 2}]}
    assert all("of a rank" in line for line in ax.explain(ranks, batch=1).lines)


@pytest.mark.parametrize(("kv_cache", "bound"), [("bf16", "memory"), ("int4", "vector")])
def test_a_cache_of_few_bits_is_bound_by_the_units_that_expand_it(kv_cache, bound):
    plan = {"model": "Llama-2-7B", "cluster": "1xa100-sxm-80gb", "engine": "tensorrt-llm",
            "pools": [{"kv_cache": kv_cache}]}  # fmt: skip
    report = ax.explain(plan, batch=16)
    assert next(op for op in report.decode.operators if op.name == "attention").bound == bound
    assert ("vector units" in report.lines[0]) == (report.decode.binds == "vector")
