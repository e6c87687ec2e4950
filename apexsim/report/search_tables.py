"""The tables of a search: the ranking, and what was left out and why. Rows of text, computed from the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from apexsim.report.search_doubt import Doubt, place_mark, sensitivity_table, verdict_cells, verdict_note
from apexsim.report.tables import UNDEFINED, Table, brief
from apexsim.report.trade_tables import PLAN, front_table, trade_table
from apexsim.search.confidence import LEVEL, Verdict
from apexsim.search.figures import grams_per_million_tokens
from apexsim.search.limits import in_force
from apexsim.search.outcome import Cause, Evaluation
from apexsim.search.problem import Problem
from apexsim.search.run import SearchResult
from apexsim.search.space import Space
from apexsim.spec.plan import Plan

CAUSES: dict[Cause, str] = {
    "illegal": "not legal or not simulated",
    "memory": "does not fit in memory",
    "slo": "misses the SLO",
    "goodput": "has no goodput",
    "bound": "cannot be among the best",
    "timeout": "timed out",
    "race": "lost in short replays",
    "failed": "crashed",
}


def search_tables(result: SearchResult, top: int, doubt: Doubt) -> tuple[Table, ...]:
    """The ranking, the Pareto front if its axes were chosen, the best by each figure, the sensitivity if asked for, and
    the plans that are not ranked."""
    chosen = (front_table(result, top),) if result.ranked and result.problem.chosen_axes else ()
    trade = (*chosen, trade_table(result)) if result.ranked else ()
    changed = () if doubt.sensitivity is None else (sensitivity_table(doubt.sensitivity),)
    dropped = (dropped_table(result),) if result.dropped else ()
    return (ranking_table(result, top, doubt), *trade, *changed, *dropped)


def ranking_table(result: SearchResult, top: int, doubt: Doubt) -> Table:
    """One row a plan, best first; latencies in milliseconds at the search's rate, the rest at goodput."""
    problem = result.problem
    carbon = () if problem.carbon_g_per_kwh is None else ("gCO2e/Mtok",)
    goodput = ("req/s", f"{LEVEL:.0%}", "P", "per dev")
    header = ("#", PLAN, "dev", *goodput, "TTFT ms", "TPOT ms", "J/tok", "USD/Mtok", *carbon, "binds")
    shown = result.ranked[:top]
    verdicts = doubt.confidence.verdicts
    rows = tuple(
        _row(place, plan, problem.carbon_g_per_kwh, verdicts.get(plan.id)) for place, plan in enumerate(shown, start=1)
    )
    title = (
        f"{len(rows)} of {len(result.ranked)} feasible plans by {problem.objective.label}. At goodput: req/s, "
        f"J per output token, USD per million.\nAt {problem.rate_rps:.4g} req/s: TTFT and TPOT, p50 / p99."
    )
    title += "".join(f"\n{note}" for note in (verdict_note(doubt.confidence), *_notes(shown)) if note)
    return Table(title, header, rows, prose=frozenset({PLAN, "binds"}), whole=frozenset({PLAN}))


def _notes(shown: Sequence[Evaluation]) -> list[str]:
    """What the marks ≥ and * of the goodputs mean, in the words of the first plan that has each."""
    censored = [f"≥ ({e.id}) {e.notes[0]}" for e in shown if e.censored and e.notes]
    others = [f"* ({e.id}) {e.notes[-1]}" for e in shown if len(e.notes) > e.censored]
    return censored[:1] + others[:1]


def _row(
    place: int, evaluation: Evaluation, carbon_g_per_kwh: float | None, verdict: Verdict | None
) -> tuple[str, ...]:
    ttft, tpot = evaluation.summary["ttft_s"], evaluation.summary["tpot_s"]
    at_goodput = evaluation.at_goodput
    joules = at_goodput["j_per_output_token"]
    carbon: tuple[str, ...] = ()
    if carbon_g_per_kwh is not None:
        carbon = (_figure(None if joules is None else joules * grams_per_million_tokens(carbon_g_per_kwh)),)
    return (
        place_mark(place, verdict),
        evaluation.id,
        str(evaluation.plan.devices),
        f"{'≥' if evaluation.censored else ''}{evaluation.goodput_rps:.2f}"
        f"{'*' if len(evaluation.notes) > evaluation.censored else ''}",
        *verdict_cells(verdict),
        f"{evaluation.goodput_rps_per_device:.3f}",
        f"{_milliseconds(ttft['p50'])} / {_milliseconds(ttft['p99'])}",
        f"{_milliseconds(tpot['p50'])} / {_milliseconds(tpot['p99'])}",
        _figure(joules),
        _figure(at_goodput["usd_per_million_output_tokens"]),
        *carbon,
        evaluation.binds,
    )


def dropped_table(result: SearchResult) -> Table:
    """How many plans fell to which cause, with the one that came nearest."""
    counts = Counter(dropped.cause for dropped in result.dropped)
    rows = []
    for cause, words in CAUSES.items():
        if counts[cause]:
            nearest = min((d for d in result.dropped if d.cause == cause), key=lambda d: d.distance)
            rows.append((words, str(counts[cause]), f"{nearest.id}: {nearest.reason}"))
    return Table("Plans that are not ranked", ("", "plans", "for example"), tuple(rows), frozenset({"for example"}))


def defaults_line(problem: Problem) -> str:
    """The values in force that a plan's name does not show, and the lists that were searched."""
    space = problem.space
    some = Plan.model_validate({"model": problem.model_name, "cluster": problem.cluster, "pools": [{}]})
    pool = some.pools[0]
    price = "unknown" if problem.price_usd_per_hour is None else f"{problem.price_usd_per_hour:g} USD/device-hour"
    knobs = ["tp", "pp", "replicas", "weights", "kv_cache", "max_num_batched_tokens", "max_num_seqs"]
    knobs[2:2] = [name for name in ("dp", "cp", "ep") if getattr(space, name) != (1,)]
    limits = ", ".join(filter(None, (in_force(space), *problem.overridden)))
    lists = ", ".join(f"{name}={'|'.join(map(str, getattr(space, name)))}" for name in knobs)
    return (
        f"defaults in force: router={space.router}, engine={space.engine}, preset={'|'.join(space.preset)}, "
        f"prefix_caching={space.prefix_caching}, gpu_memory_utilization={pool.gpu_memory_utilization:g}, "
        f"block_size={pool.block_size}, price={price}; searched {lists}{_phases(space)}"
        f"{'; ' + limits if limits else ''}"
    )


def _phases(space: Space) -> str:
    """What stands beside or in the place of replicas that serve whole requests."""
    if space.disaggregated is None:
        return ""
    return f", {'and' if space.colocated else 'only'} pools of their own to prefill and to decode"


def _milliseconds(seconds: float | None) -> str:
    return UNDEFINED if seconds is None else brief(1e3 * seconds)


def _figure(value: float | None) -> str:
    return UNDEFINED if value is None else brief(value)
