"""Which plans are not worth a replay, and why: illegal, too large for memory, or provably short of the SLO.

Bounds belong to the shapes of pools (``reach.py``); a plan has the tightest of its pools', and what all of them take
together. That costs microseconds a plan. What is left becomes candidates with their bounds; the strategy drops some
of them later, when it knows what the others reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apexsim.metrics.attainment import reaches
from apexsim.metrics.cost import MILLION, SECONDS_PER_HOUR
from apexsim.search.combinations import shape_of
from apexsim.search.copies import GoodputLoads
from apexsim.search.outcome import Bounds, Candidate, Dropped
from apexsim.search.problem import Problem
from apexsim.search.reach import Reach, Refused, alone, reach_of
from apexsim.spec.legality import check_plan, check_pool
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.pool_rules import check_pools
from apexsim.workload.trace import Trace

PILOT_REQUESTS = 1000
"""Of the thinned trace on which goodput is looked for first: a replay of it takes milliseconds."""

Known = Mapping[Pool, Reach | Refused]
"""What the shapes of the pools can reach."""


@dataclass(frozen=True)
class Context:
    """What every screening and evaluation of one search needs; made once, sent to each worker."""

    problem: Problem
    loads: GoodputLoads
    pilot: Trace  # the problem's, thinned out or repeated: a first look for the goodput

    @classmethod
    def of(cls, problem: Problem) -> Context:
        return cls(problem, GoodputLoads(problem.trace), thinned(problem.trace, PILOT_REQUESTS))

    @cached_property
    def tokens(self) -> tuple[Tokens, NDArray[np.bool_]]:
        """Of all requests, where every length is served; and which lengths those are."""
        everything = np.ones(len(self.loads.one_copy), np.bool_)
        return self.served(everything), everything

    def served(self, lengths: NDArray[np.bool_]) -> Tokens:
        """What requests of these lengths (bool[U]) add up to."""
        trace, among = self.problem.trace, lengths[self.loads.lengths.which]
        if not among.any():
            return Tokens(0.0, 0.0, 0, 0.0)
        return Tokens(
            float(trace.input_tokens[among].sum()), float(trace.output_tokens[among].sum()), int(among.sum()),
            float(trace.arrival_s[among][-1] - trace.arrival_s[0]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of so many requests, and the seconds until the last of them arrives, at the trace's own rate."""

    input_tokens: float
    output_tokens: float
    requests: int
    last_s: float


def thinned(trace: Trace, requests: int) -> Trace:
    """About so many of the trace, the first and the last among them, so that it keeps its span.

    Drawn from a stream of its own: the guess that comes of it has nothing to do with the seed of a run.
    """
    n = len(trace)
    if n <= requests:
        return trace
    between = np.random.default_rng(0).choice(n - 2, size=requests - 2, replace=False) + 1
    return trace.take(np.concatenate([[0], np.sort(between), [n - 1]]))


def shapes_of(families: Iterable[Sequence[Plan]]) -> dict[Pool, set[int]]:
    """The shapes of all their pools, in the order in which they come, with the numbers of replicas to know them for."""
    found: dict[Pool, set[int]] = {}
    for family in families:
        for k, first in enumerate(family[0].pools):
            found.setdefault(shape_of(first), set()).update(plan.pools[k].replicas for plan in family)
    return found


def screen(
    context: Context, family: Sequence[Plan], known: Known | None = None
) -> list[Candidate | Dropped]:
    """Each plan of a family (equal but for the numbers of replicas) as a candidate with its bounds, or dropped."""
    problem = context.problem
    reason = _illegal(problem, family[0])
    if reason is not None:
        return [Dropped(plan, "illegal", reason) for plan in family]
    if known is None:
        wanted = shapes_of([family])
        known = {shape: reach_of(problem, context.loads, shape, sorted(counts)) for shape, counts in wanted.items()}
    reached: list[Reach] = []
    for k, pool in enumerate(family[0].pools):
        found = known[shape_of(pool)]
        if isinstance(found, Refused):
            where = f"pools[{k}]: " if len(family[0].pools) > 1 else ""
            return [Dropped(plan, found.cause, where + found.reason, found.short_bytes) for plan in family]
        reached.append(found)
    return [_screen_one(context, reached, plan) for plan in family]


