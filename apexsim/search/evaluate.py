"""One plan, replayed: does it meet the SLO at the search's rate, what is its goodput, what binds it.

Pure in its arguments: the same plan of the same problem gives the same evaluation in any process and after any
other plan. Shapes of pools are compiled once in a process, and shared between the plans that they stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apexsim.cost.memory import DoesNotFit
from apexsim.engine.result import ItlRuns, SimulationResult
from apexsim.metrics.attainment import attainment
from apexsim.metrics.goodput import TOLERANCE, WARMUP, Goodput, goodput, goodput_requests, goodput_trace
from apexsim.metrics.itl import itl_distribution
from apexsim.metrics.summary import Prices, Summary
from apexsim.scenario import Prepared, on_its_group, prepare, replay, run
from apexsim.search.ceiling import ceiling
from apexsim.search.measure import measure_goodput
from apexsim.search.mishaps import crashed, timed_out
from apexsim.search.outcome import Candidate, Dropped, Evaluation
from apexsim.search.part import alone, compiled, compiled_encoders
from apexsim.search.patience import FOREVER, Patience, TookTooLong
from apexsim.search.prune import Context
from apexsim.search.rejected import limits_of, too_long
from apexsim.search.why import what_binds
from apexsim.spec.plan import Plan, Pool
from apexsim.techniques.images import Encoders
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate

PILOT_TOLERANCE = 0.08
"""The pilot's rungs: its answer is only where the search begins, whose own first step is twice as long."""


def evaluate_all(
    context: Context, candidates: Sequence[Candidate], patience: Patience = FOREVER
) -> list[Evaluation | Dropped]:
    """Each of the candidates; one that crashes or takes too long is dropped with a line, and the others go on."""
    outcomes: list[Evaluation | Dropped] = []
    for candidate in candidates:
        try:
            with patience.limit():
                outcome = evaluate(context, candidate)
            outcomes.append(outcome)
        except TookTooLong:
            outcomes.append(Dropped(candidate.plan, "timeout", timed_out(patience.seconds)))
        except Exception as error:
            outcomes.append(Dropped(candidate.plan, "failed", crashed(error)))
    return outcomes


def evaluate(context: Context, candidate: Candidate) -> Evaluation | Dropped:
    """Replay a plan at the search's rate, then look for its goodput below its ceiling."""
    problem, plan = context.problem, candidate.plan
    prepared = prepared_of(context, plan)
    own, itl = _run(context, prepared, problem.trace)
    replayed = len(problem.trace)
    if not own.slo.met:
        return _missed(context, prepared, own, replayed)
    own = replace(own, itl_s=itl_distribution(itl))
    top = ceiling(context, prepared, candidate.bounds.goodput_rps)
    pilot = _pilot(context, prepared, top.rps)
    found, there = measure_goodput(
        prepared, problem.trace, problem.slo, top.rps, guess_rps=pilot.rps, seed=problem.seed
    )
    replayed += top.requests + pilot.evaluations * len(context.pilot)
    replayed += sum(context.loads.requests_at(rate) for rate, _ in found.tested)
    if found.rps is None:
        return _without_goodput(context, plan, own, found, replayed)
    best_trace = goodput_trace(problem.trace, found.rps)
    best, _ = _run(context, prepared, best_trace, warmup=WARMUP, result=there)
    binding = what_binds(best, problem.slo)
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
        requests_simulated=replayed,
        notes=_notes(problem.trace, found.rps, top.note if found.censored else ""),
    )


def prepare_candidate(plan: Plan) -> Prepared:
    """The compiled plan of a candidate: it is known to fit."""
    prepared = prepare(plan)
    assert not isinstance(prepared, DoesNotFit), f"{plan.id} passed the screening but does not fit"
    return prepared


def prepared_of(context: Context, plan: Plan) -> Prepared:
    """The plan made of its shapes, each compiled once."""
    parts = tuple(part_of(context, plan, pool) for pool in plan.pools if pool.role != "encode")
    if len(plan.pools) == 1:
        return replace(parts[0], plan=on_its_group(plan))
    first = parts[0]
    encode = next((_encoders(context, plan, pool) for pool in plan.pools if pool.role == "encode"), None)
    return Prepared(plan, first.model, first.profile, first.policy, first.compiled, parts, encode)


