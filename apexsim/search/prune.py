"""Which plans are not worth a replay, and why: illegal, too large for memory, or provably short of the SLO.

Bounds belong to phases of requests (``reach.py``); a plan has the tightest of its phases', and what all of them take
together. That costs microseconds a plan. What is left becomes candidates with their bounds; the strategy drops some
of them later, when it knows what the others reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.prefixes import shares_prefixes
from apexsim.metrics.attainment import reaches
from apexsim.metrics.cost import MILLION, SECONDS_PER_HOUR
from apexsim.search.combinations import shape_of
from apexsim.search.copies import GoodputLoads
from apexsim.search.outcome import Bounds, Candidate, Dropped
from apexsim.search.part import Refused, alone
from apexsim.search.problem import Problem
from apexsim.search.reach import Counts, Phase, Reach, reach_of
from apexsim.spec.legality import check_plan, check_pool
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.pool_rules import check_pools
from apexsim.spec.vision_rules import cannot_encode
from apexsim.workload.trace import Ints, Trace
from apexsim.workload.visual import has_images

PILOT_REQUESTS = 1000
"""Of the thinned trace on which goodput is looked for first: a replay of it takes milliseconds."""

Known = Mapping[Phase, Reach | Refused]
"""What the phases can reach."""


@dataclass(frozen=True)
class Context:
    """What every screening and evaluation of one search needs; made once, sent to each worker."""

    problem: Problem
    loads: GoodputLoads
    pilot: Trace  # the problem's, thinned out: a first look for the goodput

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
        number = np.where(lengths, self.loads.one_copy, 0)
        if not among.any():
            return Tokens(0.0, 0.0, number, 0.0)
        return Tokens(
            float(trace.input_tokens[among].sum()), float(trace.output_tokens[among].sum()), number,
            float(trace.arrival_s[among][-1] - trace.arrival_s[0]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of requests, ``number`` [U] of each length, and the seconds until the last of them arrives, at the trace's
    own rate."""

    input_tokens: float
    output_tokens: float
    number: Ints
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


def phases(pools: Sequence[Pool]) -> list[tuple[int, ...]]:
    """The places of the pools of each phase: those of one role share its requests."""
    roles = dict.fromkeys(pool.role for pool in pools)
    return [tuple(k for k, pool in enumerate(pools) if pool.role == role) for role in roles]


def phases_of(families: Iterable[Sequence[Plan]]) -> dict[Phase, set[Counts]]:
    """All their phases, in the order in which they come, with the numbers of replicas to know them for."""
    found: dict[Phase, set[Counts]] = {}
    for family in families:
        for places in phases(family[0].pools):
            phase = tuple(shape_of(family[0].pools[k]) for k in places)
            found.setdefault(phase, set()).update(_counts(plan, places) for plan in family)
    return found


def _counts(plan: Plan, places: Sequence[int]) -> Counts:
    return tuple(plan.pools[k].replicas for k in places)


def screen(
    context: Context, family: Sequence[Plan], known: Known | None = None
) -> list[Candidate | Dropped]:
    """Each plan of a family (equal but for the numbers of replicas) as a candidate with its bounds, or dropped."""
    problem = context.problem
    reason = _illegal(problem, family[0])
    if reason is not None:
        return [Dropped(plan, "illegal", reason) for plan in family]
    if known is None:
        wanted = phases_of([family])
        known = {phase: reach_of(problem, context.loads, phase, sorted(counts)) for phase, counts in wanted.items()}
    reached: list[tuple[tuple[int, ...], Reach]] = []
    for places in phases(family[0].pools):
        found = known[tuple(shape_of(family[0].pools[k]) for k in places)]
        if isinstance(found, Refused):
            where = f"pools[{places[found.pool]}]: " if len(family[0].pools) > 1 else ""
            return [Dropped(plan, found.cause, where + found.reason, found.short_bytes) for plan in family]
        reached.append((places, found))
    alike = _Alike.of(context, reached)
    return [_screen_one(context, alike, plan) for plan in family]


