"""How well a run keeps an SLO (design §8).

Counted requests are those that arrive after the warm-up. One that was rejected, failed or did not finish
misses every limit. With one output token TPOT and ITL are undefined and their limits are met.

*Joint* SLO: attainment = counted requests that meet every limit ÷ all counted; a request's ``itl`` is its
largest gap.

*Clauses*: each clause has its own share of values within the limit, which must reach the clause's percentile.
Values are one a counted request, but for ``itl``: every gap of the whole run is pooled, warm-up included,
because runs of gaps carry no instant; a gap that was due and never came misses, one of an attempt that was lost with
its replica counts beside those. Attainment = the worst
clause's share ÷ the share it needs, at most 1, so that here, too, the SLO is met exactly where attainment
reaches the target (1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.metrics.itl import gaps_at_most
from apexsim.metrics.latency import Latencies, counted_requests, latencies
from apexsim.metrics.metric import Metric
from apexsim.spec.slo import SLO, Limit

ROUNDING = 1e-12
"""Slack of a comparison of shares: 999 of 1000 reach 0.999 however the quotient was rounded."""


@dataclass(frozen=True, slots=True)
class SloReport:
    """Shares are in 0..1; None where no SLO was asked for.

    Attributes:
        by_limit: share of values within each limit, under the metric's name; where clauses limit one metric
            twice the percentile follows (``ttft:p99``).
    """

    met: bool | None = None
    target: float | None = None
    attainment: float | None = None
    by_limit: Mapping[str, float] = field(default_factory=dict)


def attainment(result: SimulationResult, slo: SLO, warmup: float = 0.0) -> SloReport:
    """How ``result`` keeps ``slo``.

    ``warmup``: requests that arrive in this first share of the time of arrivals are not counted.
    """
    counted = counted_requests(result.requests.arrival_s, warmup)
    completed = result.requests.status == COMPLETED
    values = latencies(result.requests)
    if slo.mode == "joint":
        return _joint(slo, values, completed, counted)
    return _clauses(slo, result, values, completed, counted)


def _joint(
    slo: SLO, values: Latencies, completed: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> SloReport:
    kept: dict[str, NDArray[np.bool_]] = {
        limit.metric: keeps(limit, values, completed) for limit in slo.limits
    }
    share = _share(np.logical_and.reduce(list(kept.values())), counted)
    by_limit = {metric: _share(mask, counted) for metric, mask in kept.items()}
    return SloReport(reaches(share, slo.target), slo.target, share, by_limit)


def _clauses(
    slo: SLO,
    result: SimulationResult,
    values: Latencies,
    completed: NDArray[np.bool_],
    counted: NDArray[np.bool_],
) -> SloReport:
    by_limit: dict[str, float] = {}
    worst = 1.0
    for limit, (name, needed) in zip(slo.limits, needed_shares(slo).items(), strict=True):
        if limit.metric == "itl":
            share = share_of_gaps(result, limit.seconds, _share(completed, counted))
        else:
            share = _share(keeps(limit, values, completed), counted)
        by_limit[name] = share
        worst = worst if reaches(share, needed) else min(worst, share / needed)
    return SloReport(reaches(worst, slo.target), slo.target, worst, by_limit)


def reaches(share: float, needed: float) -> bool:
    """Whether a share is as large as it has to be, but for rounding."""
    return share >= needed - ROUNDING


def needed_shares(slo: SLO) -> dict[str, float]:
    """The share of values that must keep each limit, under the names of ``SloReport.by_limit``."""
    if slo.mode == "joint":
        return {limit.metric: slo.target for limit in slo.limits}
    return {name: limit.share or 1.0 for limit, name in zip(slo.limits, _clause_names(slo), strict=True)}


def _clause_names(slo: SLO) -> list[str]:
    metrics = [limit.metric for limit in slo.limits]
    return [
        limit.metric if metrics.count(limit.metric) == 1 else f"{limit.metric}:p{limit.percentile:.15g}"
        for limit in slo.limits
    ]


def keeps(limit: Limit, values: Latencies, completed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which requests keep a limit; of ``itl`` each by its largest gap."""
    seconds = {
        "ttft": values.ttft_s, "tpot": values.tpot_s, "itl": values.itl_max_s,
        "e2e": values.e2e_s, "queue": values.queue_s,
    }[limit.metric]
    kept: NDArray[np.bool_] = completed & ~(seconds > limit.seconds)  # an undefined value is within its limit
    return kept


def _share(kept: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(kept & counted) / np.count_nonzero(counted))


def share_of_gaps(result: SimulationResult, limit_s: float, completed_share: float) -> float:
    """Of all gaps that were due; ``completed_share`` where none was."""
    due = int((result.requests.output_tokens - 1).sum()) + result.lost_gaps
    return gaps_at_most(result.itl, limit_s) / due if due else completed_share


METRICS = (
    Metric("attainment", "SLO attainment", "share", "up", lambda summary: summary.slo.attainment),
)
