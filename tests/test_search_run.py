"""The whole search on real cost models: the same winner as replaying every plan, whoever does the work."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from apexsim.metrics.attainment import attainment
from apexsim.report.search_results import search_for
from apexsim.scenario import replay
from apexsim.search import race
from apexsim.search.combinations import families, plans
from apexsim.search.evaluate import evaluate, prepare_candidate
from apexsim.search.executors import executor
from apexsim.search.figures import FIGURES
from apexsim.search.journal import Journal, read
from apexsim.search.miss import nearest_miss
from apexsim.search.outcome import Bounds, Candidate, Evaluation
from apexsim.search.pareto import front, rank
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import Context, screen
from apexsim.search.run import search
from apexsim.search.space import Space
from apexsim.search.strategies import Grid
from apexsim.spec.catalog import cluster
from apexsim.spec.slo import parse_slo
from apexsim.testing.strategy import Toy, play
from apexsim.workload.trace import Trace
from tests.search_instances import ShortGoodput

SPACE = Space(
    tp=(1, 2, 4), pp=(1, 2), replicas=(1, 2, 4), weights=("bf16", "fp8"), kv_cache=("bf16",),
    max_num_batched_tokens=(2048,), max_num_seqs=(16, 256),
)  # fmt: skip

LONG = (2, 3, 8)
"""Seeds of questions whose goodput runs are long; what an exhaustive search finds holds of shorter ones, too."""

SMALL = SPACE.model_copy(update={"tp": (1, 2), "pp": (1,), "replicas": (1, 2), "weights": ("fp8",)})


def small_trace(seed: int, n: int = 250, rate: float = 4.0) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        name=f"drawn-{seed}",
        arrival_s=np.cumsum(rng.gamma(0.5, 2 / rate, n)),
        input_tokens=np.maximum(1, rng.lognormal(6.0, 1.0, n)).astype(np.int64),
        output_tokens=np.maximum(1, rng.lognormal(4.5, 0.8, n)).astype(np.int64),
    )


def problem(seed: int = 0, **changes: object) -> Problem:
    rng = np.random.default_rng(seed)
    slo = ("ttft=1s,tpot=60ms@0.9", "e2e=8s@0.8", "ttft:p90<=500ms;tpot:p80<=40ms")[seed % 3]
    given = {
        "model": ("Llama-3.1-8B", "Qwen3-14B", "CodeLlama-34B")[int(rng.integers(3))],
        "cluster": cluster(("4xh100-sxm", "4xl40s", "4xa100-sxm-80gb")[int(rng.integers(3))]),
        "trace": small_trace(seed, rate=float(rng.choice([1.0, 4.0, 12.0]))),
        "slo": parse_slo(slo),
        "space": SPACE,
        "price_usd_per_hour": 2.0,
        "carbon_g_per_kwh": 400.0,
    }
    return make_problem(**(given | changes))


def small_problem(**changes: object) -> Problem:
    """Eight plans of a model that is slow enough for the goodput runs to be short."""
    given = {"model": "Llama-3.1-70B", "cluster": cluster("4xh200-sxm"), "space": SMALL}
    return problem(**(given | changes))


@pytest.mark.parametrize("seed", range(10))
def test_pruning_keeps_the_winner_of_every_objective_and_the_front(seed):
    question = problem(seed)
    context = Context.of(question)
    space = plans(question.space, question.model_name, question.cluster)
    screened = [outcome for family in families(space) for outcome in screen(context, family)]
    candidates = tuple(outcome for outcome in screened if isinstance(outcome, Candidate))
    with ShortGoodput() if seed in LONG else nullcontext():
        truth = {c.id: evaluate(context, c) for c in candidates}
    truth = {name: e if isinstance(e, Evaluation) else None for name, e in truth.items()}
    everything = Toy(candidates, truth)

    for outcome in screened:  # what was screened out by a bound really misses the SLO
        if not isinstance(outcome, Candidate) and outcome.cause == "slo":
            result = replay(prepare_candidate(outcome.plan), question.trace)
            assert not attainment(result, question.slo).met
    for candidate in candidates:  # and no bound is worse than what the plan reaches
        reached = truth[candidate.id]
        if reached is not None:
            for objective in FIGURES.values():
                bound = objective.bound(candidate.bounds, candidate.plan.devices)
                assert objective.loss(bound) <= objective.loss(objective.value(reached))
    for objective in FIGURES.values():
        asked = play(Grid(candidates, objective, keep=1, wave=4), everything)
        found = [truth[name] for name in asked if truth[name] is not None]
        best = [e.id for e in rank(everything.feasible, objective)[:1]]
        assert [e.id for e in rank(found, objective)[:1]] == best
        assert set(front(found)) == set(front(everything.feasible))
    if len(everything.feasible) > 8:  # these bounds are loose: with tighter ones most plans go, and no winner
        close = tuple(replace(c, bounds=near(truth[c.id]) if truth[c.id] else c.bounds) for c in candidates)
        grid = Grid(close, question.objective, keep=1, wave=4)
        asked = play(grid, everything)
        assert len(grid.dropped) > len(close) / 4
        assert set(front(everything.feasible)) <= set(asked)
        assert rank(everything.feasible, question.objective)[0].id in asked


def near(reached: Evaluation) -> Bounds:
    """True bounds, 2 % from what the plan reaches."""
    joules, dollars = (
        reached.at_goodput[key] / 1.02 for key in ("j_per_output_token", "usd_per_million_output_tokens")
    )
    return Bounds(goodput_rps=1.02 * reached.goodput_rps, latency_s=reached.summary["e2e_s"]["p50"] / 1.02,
                  j_per_output_token=joules, usd_per_million_output_tokens=dollars)  # fmt: skip


def same_but_for_the_wall_time(one: dict, other: dict) -> bool:
    one, other = json.loads(json.dumps(one)), json.loads(json.dumps(other))
    assert one["simulation"].pop("wall_s") > 0
    assert other["simulation"].pop("wall_s") > 0
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("strategy", ["grid", "race"])
def test_one_worker_and_two_give_identical_bytes(strategy, monkeypatch):
    monkeypatch.setattr(race, "SEEDS", 1)  # so that some of eight plans are left to be tried
    question = small_problem()
    one, two = (
        search(question, executor("process", workers), strategy_name=strategy).to_dict() for workers in (1, 2)
    )
    assert len(one["plans"]) > 1
    assert (one["simulation"]["plans_tried"] > 0) == (strategy == "race")
    assert same_but_for_the_wall_time(one, two)


def test_the_json_is_as_the_design_says():
    question = small_problem()
    result = search(question, executor("process", 1))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(data) == {"plans", "pruned", "pareto", "pareto_axes", "best_by", "trade", "simulation"}
    first = data["plans"][0]
    wanted = {"rank", "id", "plan", "goodput_rps", "goodput_rps_per_device", "censored", "at_goodput", "summary"}
    assert wanted <= set(first)
    assert set(first["at_goodput"]) == {"attainment", "j_per_output_token", "usd_per_million_output_tokens"}
    assert first["at_goodput"]["attainment"] >= 0.9
    assert [plan["rank"] for plan in data["plans"]] == list(range(1, len(data["plans"]) + 1))
    assert all(set(entry) == {"plan", "reason"} and entry["reason"] for entry in data["pruned"])
    assert set(data["pareto"]) <= {plan["id"] for plan in data["plans"]}
    simulation = data["simulation"]
    assert simulation["plans_considered"] == len(data["plans"]) + len(data["pruned"]) == len(
        list(plans(SMALL, "x", question.cluster))
    )
    assert simulation["requests_simulated"] > 2000 * len(data["plans"])


def test_ctrl_c_ranks_what_is_done():
    def stop(progress):
        if progress.stage == "replayed" and progress.done == 2:
            raise KeyboardInterrupt

    question = small_problem()
    result = search(question, executor("process", 1), on_progress=stop)
    assert result.interrupted
    assert 1 <= len(result.ranked) <= 2


def test_ctrl_c_while_an_entry_is_written_is_one_too(tmp_path, monkeypatch):
    """Pydantic wraps an interrupt that comes while it writes a plan; what is ranked is in the journal all the same."""

    def written(entry, **how):
        signal.raise_signal(signal.SIGINT)
        lines.append(entry)

    lines = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    journal = Journal(tmp_path / "journal.jsonl", {})
    monkeypatch.setattr(journal, "write", written)
    monkeypatch.setattr(sys.modules[search.__module__], "screen", partial(without_drops, screen))
    result = search(small_problem(), executor("process", 1), journal=journal)
    signal.signal(signal.SIGINT, before)
    assert result.interruption == "interrupted"
    assert [plan.id for plan in result.ranked] == [line["evaluated"]["id"] for line in lines]
    assert len(lines) == 1


def without_drops(screen, *given):
    return [outcome for outcome in screen(*given) if isinstance(outcome, Candidate)]


def test_ctrl_c_that_a_library_wraps_is_one_too(monkeypatch):
    monkeypatch.setattr(sys.modules[search.__module__], "evaluate_all", wrapped_interrupt)
    assert search(small_problem(), executor("process", 1)).interruption == "interrupted"


def wrapped_interrupt(*_, **__):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise ValueError("Error calling function") from error


def test_every_plan_is_in_the_journal_as_soon_as_it_is_done(tmp_path):
    seen = []

    def look(progress):
        seen.append((progress, len(read(tmp_path / "journal.jsonl"))))

    question = small_problem()
    report = search_for(question, out=tmp_path, workers=1, on_progress=look)
    replayed = [(progress.done, lines) for progress, lines in seen if progress.stage == "replayed"]
    assert all(lines >= done for done, lines in replayed)
    heading, *entries, last = read(tmp_path / "journal.jsonl")
    assert heading["search"] == question.fingerprint
    assert last == {"finished": True}
    assert len(entries) == report.result.considered
    assert {e["evaluated"]["id"] for e in entries if "evaluated" in e} == {e.id for e in report.result.ranked}


def test_a_plan_that_crashes_is_reported_and_the_others_go_on(monkeypatch):
    from apexsim.search import evaluate as module

    real = module.run

    def run(prepared, *args, **kwargs):
        if prepared.pool.tp == 2:
            raise ZeroDivisionError("a bug in one plan")
        return real(prepared, *args, **kwargs)

    monkeypatch.setattr(module, "run", run)
    result = search(small_problem(), executor("process", 1))
    failed = [dropped for dropped in result.dropped if dropped.cause == "failed"]
    assert failed
    assert all("ZeroDivisionError: a bug in one plan" in dropped.reason for dropped in failed)
    assert result.ranked
    assert all(evaluation.plan.pools[0].tp != 2 for evaluation in result.ranked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "Llama-3.1-405B"}, ["memory is short; the best attempt is", "tp2", "short by"]),
        ({"slo": parse_slo("ttft=1ms@0.9")}, ["the nearest is", "< 0.9 at"]),
        ({"space": SMALL.model_copy(update={"tp": (3,)})}, ["tp=3 does not divide"]),
    ],
)
def test_nothing_feasible_says_what_came_nearest_and_what_binds(changes, words):
    question = small_problem(**changes)
    result = search(question, executor("process", 1))
    assert result.ranked == ()
    for word in words:
        assert word in nearest_miss(result)


def test_the_search_rate_decides_what_is_feasible():
    slow = small_problem()
    fast = replace(slow, trace=slow.trace.with_columns(arrival_s=slow.trace.arrival_s / 6))
    few, many = (search(question, executor("process", 1)) for question in (fast, slow))
    assert {e.id for e in few.ranked} < {e.id for e in many.ranked}
