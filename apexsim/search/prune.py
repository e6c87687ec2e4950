"""Which plans are not worth a replay, and why: illegal, too large for memory, or provably short of the SLO.

Plans that differ only in the number of replicas are screened together: they share one compilation and the least
work of a replica. What is left becomes candidates with their bounds; the strategy drops some of them later,
when it knows what the others reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from apexsim.cost.accounting import Accounting
from apexsim.cost.ledger import JOULES
from apexsim.cost.memory import DoesNotFit
from apexsim.engine.simulate import ReplicaLimits
from apexsim.errors import ApexsimError
from apexsim.metrics.attainment import reaches
from apexsim.metrics.cost import MILLION, SECONDS_PER_HOUR
from apexsim.scenario import Prepared, prepare
from apexsim.search.bounds import Counted, Due, attainment_bound, due_to_meet, median_e2e_bound
from apexsim.search.copies import GoodputBound, GoodputLoads
from apexsim.search.outcome import Bounds, Candidate, Cause, Dropped
from apexsim.search.problem import Problem
from apexsim.search.rejected import limits_of, too_long
from apexsim.search.work import Work, least_per_token, least_work
from apexsim.spec.legality import check_plan
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

PILOT_REQUESTS = 1000
"""Of the thinned trace on which goodput is looked for first: a replay of it takes milliseconds."""


@dataclass(frozen=True)
class Context:
    """What every screening and evaluation of one search needs; made once, sent to each worker."""

    problem: Problem
    loads: GoodputLoads
    pilot: Trace  # the problem's, thinned out or repeated: a first look for the goodput

    @classmethod
    def of(cls, problem: Problem) -> Context:
        return cls(problem, GoodputLoads(problem.trace), _pilot(problem.trace))


def _pilot(trace: Trace) -> Trace:
    """About ``PILOT_REQUESTS`` of the trace, the first and the last among them, so that it keeps its span.

    Drawn from a stream of its own: the guess that comes of it has nothing to do with the seed of a run.
    """
    n = len(trace)
    if n <= PILOT_REQUESTS:
        return trace
    between = np.random.default_rng(0).choice(n - 2, size=PILOT_REQUESTS - 2, replace=False) + 1
    return trace.take(np.concatenate([[0], np.sort(between), [n - 1]]))


def families(plans: Iterable[Plan]) -> list[tuple[Plan, ...]]:
    """Plans that differ only in the number of replicas, together; in the order of their first member."""
    by_pool: dict[str, list[Plan]] = {}
    for plan in plans:
        by_pool.setdefault(plan.pools[0].model_copy(update={"replicas": 1}).model_dump_json(), []).append(plan)
    return [tuple(family) for family in by_pool.values()]


def screen(context: Context, family: Sequence[Plan]) -> list[Candidate | Dropped]:
    """Each plan of a family (equal but for the replicas) as a candidate with its bounds, or dropped."""
    problem = context.problem
    reason = check_plan(problem.model, family[0])
    if reason is not None:
        return [Dropped(plan, "illegal", reason) for plan in family]
    try:
        prepared = prepare(family[0], model=problem.model, profile=problem.profile)
    except ApexsimError as error:  # limits that contradict one another
        return [Dropped(plan, "illegal", str(error)) for plan in family]
    if isinstance(prepared, DoesNotFit):
        cause: Cause = "memory" if prepared.resource == "memory" else "illegal"
        return [Dropped(plan, cause, prepared.reason, prepared.short_bytes) for plan in family]
    return _screen_fitting(context, prepared, family)


@dataclass(frozen=True)
class _Replica:
    """One replica of a family that fits: what its requests cost it at least, and what follows from that."""

    prepared: Prepared
    limits: ReplicaLimits
    work: Work
    dues: tuple[Due, ...]
    goodput: GoodputBound


def _screen_fitting(
    context: Context, prepared: Prepared, family: Sequence[Plan]
) -> list[Candidate | Dropped]:
    limits = limits_of(prepared)
    work = _work(context, prepared, limits)
    dues = due_to_meet(work, context.loads.lengths, context.problem.slo)
    replica = _Replica(prepared, limits, work, dues, GoodputBound(context.loads, dues, work.servers))
    return [_screen_one(context, replica, plan) for plan in family]


def _screen_one(context: Context, replica: _Replica, plan: Plan) -> Candidate | Dropped:
    problem, loads, pool = context.problem, context.loads, plan.pools[0]
    replicas = pool.replicas * pool.dp  # a rank serves its own requests, and never faster than alone
    load = Counted(loads.one_copy, problem.trace.span_s, problem.rate_rps)
    attainment = attainment_bound(replica.dues, load, replicas)
    rate, server = replica.goodput.of(replicas)
    if not reaches(attainment, problem.slo.target):
        short = f"attainment at most {attainment:.3f} < {problem.slo.target:g} at {problem.rate_rps:.4g} req/s"
        reason = f"{short} (bound; {_what_bounds(context, replica, server)})"
        return Dropped(plan, "slo", reason, float(problem.slo.target - attainment))
    if rate <= 0:
        reason = f"the SLO can be met at no rate (bound; {_what_bounds(context, replica, server)})"
        return Dropped(plan, "goodput", reason)
    joules, dollars = _per_token(context, replica.prepared, plan, replica.work, rate)
    bounds = Bounds(
        attainment=attainment,
        goodput_rps=rate,
        latency_s=median_e2e_bound(replica.work, loads.one_copy),
        j_per_output_token=joules,
        usd_per_million_output_tokens=dollars,
        binds=server,
    )
    return Candidate(plan, bounds)


def _what_bounds(context: Context, replica: _Replica, server: str) -> str:
    """The resource that is short, or that requests are too long to be served at all."""
    rejected = too_long(replica.limits, replica.prepared.policy, context.loads.lengths, context.problem.slo)
    return rejected or f"binds: {server or 'device'}"


def _work(context: Context, prepared: Prepared, limits: ReplicaLimits) -> Work:
    return least_work(
        prepared.compiled.tables,
        limits,
        prepared.policy,
        context.loads.lengths,
        prefix_caching=prepared.pool.scheduler.prefix_caching,
    )


def _per_token(
    context: Context, prepared: Prepared, plan: Plan, work: Work, rate_rps: float
) -> tuple[float | None, float | None]:
    """(J per output token, USD per million of them) at goodput, at least: no run is shorter than its arrivals.

    Arrivals at no more than ``rate_rps``, until the last request that is served; idle power and the price count
    for all devices all the time, the work above idle at least at its cheapest.
    """
    trace, lengths = context.problem.trace, context.loads.lengths
    served = work.served[lengths.which]
    if not served.any():
        return None, None
    last = trace.arrival_s[served][-1] - trace.arrival_s[0]
    arrivals_s = float(last) * trace.rate_rps / rate_rps  # 0 where no rate is too high
    tokens = float(trace.output_tokens[served].sum())
    device_s = plan.devices * arrivals_s
    price, power = context.problem.price_usd_per_hour, prepared.compiled.accounting.power
    dollars = None if price is None else price / SECONDS_PER_HOUR * device_s / tokens * MILLION
    if power is None:
        return None, dollars
    work_j = _least_joules(prepared, float(trace.input_tokens[served].sum()), tokens, int(served.sum()))
    return (power.idle_w * device_s + work_j) / tokens, dollars


def _least_joules(prepared: Prepared, input_tokens: float, output_tokens: float, requests: int) -> float:
    """Joules above idle of the linear layers for these tokens, in the batches that are cheapest for them."""
    accounting: Accounting = prepared.compiled.accounting
    within = prepared.policy.chunked and not prepared.policy.free_decodes
    mixed = least_per_token(prepared.compiled.tables, accounting.mixed[JOULES], within)
    decode_row = accounting.decode[JOULES]
    each = 1 + len(prepared.policy.acceptance)
    decode = min(each * mixed, min(float(decode_row[n]) / n for n in range(1, len(decode_row))))
    steps = (output_tokens - requests) / prepared.policy.tokens_of_a_step
    prompt = 0.0 if prepared.pool.scheduler.prefix_caching else mixed * input_tokens / prepared.pool.cp
    return accounting.ranks * (prompt + decode * steps)
