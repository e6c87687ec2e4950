"""Tables of a validation: errors by set, by regime and by run, what was skipped, and the order of plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from apexsim.report.tables import UNDEFINED, Table, show
from apexsim.validation.columns import CAPACITY
from apexsim.validation.errors import ErrorStatistics, by_metric, by_regime, by_request
from apexsim.validation.order import PlanOrder
from apexsim.validation.run import Validation
from apexsim.validation.simulate import Outcome

HEADLINE = (
    "ttft_mean_s", "tpot_mean_s", "itl_mean_s", "itl_p50_s", "e2e_mean_s", "output_tokens_per_s",
    "mean_running_requests", "power_w_per_device", "energy_j_per_output_token", CAPACITY,
)  # fmt: skip
"""Metrics of the short tables, in their order. The others are in the JSON and where only one set is looked at."""

UNITS = {
    "output_tokens_per_s": "tokens/s", "total_tokens_per_s": "tokens/s", "requests_per_s": "requests/s",
    "mean_running_requests": "requests", "power_w_per_device": "W", "energy_j_per_output_token": "J/token",
    "step_tokens_mean": "tokens/step",
    CAPACITY: "tokens",
}  # fmt: skip
"""Of the metrics whose unit is not seconds."""

FEW_RUNS = 40
"""So many runs are shown one by one without being asked for."""

STATISTICS = ("n", "median", "mean", "p90", "worst", "bias")


def validation_tables(result: Validation, *, runs: bool | None = None) -> tuple[Table, ...]:
    """Everything that a person wants to see of a validation.

    Args:
        runs: also measured | simulated | error of every run; where None, of a few runs only.
    """
    simulated = result.simulated
    tables = [set_table(result), regime_table(simulated), request_table(result), order_table(result.orders)]
    if runs or (runs is None and len(simulated) <= FEW_RUNS):
        tables.insert(0, run_table(simulated, all_metrics=bool(runs)))
    return tuple(table for table in (*tables, note_table(simulated), skipped_table(result)) if table.rows)


def percent(share: float | None, *, sign: bool = False) -> str:
    """``3.2 %``; with its sign where it has a direction."""
    if share is None:
        return UNDEFINED
    return f"{100 * share:{'+' if sign else ''}.1f} %"


def cells(figures: ErrorStatistics) -> tuple[str, ...]:
    """The cells below ``STATISTICS``."""
    sizes = (figures.median_abs_error, figures.mean_abs_error, figures.p90_abs_error, figures.worst_abs_error)
    return (f"{figures.n:,}", *map(percent, sizes), percent(figures.bias, sign=True))


def in_order(columns: Iterable[str], *, all_metrics: bool) -> list[str]:
    """Headline metrics first; the others behind them, or not at all."""
    given = list(columns)
    first = [column for column in HEADLINE if column in given]
    return first + [column for column in given if column not in first] if all_metrics else first


def set_table(result: Validation) -> Table:
    """Errors by set and metric, of rows that rest on a guess once more by themselves, and over all sets."""
    one = len(result.sets) == 1
    groups = [*result.groups.items(), *([] if one else [("all sets", result.simulated)])]
    rows = [
        (name, column, *cells(figures[column]))
        for name, outcomes in groups
        for figures in (by_metric(outcomes),)
        for column in in_order(figures, all_metrics=one)
    ]
    return Table("Errors, simulated / measured − 1", ("set", "metric", *STATISTICS), tuple(rows), _PROSE)


def regime_table(outcomes: Sequence[Outcome]) -> Table:
    """Errors of the headline metrics by how loaded a run was."""
    rows = [
        (regime, column, *cells(figures[column]))
        for regime, figures in by_regime(outcomes).items()
        for column in in_order(figures, all_metrics=False)
    ]
    return Table("By regime", ("regime", "metric", *STATISTICS), tuple(rows), _PROSE)


def request_table(result: Validation) -> Table:
    """Errors of single requests, where they were measured."""
    rows = [
        (f"{outcome.set}/{outcome.run}", column, *cells(figures))
        for outcome in result.simulated
        for column, figures in by_request([outcome]).items()
    ]
    return Table("Request by request", ("run", "metric", *STATISTICS), tuple(rows), _PROSE)


def run_table(outcomes: Sequence[Outcome], *, all_metrics: bool) -> Table:
    """Measured, simulated and error of every run and metric."""
    rows = [
        (
            outcome.run, column, show(compared.measured, unit_of(column)), show(compared.simulated, unit_of(column)),
            percent(compared.error, sign=True),
        )
        for outcome in outcomes
        for column in in_order(outcome.metrics, all_metrics=all_metrics)
        for compared in (outcome.metrics[column],)
    ]
    return Table("Runs", ("run", "metric", "measured", "simulated", "error"), tuple(rows), _PROSE)


def unit_of(column: str) -> str:
    """The unit of a metric, as ``show`` knows it."""
    return UNITS.get(column, "s")


def order_table(orders: Sequence[PlanOrder]) -> Table:
    """Whether plans under one load come in their measured order, set by set."""
    names = dict.fromkeys(order.set for order in orders if order.pairs)
    rows = [_order_row(name, [order for order in orders if order.set == name and order.pairs]) for name in names]
    header = ("set", "loads", "fully right", "pairs", "right", "tau", "pairs of equal size", "right of them")
    return Table("Order of plans under the same load", header, tuple(rows))


def _order_row(name: str, orders: list[PlanOrder]) -> tuple[str, ...]:
    pairs, right = sum(o.pairs for o in orders), sum(o.right for o in orders)
    equal, equal_right = sum(o.equal_pairs for o in orders), sum(o.equal_right for o in orders)
    whole = sum(o.right == o.pairs for o in orders)
    return (
        name, f"{len(orders):,}", f"{whole:,}", f"{pairs:,}", percent(right / pairs), f"{2 * right / pairs - 1:+.2f}",
        f"{equal:,}", percent(equal_right / equal if equal else None),
    )  # fmt: skip


def note_table(outcomes: Sequence[Outcome]) -> Table:
    """What a reader has to know of simulated runs, and of how many of them."""
    counts = Counter((outcome.set, note) for outcome in outcomes for note in outcome.notes)
    rows = [(name, f"{count:,}", note) for (name, note), count in counts.items()]
    return Table("Notes on simulated runs", ("set", "runs", "note"), tuple(rows), frozenset({"note"}))


def skipped_table(result: Validation) -> Table:
    """How many rows were not simulated, and why."""
    counts = Counter((outcome.set, str(outcome.skipped)) for outcome in result.skipped)
    rows = [(name, f"{count:,}", reason) for (name, reason), count in counts.items()]
    rows += [(name, UNDEFINED, "no runs.csv: not a set of runs") for name in result.no_sets]
    return Table("Skipped", ("set", "runs", "reason"), tuple(rows), frozenset({"reason"}))


_PROSE = frozenset({"metric"})