def _illegal(problem: Problem, plan: Plan) -> str | None:
    if len(plan.pools) == 1:
        return check_plan(problem.model, alone(problem, plan.pools[0]))
    of_pools = (
        f"pools[{k}]: {reason}"
        for k, pool in enumerate(plan.pools)
        if (reason := check_pool(problem.model, pool, plan.engine)) is not None
    )
    return next(of_pools, None) or check_pools(problem.model, plan)


def _screen_one(context: Context, reached: Sequence[Reach], plan: Plan) -> Candidate | Dropped:
    problem = context.problem
    best = [reach.best[pool.replicas] for reach, pool in zip(reached, plan.pools, strict=True)]
    attainment = min(each.attainment for each in best)
    slowest = min(range(len(best)), key=lambda k: best[k].goodput_rps)
    rate = best[slowest].goodput_rps
    binds = best[slowest].binds and _of_pool(plan, slowest) + best[slowest].binds
    if not reaches(attainment, problem.slo.target):
        short = f"attainment at most {attainment:.3f} < {problem.slo.target:g} at {problem.rate_rps:.4g} req/s"
        reason = f"{short} (bound; {_what_bounds(reached, binds)})"
        return Dropped(plan, "slo", reason, float(problem.slo.target - attainment))
    if rate <= 0:
        return Dropped(plan, "goodput", f"the SLO can be met at no rate (bound; {_what_bounds(reached, binds)})")
    joules, dollars = _per_token(context, reached, plan, rate)
    shortest_s = [reach.shortest_s for reach in reached]
    latency_s = max(
        reach.latency_s + sum(shortest_s) - own for reach, own in zip(reached, shortest_s, strict=True)
    )
    return Candidate(plan, Bounds(attainment, rate, latency_s, joules, dollars, binds))


def _of_pool(plan: Plan, k: int) -> str:
    return "" if len(plan.pools) == 1 else f"{plan.pools[k].role} "


def _what_bounds(reached: Sequence[Reach], binds: str) -> str:
    """The resource that is short, or that requests are too long to be served at all."""
    return next((reach.rejected for reach in reached if reach.rejected), "") or f"binds: {binds or 'device'}"


def _per_token(
    context: Context, reached: Sequence[Reach], plan: Plan, rate_rps: float
) -> tuple[float | None, float | None]:
    """(J per output token, USD per million of them) at goodput, at least: no run is shorter than its arrivals.

    Arrivals at no more than ``rate_rps``, until the last request that is served; idle power and the price count
    for all devices all the time, the work above idle at least at its cheapest.
    """
    everything, _ = context.tokens
    whole = all(reach.served.all() for reach in reached)
    tokens = everything if whole else context.served(np.logical_and.reduce([reach.served for reach in reached]))
    if tokens.requests == 0:
        return None, None
    arrivals_s = tokens.last_s * context.problem.rate_rps / rate_rps  # 0 where no rate is too high
    joules: float | None = 0.0
    dollars: float | None = 0.0
    for reach, pool in zip(reached, plan.pools, strict=True):
        device_s = pool.devices * arrivals_s
        price = reach.usd_per_device_hour
        dollars = None if price is None or dollars is None else dollars + price / SECONDS_PER_HOUR * device_s
        if reach.least is None or joules is None:
            joules = None
            continue
        work_j = reach.least.work_j(tokens.input_tokens, tokens.output_tokens, tokens.requests)
        joules += reach.least.idle_w * device_s + work_j
    out = tokens.output_tokens
    return None if joules is None else joules / out, None if dollars is None else dollars / out * MILLION
