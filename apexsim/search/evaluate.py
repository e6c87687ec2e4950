"""One plan, replayed: does it meet the SLO at the search's rate, what is its goodput, what binds it.

Pure in its arguments: the same plan of the same problem gives the same evaluation in any process and after any
other plan. What a process compiled last is kept, because plans that differ only in replicas follow one another.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from apexsim.cost.memory import DoesNotFit
from apexsim.metrics.attainment import attainment
from apexsim.metrics.goodput import WARMUP, Goodput, goodput, goodput_trace
from apexsim.metrics.summary import Prices, Summary
from apexsim.scenario import Prepared, measure_goodput, prepare, replay, run
from apexsim.search.outcome import Candidate, Dropped, Evaluation
from apexsim.search.prune import Context
from apexsim.search.why import what_binds
from apexsim.spec.plan import Plan
from apexsim.workload.transform import at_rate

HIGHEST_RATE = 1000.0
"""Times the search's rate: where no bound is known, goodput is not looked for beyond, and is then censored."""

PILOT_TOLERANCE = 0.08


def evaluate_all(context: Context, candidates: Sequence[Candidate]) -> list[Evaluation | Dropped]:
    """Each of the candidates; one that crashes is dropped with its last line, and the others go on."""
    outcomes: list[Evaluation | Dropped] = []
    for candidate in candidates:
        try:
            outcomes.append(evaluate(context, candidate))
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            outcomes.append(Dropped(candidate.plan, "failed", f"crashed: {last}"))
    return outcomes


def evaluate(context: Context, candidate: Candidate) -> Evaluation | Dropped:
    """Replay a plan at the search's rate, then look for its goodput below its bound."""
    problem, plan = context.problem, candidate.plan
    prepared = _prepared(plan)
    prices = Prices(problem.price_usd_per_hour, problem.carbon_g_per_kwh)
    own = run(
        prepared, problem.trace, slo=problem.slo, prices=prices, seed=problem.seed, with_itl=False
    ).summary
    replayed = len(problem.trace)
    if not own.slo.met:
        return _missed(plan, own, problem.rate_rps, float(own.slo.attainment or 0.0), replayed)
    highest = min(candidate.bounds.goodput_rps, HIGHEST_RATE * problem.rate_rps)
    pilot = _pilot(context, prepared, highest)
    found = measure_goodput(
        prepared, problem.trace, problem.slo, highest, guess_rps=pilot.rps, seed=problem.seed
    )
    replayed += pilot.evaluations * len(context.pilot)
    replayed += sum(context.loads.requests_at(rate) for rate, _ in found.tested)
    if found.rps is None:
        return _missed(plan, own, found.tested[-1][0], found.attainment, replayed)
    best_trace = goodput_trace(problem.trace, found.rps)
    best = run(
        prepared, best_trace, slo=problem.slo, prices=prices, seed=problem.seed, warmup=WARMUP, with_itl=False
    ).summary
    binding = what_binds(best)
    return Evaluation(
        plan=plan,
        goodput_rps=found.rps,
        censored=found.censored,
        at_goodput={
            "attainment": best.slo.attainment,
            "j_per_output_token": best.energy.j_per_output_token,
            "usd_per_million_output_tokens": best.cost.usd_per_million_output_tokens,
        },
        summary=_without_wall_time(own),
        binds=binding.resource,
        why=binding.line,
        tested=found.tested,
        requests_simulated=replayed + len(best_trace),
    )


def prepare_candidate(plan: Plan) -> Prepared:
    """The compiled plan of a candidate: it is known to fit."""
    prepared = prepare(plan)
    assert not isinstance(prepared, DoesNotFit), f"{plan.id} passed the screening but does not fit"
    return prepared


def _prepared(plan: Plan) -> Prepared:
    pool = plan.pools[0]
    alone = plan.model_copy(update={"pools": (pool.model_copy(update={"replicas": 1}),)})
    return replace(_compiled(alone), plan=plan)


@lru_cache(maxsize=16)
def _compiled(plan: Plan) -> Prepared:
    return prepare_candidate(plan)


def _pilot(context: Context, prepared: Prepared, highest_rps: float) -> Goodput:
    """Where to look for the goodput first: that of a thinned trace, found to a few per cent.

    It depends on the plan alone, and where attainment falls steadily it changes only how long the search takes.
    """
    problem, trace = context.problem, context.pilot

    def attainment_at(rate_rps: float) -> float:
        result = replay(prepared, at_rate(trace, rate_rps), seed=problem.seed)
        return attainment(result, problem.slo, WARMUP).attainment or 0.0

    return goodput(attainment_at, problem.slo.target, highest_rps, tolerance=PILOT_TOLERANCE)


def _missed(plan: Plan, summary: Summary, rate_rps: float, attainment: float, replayed: int) -> Dropped:
    target = summary.slo.target or 1.0
    reason = f"attainment {attainment:.3f} < {target:g} at {rate_rps:.4g} req/s; {what_binds(summary).line}"
    return Dropped(plan, "slo", reason, target - attainment, replayed)


def _without_wall_time(summary: Summary) -> dict[str, object]:
    """The summary JSON; how long the replay took is left out, for it is all that differs between two runs."""
    data = summary.to_dict()
    data["simulation"]["wall_s"] = None
    return data
