"""What is given up for what: the best plan by each figure, and the Pareto front over the axes that were chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apexsim.report.tables import UNDEFINED, Table, brief
from apexsim.search.figures import FIGURES, Figure
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.search.run import SearchResult
from apexsim.search.trade import scaled

PLAN, BEST_BY = "plan", "best by"


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a figure: times ``scale``, under a short header."""

    header: str
    form: Callable[[float], str]
    scale: float = 1.0


COLUMNS = {
    "goodput": Column("req/s", "{:.2f}".format),
    "goodput-per-device": Column("per dev", "{:.3f}".format),
    "attainment": Column("attainment", "{:.3f}".format),
    "latency": Column("E2E ms", brief, 1e3),
    "energy": Column("J/tok", brief),
    "cost": Column("USD/Mtok", brief),
    "carbon": Column("gCO2e/Mtok", brief),
    "devices": Column("dev", "{:.0f}".format),
}
"""Figure name -> its column, in the order of the tables."""


def trade_table(result: SearchResult) -> Table:
    """The best plan by each figure, whatever the objective; each cell with its change against that figure's best."""
    compared = {trade.figure.name: trade.figure for trade in result.trades}
    shown = {"goodput": FIGURES["goodput"]} | compared
    columns = [shown[name] for name in COLUMNS if name in shown]
    rows = tuple(
        (trade.figure.name, trade.best.id, *(_cell(f, trade.best, trade.change.get(f.name)) for f in columns))
        for trade in result.trades if trade.best is not None
    )  # fmt: skip
    header = (BEST_BY, PLAN, *(COLUMNS[figure.name].header for figure in columns))
    return Table(_title(result), header, rows, prose=frozenset({PLAN}), whole=frozenset({BEST_BY, PLAN}))


def front_table(result: SearchResult, top: int) -> Table:
    """The plans of the Pareto front, best first by the objective, with their places on the axes."""
    axes, ids = result.problem.axes, set(result.pareto)
    placed = [(place, e) for place, e in enumerate(result.ranked, start=1) if e.id in ids]
    rows = tuple(
        (str(place), e.id, *(_shown(axis, scaled(axis, e)) for axis in axes)) for place, e in placed[:top]
    )
    over = f"{', '.join(axis.label for axis in axes[:-1])} and {axes[-1].label}"
    title = f"The Pareto front over {over}: {len(placed)} of {len(result.ranked)} feasible plans"
    title += "" if len(rows) == len(placed) else f", the first {len(rows)} of them"
    header = ("#", PLAN, *(COLUMNS[axis.name].header for axis in axes))
    return Table(f"{title}.", header, rows, prose=frozenset({PLAN}), whole=frozenset({PLAN}))


def quick_or_frugal(result: SearchResult) -> str:
    """What the plan of the least latency costs in energy, and the most frugal one in latency."""
    by = {trade.figure.name: trade for trade in result.trades}
    quick, frugal = by["latency"], by["energy"]
    if quick.best is None or frugal.best is None:
        return ""
    if quick.best.id == frugal.best.id:
        return f"The quickest plan is also the most frugal one: {quick.best.id}."
    burns, takes = quick.change["energy"], frugal.change["latency"]
    if burns is None or takes is None:
        return f"What the quickest plan, {quick.best.id}, burns is not known."
    return (
        f"The quickest plan, {quick.best.id}, burns {_percent(burns)} more J/tok than the most frugal one, "
        f"{frugal.best.id}, whose E2E is {_percent(takes)} longer."
    )


def _title(result: SearchResult) -> str:
    sure = f", to within {result.tolerance:.0%}" if result.tolerance else ""
    sure += f" of all but {result.cut:,} plans that had no place in the race" if result.cut else ""
    rate = f"At {result.problem.rate_rps:.4g} req/s: E2E (p50) and attainment; the rest at goodput."
    lines = [f"The best plan by each figure{sure}. {rate}", "Percentages: against the best plan by that figure."]
    lines += [quick_or_frugal(result), *_unknown(result)]
    return "\n".join(line for line in lines if line)


def _unknown(result: SearchResult) -> list[str]:
    """Why a figure has no best plan, or only one of some plans."""
    return [
        f"{trade.figure.name}: "
        + ("not known" if trade.best is None else f"known of {trade.known} of {len(result.ranked)} plans")
        + _because(result.problem, trade.figure)
        for trade in result.trades if trade.known < len(result.ranked)
    ]  # fmt: skip


def _because(problem: Problem, figure: Figure) -> str:
    """The devices of the cluster that lack the figure's ingredient."""
    if figure.name == "cost" and problem.price_usd_per_hour is None:
        lacking = [profile.name for profile in problem.profiles if profile.price_usd_per_hour is None]
        return f": {', '.join(lacking)} has no price (--price gives one)" if lacking else ""
    if figure.name in ("energy", "carbon"):
        lacking = [profile.name for profile in problem.profiles if profile.idle_w is None]
        return f": the power of {', '.join(lacking)} is not known" if lacking else ""
    return ""


def _cell(figure: Figure, plan: Evaluation, change: float | None) -> str:
    """The change below the value: side by side they would not fit a page."""
    shown = _shown(figure, scaled(figure, plan))
    return f"{shown}\n{'+' if change > 0 else '-'}{_percent(abs(change))}" if change else shown


def _shown(figure: Figure, value: float | None) -> str:
    column = COLUMNS[figure.name]
    return UNDEFINED if value is None else column.form(column.scale * value)


def _percent(share: float) -> str:
    """Of a positive share: whole from 10 % on."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
