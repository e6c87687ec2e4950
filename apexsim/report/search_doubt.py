"""How sure a search is, as a report carries it: intervals and ties of the first plans, and their sensitivity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apexsim.errors import UsageError
from apexsim.report.tables import UNDEFINED, Table, brief
from apexsim.search.confidence import LEVEL, TIED_BELOW, Confidence, Verdict, judge
from apexsim.search.executors import WorkersLost, executor
from apexsim.search.run import SearchResult
from apexsim.search.sensitivity import Case, Choice, Sensitivity, sensitivity


@dataclass(frozen=True, slots=True)
class Doubt:
    """``sensitivity`` is None where nobody asked for it; ``warning`` says why something is missing."""

    confidence: Confidence = field(default_factory=Confidence)
    sensitivity: Sensitivity | None = None
    warning: str = ""


def doubt_about(result: SearchResult, backend: str, workers: int | None, plans: int) -> Doubt:
    """Judge the first places of a search that is complete, and replay ``plans`` of them under changes."""
    if result.interrupted or not result.ranked:
        return Doubt()
    confidence, changed = Confidence(), None
    try:
        with executor(backend, workers) as entered:
            confidence = judge(result.problem, result.ranked, result.pareto, entered)
            if plans:
                changed = sensitivity(result.problem, result.ranked, entered, plans)
    except KeyboardInterrupt:
        return Doubt(confidence, changed, "interrupted while the first places were judged: the ranking is complete")
    except WorkersLost as error:
        return Doubt(confidence, changed, f"the first places could not all be judged: {error}")
    failed = next(iter(confidence.failures.items()), None)
    return Doubt(confidence, changed, "" if failed is None else f"{failed[0]} has no interval: {failed[1]}")


def asked_for(found: Sensitivity | None) -> Sensitivity:
    """The sensitivity of a search that was asked for it.

    Raises:
        UsageError: it was not.
    """
    if found is None:
        raise UsageError("this search has no sensitivity: ask for it with sensitivity=3 (--sensitivity 3)")
    return found


def with_doubt(data: dict[str, Any], doubt: Doubt) -> dict[str, Any]:
    """The search JSON with the keys of the verdicts in each judged plan, ``confidence`` and ``sensitivity``."""
    verdicts = doubt.confidence.verdicts
    for plan in data["plans"]:
        if plan["id"] in verdicts:
            plan |= verdicts[plan["id"]].to_dict()
    if verdicts:
        data["confidence"] = doubt.confidence.to_dict()
    if doubt.sensitivity is not None:
        data["sensitivity"] = doubt.sensitivity.to_dict()
    return data


def verdict_columns(verdict: Verdict | None) -> dict[str, Any]:
    """Columns of a row of ``plans.parquet``; null where a plan was not judged."""
    if verdict is None:
        return dict.fromkeys(
            ("goodput_ci_low", "goodput_ci_high", "tied_rank", "tied_with", "p_beats_next", "p_ties_next")
        )
    following = verdict.next_one
    return {
        "goodput_ci_low": verdict.goodput_ci[0],
        "goodput_ci_high": verdict.goodput_ci[1],
        "tied_rank": verdict.tied_rank,
        "tied_with": "; ".join(verdict.tied_with),
        "p_beats_next": None if following is None else following.beats,
        "p_ties_next": None if following is None else following.ties,
    }


def place_mark(place: int, verdict: Verdict | None) -> str:
    """The rank as a table shows it: ``=1`` for all plans that are tied with the first."""
    return f"={verdict.tied_rank}" if verdict is not None and verdict.tied_with else str(place)


def verdict_cells(verdict: Verdict | None) -> tuple[str, str]:
    """The interval of the goodput, and how sure the plan beats the one below it."""
    if verdict is None:
        return UNDEFINED, UNDEFINED
    low, high = verdict.goodput_ci
    chance = UNDEFINED if verdict.next_one is None else _percent(verdict.next_one.beats, verdict.next_one.ties)
    return f"{brief(low)}–{brief(high)}", chance


def _percent(beats: float, ties: float) -> str:
    return "equal" if ties == 1.0 else f"{100 * beats:.0f} %"


def verdict_note(confidence: Confidence) -> str:
    """What the columns and marks mean; "" where nothing was judged."""
    if not confidence.verdicts:
        return ""
    return (
        f"{LEVEL:.0%}: interval of req/s over draws of the trace's windows and of errors of step times. P: the plan "
        f"beats the next one.\n= tied: the first of these beats each in less than {TIED_BELOW:.0%} of the draws."
    )


def sensitivity_table(found: Sensitivity) -> Table:
    """One row a change, of the best plan; the last columns say which plan is best then, and by how much."""
    objective = found.problem.objective
    value = () if objective.name == "goodput" else (f"{objective.label}, {objective.unit}",)
    header = ("", "attainment", "req/s", "headroom", *value, "best then", "lead")
    rows = tuple(
        _row(case, choice, (_value(case, objective.scale),) if value else ())
        for case, choice in zip(found.of(found.plans[0]), found.choices, strict=True)
    )
    title = (
        f"{found.plans[0]} where things are not as assumed, and the best of the first {len(found.plans)} plans then.\n"
        "headroom: goodput over the offered rate; lead: over the best of the other plans."
    )
    return Table(title, header, rows, frozenset({"best then"}), frozenset({"best then"}))


def _value(case: Case, scale: float) -> str:
    return UNDEFINED if case.value is None else brief(scale * case.value)


def _row(case: Case, choice: Choice, value: tuple[str, ...]) -> tuple[str, ...]:
    missed = "" if case.feasible else " (misses the SLO)"
    goodput = UNDEFINED if case.goodput_rps is None else f"{'≥' if case.censored else ''}{case.goodput_rps:.2f}"
    return (
        "as assumed" if case.change is None else case.change.words,
        f"{case.attainment:.3f}{missed}",
        goodput,
        f"{case.headroom:.2f}",
        *value,
        "this one" if choice.best == case.plan else choice.best or "none meets the SLO",
        UNDEFINED if choice.lead is None else f"{100 * choice.lead:+.1f} %",
    )
