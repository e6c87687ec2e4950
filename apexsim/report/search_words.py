"""A search in sentences: what was asked, what a plan is, how sure its place is. Strings, computed from the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apexsim.report.search_doubt import Doubt
from apexsim.search.confidence import TIED_BELOW
from apexsim.search.doubt import ALL_SD, NORMAL_MEDIAN
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.search.run import SearchResult
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.slo import SLO
from apexsim.spec.units import format_number, format_seconds

ROLES = {"serve": "", "encode": "to encode: ", "prefill": "to prefill: ", "decode": "to decode: "}


def question(problem: Problem) -> str:
    """What was asked, in one sentence."""
    objective = problem.objective
    most = f"the {'highest' if objective.highest_wins else 'lowest'} {objective.label}"
    return (
        f"Which plan serves {problem.model.name} on {problem.cluster} with {most}, if {len(problem.trace):,} requests "
        f"of {problem.trace.name} come at {problem.rate_rps:.4g} req/s and {slo_words(problem.slo)}?"
    )


def slo_words(slo: SLO) -> str:
    """The limits as a condition: ``90% of them must have TTFT ≤ 2s and TPOT ≤ 100ms``."""
    if slo.mode == "joint":
        limits = _all(f"{limit.metric.upper()} ≤ {format_seconds(limit.seconds)}" for limit in slo.limits)
        return f"{100 * slo.target:g}% of them must have {limits}"
    return "must have " + _all(
        f"p{format_number(limit.percentile or 0)} of {limit.metric.upper()} ≤ {format_seconds(limit.seconds)}"
        for limit in slo.limits
    )


def _all(parts: Iterator[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def how_it_went(result: SearchResult) -> str:
    """How the plans were gone through, and what that leaves open."""
    simulated = f"{result.considered:,} plans were considered and {result.requests_simulated:,} requests simulated."
    if result.interrupted:
        return f"{simulated} The search ended early: what was finished is ranked."
    if result.strategy != "race":
        left = "no other is better" if result.ranked else "none of them is feasible"
        lost = f", but for {len(result.crashed):,} that crashed or timed out" if result.crashed else ""
        return f"{simulated} Every plan that no proven bound excludes was replayed in full{lost}: {left}."
    cut = f", but for {result.cut:,} plans that had no place in the race" if result.cut else ""
    return (
        f"{simulated} {result.tried:,} plans were first replayed in short, and the best of them in full: no other is "
        f"better by more than {result.tolerance:.0%}{cut}."
    )


def plan_words(plan: Plan) -> str:
    """What a plan's name stands for, pool by pool."""
    return "; ".join(_pool_words(plan, pool) for pool in plan.pools) + "."


def _pool_words(plan: Plan, pool: Pool) -> str:
    names = {"tp": "TP", "pp": "PP", "dp": "DP", "cp": "CP", "ep": "EP"}
    degrees = [f"{words} {getattr(pool, key)}" for key, words in names.items() if getattr(pool, key) > 1]
    devices = f"{pool.devices_per_replica} × {pool.device or plan.cluster.device}"
    scheduler = pool.scheduler
    limits = [
        f"{key} {value}"
        for key in ("max_num_batched_tokens", "max_num_seqs") if (value := getattr(scheduler, key)) is not None
    ]  # fmt: skip
    formats = [f"{pool.weights or 'the checkpoint’s'} weights", f"{pool.kv_cache} KV cache"]
    more = ["speculative decoding"] if pool.speculative else []
    more += ["prefix caching"] if scheduler.prefix_caching else []
    parts = (*degrees, *formats, f"scheduler {scheduler.preset}", *limits, *more)
    replicas = f"{pool.replicas} replica{'' if pool.replicas == 1 else 's'}"
    return f"{ROLES[pool.role]}{replicas} of {devices} ({', '.join(parts)})"


def standing(ranked: Sequence[Evaluation], doubt: Doubt) -> str:
    """How sure it is that the first plan is the first."""
    best = ranked[0]
    verdict = doubt.confidence.verdicts.get(best.id)
    if verdict is None:
        why = doubt.confidence.failures.get(best.id)
        return f"Its place was not judged{f': {why}' if why else ''}."
    if verdict.next_one is None:
        return "It is the only plan that was judged."
    chance = verdict.next_one
    second = f"It beats the next plan, {ranked[1].id}, in {chance.beats:.0%} of the draws"
    second += f" and equals it in {chance.ties:.0%}." if chance.ties else "."
    if not verdict.tied_with:
        return second
    return (
        f"{second} Tied: it beats each of these in less than {TIED_BELOW:.0%} of the draws, so that something else may "
        f"decide: {', '.join(verdict.tied_with)}."
    )


def trust(best: Evaluation, doubt: Doubt) -> tuple[str, ...]:
    """What stands behind the figures of the best plan, a sentence each."""
    confidence = best.summary["confidence"]
    measured, beyond = confidence["calibrated_fraction"] or 0.0, confidence["extrapolated_fraction"] or 0.0
    said = [
        f"{measured:.1%} of the device time of the best plan is priced by measured kernels, {1 - measured:.1%} by a "
        f"roofline from datasheets; {beyond:.1%} lies outside of what was measured.",
        f"Against real serving runs, the median absolute error of TPOT is {NORMAL_MEDIAN * ALL_SD:.1%} over all "
        "validation sets: docs/validation.md has every metric and regime.",
    ]
    verdict = doubt.confidence.verdicts.get(best.id)
    if verdict is not None:
        said.append(
            f"Its step times are uncertain by a factor with a standard deviation of {verdict.step_time_sd:.1%}. The "
            f"intervals hold that and the draws of {doubt.confidence.windows} windows of the trace; plans that have "
            "errors in common are compared with the same draws, so that overlapping intervals are no tie by themselves."
        )
    said.append(
        "In no figure here: errors of power, of prices and of memory, a trace that is not like tomorrow's, a scheduler "
        "that the engine changes."
    )
    return tuple(said)
