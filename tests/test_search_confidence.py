"""Intervals, chances and ties of a ranking: known truth, symmetry, common draws, and no hanging on workers."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from apexsim.cost.held_out import held_out
from apexsim.cost.kernels import CalibratedKernels
from apexsim.metrics.by_window import count_by_window, shares_needed, windows_of
from apexsim.metrics.goodput import WARMUP, goodput_trace
from apexsim.scenario import replay
from apexsim.search.confidence import Draws, _verdicts, chances, draw, interval, judge, tied_groups
from apexsim.search.doubt import doubt_of, operators_by_part
from apexsim.search.evaluate import prepare_candidate
from apexsim.search.executors import Processes, Serial
from apexsim.search.figures import FIGURES
from apexsim.search.intervals import crossing, goodput_draws, resolved_rps, spare_share, time_draws, window_draws
from apexsim.search.problem import make_problem
from apexsim.search.run import search
from apexsim.search.windows import Sample, sample
from apexsim.spec import catalog
from apexsim.workload.synthetic import poisson

SPACE = {
    "tp": [2], "pp": [1], "replicas": [1, 2], "weights": ["fp8"], "kv_cache": ["bf16", "fp8"],
    "max_num_batched_tokens": [8192], "max_num_seqs": [128],
}  # fmt: skip


def problem_of(objective: str = "goodput", slo: str = "ttft=2s,tpot=100ms@0.9", carbon: float | None = None):
    return make_problem(
        "Llama-3.1-70B", catalog.cluster("4xh100-sxm"), poisson(2.0, 300, 600, 100, seed=4), catalog.slo(slo),
        objective=objective, space=SPACE, carbon_g_per_kwh=carbon,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return search(problem_of(), Serial())


@pytest.fixture(scope="module")
def judged(found):
    return judge(found.problem, found.ranked, found.pareto, Serial())


def synthetic(rng: np.random.Generator, rates: np.ndarray, windows: int = 20, each: int = 100) -> Sample:
    """Requests that keep the SLO with a probability that falls with ln rate, windows that are better and worse days."""
    luck = rng.normal(0.0, 0.3, windows)
    odds = 2.2 - 6.0 * np.log(rates)[:, None] + luck
    kept = rng.binomial(each, 1 / (1 + np.exp(-odds))).astype(float)
    counted = np.full((len(rates), windows), float(each))
    return Sample({}, np.zeros(1), rates, counted, kept[:, None, :, None])


def test_94_the_interval_covers_the_truth_of_a_known_process():
    rng = np.random.default_rng(1)
    rates, target = np.exp(np.linspace(-0.4, 0.4, 9)), np.array([0.9])
    odds = 2.2 - 6.0 * np.log(rates)[:, None] + rng.normal(0.0, 0.3, (1, 200_000))
    share = np.mean(1 / (1 + np.exp(-odds)), axis=1)
    truth = float(np.exp(crossing(np.log(rates), spare_share(share, target))))
    weights, inside, runs = window_draws(20, seed=0, draws=500), 0, 200
    for _ in range(runs):
        counts = synthetic(rng, rates)
        own = crossing(np.log(rates), spare_share(counts.kept[:, 0, :, 0].sum(1) / counts.counted.sum(1), target))
        low, high = interval(np.exp(own) * goodput_draws(counts, target, weights, np.zeros(500)))
        inside += low <= truth <= high
    assert 0.88 <= inside / runs <= 0.99


def test_the_crossing_lies_between_the_rates_around_it():
    log_rates = np.log([1.0, 2.0, 3.0])
    assert np.exp(crossing(log_rates, np.array([1.0, 0.5, -0.5]))) == pytest.approx(np.sqrt(6.0))
    assert np.exp(crossing(log_rates, np.array([1.0, 1.0, 1.0]))) == pytest.approx(3.0)
    assert np.exp(crossing(log_rates, np.array([-1.0, -1.0, -2.0]))) == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
def test_a_draw_that_holds_no_request_that_counts_says_nothing():
    """All but the last window come within the warm-up: a third of the draws is without it."""
    counted, kept, shares = np.zeros((5, 20)), np.zeros((5, 1, 20, 1)), (0.99, 0.95, 0.92, 0.85, 0.7)
    counted[:, -1], kept[:, 0, -1, 0] = 45.0, 45.0 * np.array(shares)
    late = Sample({}, np.zeros(1), 10.0 * np.exp(np.linspace(-0.16, 0.16, 5)), counted, kept)
    weights = window_draws(20, 0)
    assert 0.3 < (weights[:, -1] == 0).mean() < 0.4
    assert goodput_draws(late, np.array([0.9]), weights, np.zeros(len(weights))) == pytest.approx(1.0)


def test_a_share_that_is_just_enough_is_enough():
    assert spare_share(np.array([0.9]), np.array([0.9]))[0] == 0.0
    assert spare_share(np.array([0.8999]), np.array([0.9]))[0] < 0
    assert spare_share(np.array([1.0]), np.array([1.0]))[0] == 0.0
    assert spare_share(np.array([0.99999]), np.array([1.0]))[0] < 0


def test_chances_are_symmetric_and_add_up(found):
    draws = drawn(found)
    names = list(draws)
    for one in names:
        for other in names:
            mine, theirs = (chances(draws[a], draws[b], FIGURES["goodput"]) for a, b in ((one, other), (other, one)))
            assert (mine.beats, mine.ties) == (theirs.loses, theirs.ties)
            assert mine.beats + theirs.beats + mine.ties == pytest.approx(1.0)


def drawn(found) -> dict[str, Draws]:
    weights = window_draws(20, found.problem.seed)
    return {e.id: draw(found.problem, e, sample(found.problem, e), weights) for e in found.ranked}


def test_a_plan_ties_with_itself(found):
    one = drawn(found)[found.ranked[0].id]
    assert chances(one, one, FIGURES["goodput"]).ties == 1.0


def toys(**goodput: list[float]) -> tuple[list[SimpleNamespace], dict[str, Draws]]:
    """Plans by name with these draws, best first."""
    draws = {name: Draws(np.array(values), None, 0.0) for name, values in goodput.items()}
    return [SimpleNamespace(id=name) for name in goodput], draws


def test_a_chain_of_small_steps_is_no_tie():
    """b and c are tied with the plan before them, but a beats c in nine of ten draws: c begins a group."""
    steps = np.arange(10.0)
    plans, draws = toys(a=[*(steps + 2)], b=[*(steps + 1)][::-1], c=[*steps[:9], 99.0], d=[*steps[:9], 99.0])
    goodput = FIGURES["goodput"]
    assert chances(draws["a"], draws["c"], goodput).beats == 0.9
    assert chances(draws["b"], draws["c"], goodput).beats < 0.9
    assert tied_groups(goodput, plans, draws) == {"a": ("a", "b"), "b": ("a", "b"), "c": ("c", "d"), "d": ("c", "d")}


def test_of_an_objective_that_is_least_at_best_less_wins_and_goodput_decides_between_equals():
    one = Draws(np.array([5.0, 5.0, 5.0]), np.array([1.0, 2.0, 3.0]), 0.0)
    other = Draws(np.array([4.0, 4.0, 6.0]), np.array([2.0, 2.0, 3.0 * (1 + 1e-12)]), 0.0)
    found = chances(one, other, FIGURES["cost"])
    assert (found.beats, found.loses, found.ties) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0)


def test_only_neighbours_of_the_ranking_are_held_against_each_other():
    """What was judged for its place on the front may stand far behind: then there is no next one."""
    plans, draws = toys(a=[3.0, 3.0], b=[2.0, 4.0], z=[1.0, 1.0])
    verdicts = _verdicts(FIGURES["goodput"], plans, draws, {"a": 1, "b": 2, "z": 9})
    assert (verdicts["a"].next_one.beats, verdicts["b"].next_one, verdicts["z"].next_one) == (0.5, None, None)
    assert (verdicts["b"].tied_rank, verdicts["b"].tied_with) == (1, ("a",))
    assert (verdicts["z"].tied_rank, verdicts["z"].tied_with) == (9, ())


def test_twice_the_replicas_beat(found, judged):
    draws = drawn(found)
    two, one = (next(name for name in draws if name.startswith(f"{n}xtp2-fp8-kvfp8")) for n in (2, 1))
    assert chances(draws[two], draws[one], FIGURES["goodput"]).beats > 0.99
    assert judged.verdicts[one].tied_rank > judged.verdicts[two].tied_rank


def test_the_undrawn_counts_give_the_goodput_of_the_ranking(found):
    counts = sample(found.problem, found.ranked[0])
    same = goodput_draws(counts, shares_needed(found.problem.slo), np.ones((1, 20)), np.zeros(1))
    assert same[0] == 1.0
    assert resolved_rps(found.ranked[0], 0.9) == pytest.approx(found.ranked[0].goodput_rps, rel=0.01)
    assert resolved_rps(found.ranked[0], 0.9) >= found.ranked[0].goodput_rps


def test_intervals_hold_the_goodput_and_slower_steps_lower_it(found, judged):
    for evaluation in found.ranked:
        low, high = judged.verdicts[evaluation.id].goodput_ci
        assert low < evaluation.goodput_rps < high
    counts = sample(found.problem, found.ranked[0])
    c = np.linspace(-0.2, 0.2, 9)
    slower = goodput_draws(counts, np.array([0.9]), np.ones((9, 20)), c)
    assert np.all(np.diff(slower) < 0)


def test_factors_of_time_need_no_replay():
    """A plan that is c times as slow at R is the plan at c · R, on a slower clock with the limits as they are."""
    problem = problem_of()
    plan = search(problem, Serial()).ranked[0].plan
    prepared, windows = prepare_candidate(plan), windows_of(300, 20)
    result = replay(prepared, goodput_trace(problem.trace, 12.0))
    counts = count_by_window(result, problem.slo, windows, (1.0, 1.25), WARMUP)
    instants = ("arrival_s", "start_s", "first_token_s", "finish_s", "itl_max_s")
    slower = replace(result.requests, **{name: 1.25 * getattr(result.requests, name) for name in instants})
    again = count_by_window(replace(result, requests=slower), problem.slo, windows, (1.0,), WARMUP)
    assert np.array_equal(again.kept[0], counts.kept[1])


def test_94_who_counts_changes_nothing(found, judged):
    with Processes(2) as workers:
        assert judge(found.problem, found.ranked, found.pareto, workers) == judged


@pytest.mark.parametrize("objective", ["attainment", "energy", "cost", "latency", "carbon"])
def test_every_objective_is_judged(objective):
    problem = problem_of(objective, carbon=400.0)
    found = search(problem, Serial())
    judged = judge(problem, found.ranked, found.pareto, Serial())
    for evaluation in found.ranked:
        low, high = judged.verdicts[evaluation.id].objective_ci
        value = problem.objective.scale * problem.objective.value(evaluation)
        assert low <= value * 1.02 <= high * 1.0404


@pytest.mark.parametrize("slo", ["ttft:p90<=2s;tpot:p95<=100ms", "itl:p99<=200ms;ttft:p90<=2s"])
def test_clauses_are_judged(slo):
    problem = problem_of(slo=slo)
    found = search(problem, Serial())
    judged = judge(problem, found.ranked[:1], (), Serial())
    low, high = judged.verdicts[found.ranked[0].id].goodput_ci
    assert 0 < low <= high


def test_a_plan_that_cannot_be_counted_is_said(found, monkeypatch):
    # by the module itself: its package has a function of the name that a dotted path would meet first
    monkeypatch.setattr(sys.modules[judge.__module__], "sample", lambda problem, evaluation: 1 / 0)
    broken = judge(found.problem, found.ranked, (), Serial())
    assert not broken.verdicts
    assert set(broken.failures.values()) == {"ZeroDivisionError: division by zero"}


def test_plans_of_equal_kernels_are_wrong_together(found):
    doubts = {e.id: doubt_of(prepare_candidate(e.plan), e.summary) for e in found.ranked}
    one, two = doubts["1xtp2-fp8-kvfp8-t8192-s128"], doubts["2xtp2-fp8-kvfp8-t8192-s128"]
    other = doubts["2xtp2-fp8-kvbf16-t8192-s128"]
    assert set(one) == set(two)
    gemm = next(name for name in one if name.startswith("kernels gemm"))
    attention = next(name for name in one if name.startswith("kernels attention"))
    assert gemm in other
    assert attention not in other
    apart = time_draws(two, 0) - time_draws(other, 0)
    assert 0 < np.std(apart) < np.std(time_draws(two, 0))


def test_the_error_of_kernels_is_what_their_files_hold(found):
    prepared = prepare_candidate(found.ranked[0].plan)
    kernels = CalibratedKernels(prepared.profile, "vllm")
    parts = operators_by_part(prepared)
    assert {"gemm", "attention", "communication"} <= set(parts)
    fits = kernels.file("gemm", "fp8").fits
    expected = sum(f.rows * f.held_out["median"] for f in fits) / sum(f.rows for f in fits)
    linear = [op for op in parts["gemm"] if getattr(op, "weights", "") == "fp8"]
    assert held_out(kernels, linear).median == pytest.approx(expected)
