"""When no plan is feasible: which came nearest, and what it lacks."""

from __future__ import annotations

from apexsim.search.limits import in_force
from apexsim.search.outcome import Dropped
from apexsim.search.run import SearchResult


def nearest_miss(result: SearchResult) -> str:
    """One line: the plan that came nearest to being feasible, and what binds it."""
    problem = result.problem
    heading = f"no feasible plan for {problem.model.name} on {problem.cluster}"
    missed = _nearest(result, "goodput") or _nearest(result, "slo")
    if missed is not None:
        return f"{heading} under {problem.slo}: the nearest is {missed.id}: {missed.reason}"
    short = _nearest(result, "memory")
    if short is not None:
        return f"{heading}: memory is short; the best attempt is {short.id}: {short.reason}"
    illegal = _nearest(result, "illegal")
    if illegal is not None:
        return f"{heading}: {illegal.id}: {illegal.reason}"
    limits = in_force(problem.space)
    within = f" within {limits}" if limits else ""
    return f"{heading}: the space holds no plan for {problem.cluster.devices} devices{within}"


def crash(result: SearchResult) -> str:
    """One line where plans crashed or timed out: how many, and the first of them; "" where none did."""
    if not result.crashed:
        return ""
    first, late = result.crashed[0], sum(dropped.cause == "timeout" for dropped in result.crashed)
    counts = {"crashed": len(result.crashed) - late, "timed out": late}
    words = " and ".join(f"{count} of {result.considered} plans {what}" for what, count in counts.items() if count)
    return f"{words}, for example {first.id}: {first.reason}"


def _nearest(result: SearchResult, cause: str) -> Dropped | None:
    misses = [dropped for dropped in result.dropped if dropped.cause == cause]
    return min(misses, key=lambda dropped: dropped.distance, default=None)
