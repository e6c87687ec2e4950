"""Tables as data: the same rows go to the terminal, to a notebook and to files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from apexsim.metrics.adapters import AdapterUse
from apexsim.metrics.attainment import SloReport
from apexsim.metrics.compare import Change
from apexsim.metrics.distribution import Distribution
from apexsim.metrics.metric import metrics
from apexsim.metrics.speculation import Speculation
from apexsim.metrics.summary import Summary
from apexsim.spec.slo import SLO
from apexsim.spec.units import format_bytes, format_seconds

UNDEFINED = "–"
NOISE = 1e-12
"""Less (seconds, or a share) is what rounding leaves of a difference that should be nothing."""
_SCALES = {1e9: "G", 1e6: "M", 1e3: "k"}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text. The first column is the row's name; the others hold numbers, but for those of ``prose``.

    What stands in a column of ``whole`` is a name to copy: broken over lines only where a screen is hardly wider.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def is_number(self, column: int) -> bool:
        """Whether a column is aligned to the right."""
        return column > 0 and self.header[column] not in self.prose

MOST_ROWS = 20
"""Of classes or clients in a table; the JSON has more."""


def show(value: float | None, unit: str) -> str:
    """A value as a person reads it, with its unit, four digits; shares in percent."""
    if value is None:
        return UNDEFINED
    if unit in ("s", "share") and abs(value) < NOISE:
        value = 0.0
    if unit == "s":
        return _seconds(value)
    if unit == "share":
        return _percent(100 * value)
    if unit == "count":
        return f"{value:,.0f}"
    if unit in ("J", "W"):
        scale = next((scale for scale in _SCALES if abs(value) >= scale), 1.0)
        return f"{_four_digits(value / scale)} {_SCALES.get(scale, '')}{unit}"
    return f"{_four_digits(value)} {unit}"


def brief(value: float) -> str:
    """Three digits, whole from a thousand on, and never with an exponent that a person has to read twice."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:.3g}"


def _percent(value: float) -> str:
    """Four digits, of them three behind the point."""
    return "<0.001 %" if 0 < value < 0.0005 else f"{float(f'{value:.3f}'):.4g} %"


def _seconds(value: float) -> str:
    return f"{'-' if value < 0 else ''}{format_seconds(abs(value), 4)}"


def _four_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = 3 - math.floor(math.log10(abs(value)))
    return f"{value:.3e}" if decimals > 9 else f"{value:,.{max(0, decimals)}f}"


def latency_table(summary: Summary) -> Table:
    """One row for each registered metric that is a distribution."""
    rows = []
    for metric in metrics():
        value = metric.read(summary)
        if isinstance(value, Distribution):
            statistics = (getattr(value, name) for name in Distribution.__slots__)
            rows.append((metric.title, *(show(v, metric.unit) for v in statistics)))
    return Table("Latency of completed requests; ITL of all their gaps", ("", *Distribution.__slots__), tuple(rows))


def figures_table(summary: Summary) -> Table:
    """One row for each registered metric that is a number."""
    rows = []
    for metric in metrics():
        value = metric.read(summary)
        if not isinstance(value, Distribution):
            rows.append((metric.title, show(value, metric.unit)))
    return Table("Figures", ("", "value"), tuple(rows))


def requests_table(summary: Summary) -> Table:
    """How many requests ended in each way."""
    counts = summary.requests
    row = ("requests", *(f"{n:,}" for n in (
        counts.total, counts.completed, counts.rejected, counts.failed, counts.in_flight
    )))
    return Table("Requests", ("", "total", "completed", "rejected", "failed", "in flight"), (row,))


def slo_table(report: SloReport, slo: SLO) -> Table:
    """Attainment against the target, and the share of values within each limit."""
    rows = [("attainment", show(report.attainment, "share"), show(report.target, "share"))]
    for limit, share in zip(slo.limits, report.by_limit.values(), strict=True):
        needed = "" if limit.share is None else show(limit.share, "share")
        name = f"{limit.metric} within {format_seconds(limit.seconds)}"
        rows.append((name, show(share, "share"), needed))
    return Table(f"SLO {'met' if report.met else 'missed'}: {slo}", ("", "share", "needed"), tuple(rows))


def breakdown_table(summary: Summary) -> Table:
    """Where the replicas' time went; the shares add up to all replicas for the whole duration."""
    total = sum(summary.breakdown_s.values())
    rows = tuple(
        (part, show(seconds, "s"), show(seconds / total if total else None, "share"))
        for part, seconds in summary.breakdown_s.items()
    )
    return Table("Time of the replicas", ("", "seconds", "share"), rows)