def _illegal(problem: Problem, plan: Plan) -> str | None:
    if len(plan.pools) == 1:
        reason = check_plan(problem.model, alone(problem, plan.pools[0]))
    else:
        of_pools = (
            f"pools[{k}]: {reason}"
            for k, pool in enumerate(plan.pools)
            if (reason := check_pool(problem.model, pool, plan.engine)) is not None
        )
        reason = next(of_pools, None) or check_pools(problem.model, plan)
    if reason is None and has_images(problem.trace):
        reason = cannot_encode(plan, with_prefixes=shares_prefixes(problem.trace))
    return reason


@dataclass(frozen=True, slots=True)
class _Alike:
    """What all plans of a family have in common."""

    reached: Sequence[tuple[tuple[int, ...], Reach]]  # places of each phase's pools, and what they can reach
    latency_s: float
    sure: Tokens  # of the requests that none of the pools rejects,
    may: Tokens  # and of those that may complete

    @classmethod
    def of(cls, context: Context, reached: Sequence[tuple[tuple[int, ...], Reach]]) -> _Alike:
        each = [reach for _, reach in reached]
        shortest_s = sum(reach.shortest_s for reach in each)
        sure, served = context.tokens
        may = sure
        if not all(reach.surely.all() for reach in each):
            served = np.logical_and.reduce([reach.served for reach in each])
            may = context.served(served)
            sure = context.served(np.logical_and.reduce([reach.surely for reach in each]))
        # a phase knows the median of those that complete where these are all that it serves
        own = (reach.latency_s - reach.shortest_s for reach in each if (reach.served == served).all())
        return cls(reached, shortest_s + max(own, default=0.0), sure, may)


def _screen_one(context: Context, alike: _Alike, plan: Plan) -> Candidate | Dropped:
    problem = context.problem
    best = [reach.best[_counts(plan, places)] for places, reach in alike.reached]
    attainment = min(each.attainment for each in best)
    slowest = min(range(len(best)), key=lambda k: best[k].goodput_rps)
    rate = best[slowest].goodput_rps
    binds = best[slowest].binds and _of_pool(plan, alike.reached[slowest][0]) + best[slowest].binds
    if not reaches(attainment, problem.slo.target):
        short = f"attainment at most {attainment:.3f} < {problem.slo.target:g} at {problem.rate_rps:.4g} req/s"
        reason = f"{short} (bound; {_what_bounds(alike, binds)})"
        return Dropped(plan, "slo", reason, float(problem.slo.target - attainment))
    if rate <= 0:
        return Dropped(plan, "goodput", f"the SLO can be met at no rate (bound; {_what_bounds(alike, binds)})")
    joules, dollars = _per_token(problem, alike, plan, rate)
    return Candidate(plan, Bounds(attainment, rate, alike.latency_s, joules, dollars, binds))


def _of_pool(plan: Plan, places: Sequence[int]) -> str:
    return "" if len(places) == len(plan.pools) else f"{plan.pools[places[0]].role} "


def _what_bounds(alike: _Alike, binds: str) -> str:
    """The resource that is short, or that requests are too long to be served at all."""
    too_long = next((reach.rejected for _, reach in alike.reached if reach.rejected), "")
    return too_long or f"binds: {binds or 'device'}"


def _per_token(
    problem: Problem, alike: _Alike, plan: Plan, rate_rps: float
) -> tuple[float | None, float | None]:
    """(J per output token, USD per million of them) at goodput, at least: no run is shorter than its arrivals.

    Arrivals at no more than ``rate_rps``, until the last request that is surely served; idle power and the price count
    for all devices all the time, the work above idle at least at its cheapest. Tokens are those of all that may be.
    """
    out = alike.may.output_tokens
    if out == 0:
        return None, None
    arrivals_s = alike.sure.last_s * problem.rate_rps / rate_rps  # 0 where no rate is too high
    joules: float | None = 0.0
    dollars: float | None = 0.0
    for places, reach in alike.reached:
        for k, idle_w, price in zip(places, reach.idle_w, reach.usd_per_device_hour, strict=True):
            device_s = plan.pools[k].devices * arrivals_s
            dollars = None if price is None or dollars is None else dollars + price / SECONDS_PER_HOUR * device_s
            joules = None if idle_w is None or joules is None else joules + idle_w * device_s
        if reach.least is None or joules is None:
            joules = None
            continue
        joules += reach.least.work_j(alike.sure.input_tokens, alike.sure.output_tokens, alike.sure.number)
    return None if joules is None else joules / out, None if dollars is None else dollars / out * MILLION
