"""How far a plan's goodput is looked for, what is said where it ends, and what binds there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from apexsim.search import copies
from apexsim.search.combinations import families, plans
from apexsim.search.copies import GoodputBound, GoodputLoads
from apexsim.search.evaluate import evaluate
from apexsim.search.executors import executor
from apexsim.search.outcome import Candidate, Dropped, Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import PILOT_REQUESTS, Context, screen
from apexsim.search.run import SearchResult, search
from apexsim.search.why import what_binds
from apexsim.spec import catalog
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace
from tests.test_search_parts import summary_of

SPACE = {
    "tp": [1, 2], "pp": [1], "replicas": [1, 2], "weights": ["fp8"], "kv_cache": ["bf16"],
    "max_num_batched_tokens": [2048], "max_num_seqs": [128],
}  # fmt: skip


def question(trace: Trace, slo: str, **changes: object) -> Problem:
    given = {"model": "Llama-3.1-8B", "cluster": catalog.cluster("8xh100-sxm"), "space": SPACE}
    return make_problem(**(given | changes), trace=trace, slo=parse_slo(slo))


def answer(asked: Problem) -> SearchResult:
    return search(asked, executor("process", 1))


def candidates(asked: Problem) -> tuple[Context, list[Candidate | Dropped]]:
    context = Context.of(asked)
    space = plans(asked.space, asked.model_name, asked.cluster)
    return context, [outcome for family in families(space) for outcome in screen(context, family)]


def test_the_rate_of_a_thin_trace_does_not_limit_its_goodput():
    trace = poisson(3.0, 200, 1000, 150, seed=1)
    thin, own = (answer(question(trace, "ttft=1s,tpot=50ms", rate_rps=rate)) for rate in (0.01, None))
    assert {e.id: e.goodput_rps for e in thin.ranked} == {e.id: e.goodput_rps for e in own.ranked}
    assert not any(e.censored or e.notes for e in thin.ranked)
    assert len({e.goodput_rps for e in thin.ranked}) == 4


def burst_and_a_straggler(n: int) -> Trace:
    arrival_s = np.append(np.zeros(n), 1000.0)
    return Trace("burst", arrival_s, np.full(n + 1, 200), np.full(n + 1, 20))


def test_the_pilot_keeps_the_span_of_the_trace():
    trace = burst_and_a_straggler(5000)
    asked = question(trace, "ttft=60s")
    context = Context.of(asked)
    assert len(context.pilot) == PILOT_REQUESTS
    assert context.pilot.span_s == trace.span_s
    assert answer(asked).ranked


def test_the_pilot_does_not_depend_on_the_seed():
    trace = poisson(3.0, 3000, 100, 10, seed=1)
    one, other = (Context.of(replace(question(trace, "ttft=1s"), seed=seed)).pilot for seed in (0, -5))
    assert np.array_equal(one.arrival_s, other.arrival_s)


@pytest.mark.parametrize("slo", ["tpot=1s", "itl=1s", "itl:p99<=1s", "queue=10000s"])
def test_an_slo_that_limits_no_rate_ends_at_the_capacity_and_says_so(slo):
    result = answer(question(poisson(3.0, 300, 1000, 150, seed=1), slo))
    assert len(result.ranked) == 4
    for evaluation in result.ranked:
        assert evaluation.censored
        assert "does not limit the rate" in evaluation.notes[0]
        assert evaluation.to_dict(1)["notes"] == list(evaluation.notes)
        assert 10 < evaluation.goodput_rps < 1000
    devices = [evaluation.plan.devices for evaluation in result.ranked]
    assert devices[0] == 4
    assert devices[-1] == 1


def test_no_replay_is_larger_than_the_limit(monkeypatch):
    monkeypatch.setattr(copies, "MOST_REQUESTS", 20_000)
    trace = poisson(3.0, 300, 20, 1, seed=1)  # served at thousands a second
    context, screened = candidates(question(trace, "ttft=1s"))
    assert context.loads.requests_at(context.loads.highest_rps) <= 20_000 + len(trace)
    for candidate in screened:
        reached = evaluate(context, candidate)
        assert reached.censored
        assert reached.goodput_rps == context.loads.highest_rps
        assert reached.goodput_rps <= candidate.bounds.goodput_rps
        assert "not looked for above 67 req/s" in reached.notes[0]


def test_a_bound_holds_for_the_rates_that_are_tested(monkeypatch):
    """Where the copies end before the bound falls below their rates, the highest tested rate is the bound."""
    monkeypatch.setattr(copies, "MOST_REQUESTS", 20_000)
    context, screened = candidates(question(poisson(3.0, 300, 20, 1, seed=1), "ttft=1s"))
    assert {c.bounds.goodput_rps for c in screened} == {context.loads.highest_rps}


def test_nothing_due_is_no_bound():
    loads = GoodputLoads(poisson(3.0, 300, 20, 1, seed=1))
    assert GoodputBound(loads, (), ("device",)).of(1) == (math.inf, "")


def test_a_proven_ceiling_that_is_reached_is_said_to_be_one():
    context, screened = candidates(question(poisson(3.0, 300, 1000, 150, seed=1), "ttft=1s"))
    low = replace(screened[0], bounds=replace(screened[0].bounds, goodput_rps=4.0))
    reached = evaluate(context, low)
    assert (reached.goodput_rps, reached.censored) == (4.0, True)
    assert "highest rate that the plan" in reached.notes[0]


def test_a_goodput_below_the_offered_rate_is_explained():
    """Twenty requests at once are served in time; two thousand at that rate are not."""
    result = answer(question(poisson(1000.0, 20, 500, 100, seed=1), "ttft=2s"))
    assert result.ranked
    for evaluation in result.ranked:
        assert evaluation.goodput_rps < 900
        assert "below the offered rate" in evaluation.notes[0]
        assert "only 20 requests" in evaluation.notes[0]


def late_giants() -> Trace:
    """Many small requests at once, then some that nobody serves in time, 100 s apart."""
    arrival_s = np.concatenate([np.zeros(1950), 1000.0 + 100 * np.arange(50)])
    return Trace("giants", arrival_s, np.append(np.full(1950, 20), np.full(50, 120_000)), np.full(2000, 1))


def test_a_plan_whose_warm_up_holds_all_that_is_in_time_has_no_goodput_and_says_so():
    asked = question(late_giants(), "ttft=1s@0.9", cluster=catalog.cluster("2xh100-sxm"))
    result = answer(asked)
    assert result.ranked == ()
    dropped = [d for d in result.dropped if d.cause == "goodput"]
    assert len(dropped) == 3
    for plan in dropped:
        assert "goodput" in plan.reason or "at no rate" in plan.reason
        assert "attainment 0." not in plan.reason.split("(")[0]


def test_why_names_the_limit_with_the_least_margin():
    base = summary_of()
    slo = parse_slo("ttft:p50<=1s;tpot:p99<=50ms")
    missed = replace(base, slo=replace(base.slo, by_limit={"ttft": 0.6, "tpot": 0.95}))
    assert "tpot is the first limit to go (95.0% within)" in what_binds(missed, slo).line


@pytest.mark.parametrize("tokens", [10_000_000, 130_000])
def test_requests_that_are_too_long_are_named_as_that(tokens):
    trace = poisson(3.0, 40, 200, 20, seed=1)
    long = np.where(np.arange(40) % 3 == 0, tokens, trace.input_tokens)
    result = answer(question(trace.with_columns(input_tokens=long), "ttft=10s", cluster=catalog.cluster("1xl40s")))
    assert result.ranked == ()
    for dropped in result.dropped:
        assert type(dropped.miss) is float
    if tokens > 131_072:
        why = "14 of 40 requests are rejected: 14 longer than the context of 131,072 tokens"
        assert why in result.dropped[0].reason


def test_a_ranked_plan_has_its_itl_percentiles():
    best = answer(question(poisson(3.0, 300, 1000, 150, seed=1), "ttft=1s")).ranked[0]
    assert isinstance(best, Evaluation)
    assert best.summary["itl_s"]["p50"] > 0