def part_of(context: Context, plan: Plan, pool: Pool) -> Prepared:
    """One pool of a plan by itself, as its share of the cluster holds it."""
    found = compiled(alone(context.problem, pool))
    assert not isinstance(found, DoesNotFit), f"{plan.id} passed the screening but does not fit"
    return replace(found, plan=_of_pool(plan, pool), policy=replace(found.policy, role=pool.role))


def _encoders(context: Context, plan: Plan, pool: Pool) -> Encoders:
    found = compiled_encoders(alone(context.problem, pool))
    assert not isinstance(found, DoesNotFit), f"{plan.id} passed the screening but does not fit"
    return replace(found, plan=_of_pool(plan, pool))


def _of_pool(plan: Plan, pool: Pool) -> Plan:
    return plan.model_copy(update={"pools": (pool,), "cluster": plan.cluster.only(pool.device)})


def _pilot(context: Context, prepared: Prepared, highest_rps: float) -> Goodput:
    """Where to look for the goodput first: that of a thinned trace, found to a few per cent.

    It depends on the plan alone, and where attainment falls steadily it changes only how long the search takes.
    """
    problem, trace = context.problem, context.pilot

    def attainment_at(rate_rps: float) -> float:
        result = replay(prepared, at_rate(trace, rate_rps), seed=problem.seed)
        return attainment(result, problem.slo, WARMUP).attainment or 0.0

    return goodput(attainment_at, problem.slo.target, highest_rps, tolerance=PILOT_TOLERANCE)


def _run(
    context: Context, prepared: Prepared, trace: Trace, warmup: float = 0.0, result: SimulationResult | None = None
) -> tuple[Summary, ItlRuns]:
    """The summary without its ITL percentiles, which only a feasible plan needs, and what they are made of."""
    problem = context.problem
    prices = Prices(problem.usd_per_device_hour(prepared.plan), problem.carbon_g_per_kwh)
    done = run(
        prepared, trace, slo=problem.slo, prices=prices, seed=problem.seed, warmup=warmup, with_itl=False, result=result
    )
    return done.summary, done.result.itl


def _notes(trace: Trace, goodput_rps: float, censored: str) -> tuple[str, ...]:
    """Why the goodput ends at the highest rate that was tried, and why it may be below the search's own rate."""
    notes = [censored] if censored else []
    if goodput_rps * (1 + TOLERANCE) < trace.rate_rps:
        short = len(trace) < goodput_requests(trace.rate_rps)
        length = f"the trace is only {len(trace):,} requests, {trace.span_s:.3g} s long" if short else ""
        why = length or f"the first {WARMUP:.0%} of the time is not counted for goodput"
        notes.append(f"goodput is below the offered rate of {trace.rate_rps:.4g} req/s: {why}")
    return tuple(notes)


def _missed(context: Context, prepared: Prepared, own: Summary, replayed: int) -> Dropped:
    """Not feasible: the SLO is missed at the rate of the search."""
    slo, reached = context.problem.slo, own.slo.attainment or 0.0
    rejected = (
        too_long(limits_of(part), part.policy, context.loads.lengths, slo) for part in prepared.parts or (prepared,)
    )
    binds = next(filter(None, rejected), "") or what_binds(own, slo).line
    short = f"attainment {reached:.3f} < {slo.target:g} at {context.problem.rate_rps:.4g} req/s"
    return Dropped(prepared.plan, "slo", f"{short}; {binds}", float(slo.target - reached), replayed)


def _without_goodput(context: Context, plan: Plan, own: Summary, found: Goodput, replayed: int) -> Dropped:
    """Meets the SLO at the rate of the search, but nowhere once the first requests are not counted."""
    target, lowest_rps = context.problem.slo.target, min(rate for rate, _ in found.tested)
    reason = (
        f"meets the SLO at {context.problem.rate_rps:.4g} req/s (attainment {own.slo.attainment:.3f}), but has no "
        f"goodput: with the first {WARMUP:.0%} of the time not counted, attainment is {found.attainment:.3f} < "
        f"{target:g} even at {lowest_rps:.3g} req/s"
    )
    return Dropped(plan, "goodput", reason, float(target - found.attainment), replayed)


def _without_wall_time(summary: Summary) -> dict[str, object]:
    """The summary JSON; how long the replay took is left out, for it is all that differs between two runs."""
    data = summary.to_dict()
    data["simulation"]["wall_s"] = None
    return data