def group_tables(summary: Summary) -> tuple[Table, ...]:
    """What each priority class and client got, where there are several, and why requests were turned away."""
    tables = []
    if summary.requests.shed:
        reasons = ((name.replace("_", " "), show(count, "count")) for name, count in summary.requests.shed.items())
        tables.append(Table("Turned away", ("reason", "requests"), tuple(reasons)))
    for title, key in (("Priority classes", "by_priority"), ("Clients", "by_client")):
        rows = tuple(
            (
                name, show(group.requests, "count"), show(group.completed, "count"), show(group.rejected, "count"),
                show(group.output_tokens, "count"), show(group.ttft_s.mean, "s"), show(group.ttft_s.p99, "s"),
                show(group.e2e_s.mean, "s"),
            )
            for name, group in list(summary.groups.get(key, {}).items())[:MOST_ROWS]
        )  # fmt: skip
        columns = ("", "requests", "completed", "rejected", "output tokens", "TTFT mean", "TTFT p99", "E2E mean")
        tables += [Table(title, columns, rows)] if rows else []
    return tuple(tables)


def copies_tables(summary: Summary) -> tuple[Table, ...]:
    """KV tiers and swaps, where the plan has any."""
    rows = [
        (
            use.tier, show(use.hit_rate, "share"), format_bytes(use.loaded_bytes, 4), format_bytes(use.stored_bytes, 4),
            format_bytes(use.evicted_bytes, 4), show(use.peak_fraction, "share"),
        )
        for use in summary.kv_tiers
    ]
    header = ("", "hits", "loaded", "stored", "evicted", "fullest")
    tables = [Table("KV tiers: shares of the prompt tokens found there", header, tuple(rows))] if rows else []
    if summary.swap is not None:
        row = ("preempted by swap", f"{summary.swap.swapped:,}", format_bytes(summary.swap.copied_bytes, 4))
        tables.append(Table("Swaps", ("", "requests", "copied out and in"), (row,)))
    return tuple(tables)


def summary_tables(summary: Summary, slo: SLO | None) -> tuple[Table, ...]:
    """Everything that a person wants to see of one run."""
    kept = () if slo is None else (slo_table(summary.slo, slo),)
    drafts = () if summary.speculation is None else (speculation_table(summary.speculation),)
    figures = (figures_table(summary), *drafts, breakdown_table(summary))
    return (
        requests_table(summary), *group_tables(summary), latency_table(summary), *kept, *figures,
        *copies_tables(summary), *(() if summary.lora is None else (adapters_table(summary.lora),)),
    )  # fmt: skip


def speculation_table(report: Speculation) -> Table:
    """Tokens of a step, and the share of drafts that were accepted."""
    rows = (
        ("tokens of a step", show(report.tokens_per_step, "tokens")),
        ("accepted drafts", show(report.acceptance_rate, "share")),
    )
    return Table("Speculative decoding", ("", "value"), rows)


def adapters_table(use: AdapterUse) -> Table:
    """How often an adapter was on the device, and what loads cost."""
    rows = (
        ("requests with an adapter, by admission", show(use.requests, "count")),
        ("found on the device", show(use.hit_rate, "share")),
        ("loads", show(use.loads, "count")),
        ("of them from outside host memory", show(use.fetches, "count")),
        ("loaded", format_bytes(use.loaded_bytes, 4)),
        ("time of loads", show(use.load_s, "s")),
        ("iterations waited for them", show(use.wait_s, "s")),
        ("distinct adapters of one batch, at most", show(use.most_at_once, "count")),
    )
    return Table("LoRA adapters", ("", "value"), rows)


def comparison_table(changes: Iterable[Change], before: str, after: str, note: str = "") -> Table:
    """Every metric that is defined in one of the runs; intervals of differences where there are any.

    Args:
        note: what the title says of the intervals.
    """
    shown = [change for change in changes if change.base is not None or change.other is not None]
    drawn = any(change.interval is not None for change in shown)
    rows = tuple(
        (
            change.title, show(change.base, change.unit), show(change.other, change.unit),
            UNDEFINED if change.relative is None else f"{100 * change.relative:+.1f} %",
            *((_between(change),) if drawn else ()), change.verdict,
        )
        for change in shown
    )
    header = ("", before, after, "change", *((f"95% of {after} − {before}",) if drawn else ()), "verdict")
    return Table("What changes" + (f"\n{note}" if note else ""), header, rows, frozenset({"verdict"}))


def _between(change: Change) -> str:
    if change.interval is None:
        return UNDEFINED
    return " to ".join(show(end, change.unit) for end in change.interval)

