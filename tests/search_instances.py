"""Small random questions on which every plan can be replayed: of one pool, of several, with images, on two kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from unittest.mock import patch

import numpy as np

from apexsim.metrics.attainment import attainment
from apexsim.scenario import replay
from apexsim.search.combinations import families
from apexsim.search.evaluate import evaluate, prepare_candidate
from apexsim.search.executors import Serial
from apexsim.search.figures import FIGURES, Figure
from apexsim.search.outcome import Candidate, Dropped, Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import Context, screen
from apexsim.search.race import TOLERANCE
from apexsim.search.trials import Trials
from apexsim.spec.catalog import cluster
from apexsim.spec.slo import parse_slo
from apexsim.workload.trace import Trace
from apexsim.workload.visual import has_images

SLOS = ("ttft=1s,tpot=60ms@0.9", "e2e=8s@0.8", "ttft:p90<=500ms;tpot:p80<=40ms", "ttft=2s,itl=300ms@0.85")
SHORT, SHORTER = (300, 20.0), (100, 6.0)
"""Requests and seconds of a goodput run at least."""


class ShortGoodput:
    """Goodput runs of fewer requests than a user gets: the argument of a bound holds for any length."""

    def __init__(self, least: tuple[int, float] = SHORT) -> None:
        self._least = least

    def __enter__(self) -> None:
        modules = ("apexsim.metrics.goodput", "apexsim.search.copies")
        values = dict(zip(("MIN_REQUESTS", "MIN_SPAN_S"), self._least, strict=True))
        self._patches = [patch(f"{module}.{name}", value) for module in modules for name, value in values.items()]
        for each in self._patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()


def drawn_trace(seed: int, n: int = 100) -> Trace:
    rng = np.random.default_rng(seed)
    rate = float(rng.choice([1.0, 3.0, 8.0]))
    return Trace(
        name=f"drawn-{seed}",
        arrival_s=np.cumsum(rng.gamma(0.7, 1 / (0.7 * rate), n)),
        input_tokens=np.maximum(1, rng.lognormal(6.5, 1.0, n)).astype(np.int64),
        output_tokens=np.maximum(1, rng.lognormal(4.0, 0.8, n)).astype(np.int64),
    )


def instance(seed: int) -> Problem:
    """Up to a dozen plans that fit, of one pool or two."""
    rng = np.random.default_rng(1000 + seed)
    where = ("4xh100-sxm", "4xl40s", "2x2xa100-sxm-80gb", "2xh100-sxm+2xl40s")[seed % 4]
    space = {
        "tp": [1, 2], "pp": [1], "replicas": [1, 2], "weights": ["bf16"], "kv_cache": ["bf16"],
        "max_num_batched_tokens": [int(rng.choice([1024, 8192]))], "max_num_seqs": [int(rng.choice([8, 64]))],
        "disaggregated": {
            "prefill": {"tp": [1], "max_num_batched_tokens": [int(rng.choice([2048, 8192]))]},
            "decode": {"tp": [int(rng.choice([1, 2]))], "max_num_seqs": [int(rng.choice([16, 128]))]},
            "transfer": {
                "first_token": str(rng.choice(["prefill", "decode"])), "mode": str(rng.choice(["pull", "push"])),
            },
        },
    }  # fmt: skip
    return make_problem(
        ("Llama-3.1-8B", "Qwen3-14B")[int(rng.integers(2))], cluster(where), drawn_trace(seed),
        parse_slo(SLOS[int(rng.integers(len(SLOS)))]), space=space, price_usd_per_hour=2.0 if seed % 2 else None,
        carbon_g_per_kwh=400.0,
    )  # fmt: skip


RUSH = 9
"""The seed of questions of a thousand requests at once, which most plans provably cannot serve."""


def rushed(seed: int) -> tuple[Trace, float | None]:
    """(a trace, its rate)."""
    return (drawn_trace(seed, 1500), 600.0) if seed == RUSH else (drawn_trace(seed, 60), None)


def image_instance(seed: int) -> Problem:
    """Plans that encode where they prefill, and such with units that only encode, before one pool or two."""
    rng = np.random.default_rng(2000 + seed)
    trace, rate_rps = rushed(seed)
    trace = trace.with_columns(
        images=np.maximum(0, rng.integers(-2, 3 + 2 * (seed % 4), len(trace))),
        input_tokens=np.minimum(trace.input_tokens, 1500),
    )
    two_kinds, both = seed == 7, seed % 3 > 0
    space = {
        "tp": [1], "pp": [1], "replicas": [1, 2] if seed == 4 else [1], "weights": ["bf16"], "kv_cache": ["bf16"],
        "max_num_batched_tokens": [int(rng.choice([2048, 8192]))], "max_num_seqs": [int(rng.choice([8, 64]))],
        "encode": {"replicas": [1, 2], "encode_batch": [int(rng.choice([1, 3, 16]))], "irp": [bool(seed % 2)]},
        "disaggregated": {"prefill": {"max_num_batched_tokens": [8192]}, "decode": {"max_num_seqs": [64]}}
        if both and not two_kinds else None,
        "vision": bool(seed % 5), "engine_version": ("0.6.1", None)[seed % 2], "mixed": {} if two_kinds else None,
    }  # fmt: skip
    return make_problem(
        "MiniCPM-V-2.6", cluster("1xh100-sxm+2xl40s" if two_kinds else "4xa100-sxm-80gb"), trace,
        parse_slo(("ttft=3s,tpot=100ms@0.9", "e2e=12s@0.8", "ttft:p90<=2s;tpot:p80<=80ms")[seed % 3]),
        rate_rps=rate_rps or (0.5, 6.0, 1.0, 12.0)[seed % 4], space=space, price_usd_per_hour=2.0,
        carbon_g_per_kwh=400.0,
    )  # fmt: skip


def mixed_instance(seed: int) -> Problem:
    """Pools that serve on two kinds of devices at once, beside those on one."""
    rng = np.random.default_rng(3000 + seed)
    where = ("2xh100-sxm+2xl40s", "1xh200-sxm+2xa100-sxm-80gb", "2xh100-sxm+1xh200-sxm")[seed % 3]
    space = {
        "tp": [1, 2] if seed == 5 else [1], "pp": [1], "replicas": [1, 2], "weights": ["bf16"], "kv_cache": ["bf16"],
        "max_num_batched_tokens": [int(rng.choice([1024, 8192]))], "max_num_seqs": [int(rng.choice([8, 64]))],
        "router": str(rng.choice(["least-loaded", "round-robin", "join-shortest-queue"])), "mixed": {},
        "disaggregated": None,
    }  # fmt: skip
    trace, rate_rps = rushed(seed)
    if seed % 4 == 0:  # some longer than the KV cache of some of the devices
        long = np.arange(len(trace)) % 23 == 5
        trace = trace.with_columns(input_tokens=np.where(long, 90_000, trace.input_tokens))
    return make_problem(
        ("Llama-3.1-8B", "Qwen3-14B")[int(rng.integers(2))], cluster(where), trace,
        parse_slo(SLOS[int(rng.integers(len(SLOS)))]), rate_rps=rate_rps, space=space,
        price_usd_per_hour=2.0 if seed % 3 < 2 else None, carbon_g_per_kwh=400.0,
    )  # fmt: skip


def drawn_axes(seed: int) -> tuple[Figure, ...]:
    """Two figures or more, up to all, in any order: axes of a Pareto front."""
    rng = np.random.default_rng(seed)
    figures = list(FIGURES.values())
    return tuple(figures[i] for i in rng.permutation(len(figures))[: rng.integers(2, len(figures) + 1)])


@cache
def exhaustive(
    seed: int, make: Callable[[int], Problem] = instance
) -> tuple[Problem, tuple[Candidate, ...], dict[str, Evaluation | None], tuple[Dropped, ...]]:
    """(the question, its candidates, what each of them reaches, what the screening dropped)."""
    with ShortGoodput(SHORT if make is instance else SHORTER):
        question = make(seed)
        context = Context.of(question)
        screened = [outcome for family in families(question.plans()) for outcome in screen(context, family)]
        candidates = tuple(outcome for outcome in screened if isinstance(outcome, Candidate))
        done = {c.id: evaluate(context, c) for c in candidates}
    truth = {name: e if isinstance(e, Evaluation) else None for name, e in done.items()}
    return question, candidates, truth, tuple(o for o in screened if not isinstance(o, Candidate))


def hold_bounds(question: Problem, candidates: list[Candidate], truth: dict[str, Evaluation | None],
                dropped: list[Dropped]) -> None:  # fmt: skip
    """No plan is better than its bounds, and who is dropped by them misses the SLO."""
    for candidate in candidates:
        reached = truth[candidate.id]
        if reached is not None:
            for objective in FIGURES.values():
                best, value = objective.bound(candidate.bounds, candidate.plan.devices), objective.value(reached)
                assert objective.loss(best) <= objective.loss(value), (objective.name, candidate.id)
    for outcome in dropped:
        if outcome.cause == "slo":
            assert not attainment(replay(prepare_candidate(outcome.plan), question.trace), question.slo).met


def hold_tolerance(found, feasible, goals):
    """The best of what a race replayed is as good as the best of all."""
    for goal in goals:
        values = [[goal.loss(goal.value(e)) for e in some] for some in (found, feasible)]
        best, true = (min(each, default=float("inf")) for each in values)
        assert best <= true + TOLERANCE * abs(true) or best == true, goal.name


def run_race(race, context, truth, known, least=SHORT):
    """Ids of the plans that a race replays in full, in order; trials are kept in ``known``."""
    with ShortGoodput(least):
        return _race(race, context, truth, known)


def _race(race, context, truth, known):
    problem = context.problem
    race.at(
        problem.rate_rps, problem.slo.target, apart=not has_images(problem.trace), usd_per_hour=problem.usd_per_hour
    ).seeds = 1
    trials, order = Trials(context, Serial()), []
    while True:
        while wanted := race.trials():
            new = [request for request in wanted if request not in known]
            known.update(zip(new, trials.make(new), strict=True))
            race.tried([known[request] for request in wanted])
        if not (wave := race.ask()):
            return order
        race.tell({c.id: truth[c.id] for c in wave})
        order += [c.id for c in wave]
