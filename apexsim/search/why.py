"""What binds a plan at its goodput, in one line: the resource, and the figure that shows it.

Rules, the first that holds:

    KV memory   the cache is full (or requests were preempted) and waiting is what breaks the SLO
    queueing    the replicas stand idle more than half of the time: bursts, or pipeline stages that wait
    host        the largest part of the busy time is the engine's own code
    links       … or communication between devices
    compute     … or device work, which uses more of the peak FLOP/s than of the memory bandwidth
    bandwidth   … or the other way round
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apexsim.metrics.attainment import needed_shares
from apexsim.metrics.summary import Summary
from apexsim.spec.slo import SLO

FULL = 0.95
"""A KV cache whose peak is above this share is full: the last blocks are too small for what waits."""

IDLE = 0.5
WAITING = ("ttft", "queue", "e2e")
"""Limits that a full cache breaks: requests wait for blocks. TPOT suffers from other things."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The resource, in one of the words above, and the line that explains it."""

    resource: str
    line: str


def what_binds(summary: Summary, slo: SLO) -> Binding:
    """Why a run at this rate could not go faster; ``summary`` needs its SLO report and breakdown."""
    limit, share = _tightest(summary, needed_shares(slo))
    missed = f"{limit} is the first limit to go ({share:.1%} within)" if limit else "no limit is missed"
    resource, figure = _resource(summary, limit)
    return Binding(resource, f"{resource}: {figure}; {missed}")


def _tightest(summary: Summary, needed: Mapping[str, float]) -> tuple[str, float]:
    """The limit with the least margin: share that keeps it ÷ share that must. "" where all keep all."""
    shares = {name: share for name, share in summary.slo.by_limit.items() if share < 1}
    if not shares:
        return "", 1.0
    name = min(shares, key=lambda limit: (shares[limit] / needed[limit], limit))
    return name, shares[name]


def _resource(summary: Summary, limit: str) -> tuple[str, str]:
    peak = summary.memory.kv_peak_fraction or 0.0
    waits = limit.partition(":")[0] in WAITING
    if waits and (peak >= FULL or summary.preemptions > 0):
        return "KV memory", f"cache {peak:.0%} full at its peak, {summary.preemptions:,} preemptions"
    seconds = summary.breakdown_s
    total = sum(seconds.values())
    if total <= 0:
        return "queueing", "nothing ran"
    if seconds["idle"] > IDLE * total:
        return "queueing", f"replicas idle {seconds['idle'] / total:.0%} of the time, yet bursts wait"
    busy = total - seconds["idle"]
    device = seconds["gemm"] + seconds["attention"] + seconds["moe"]
    parts = {"device": device, "links": seconds["communication"], "host": seconds["host"]}
    largest = max(parts, key=lambda part: parts[part])
    of_busy = f"{parts[largest] / busy:.0%} of the busy time"
    if largest != "device":
        return largest, of_busy
    mfu, mbu = summary.utilization.mfu or 0.0, summary.utilization.mbu or 0.0
    return ("compute" if mfu >= mbu else "bandwidth"), f"MFU {mfu:.0%}, MBU {mbu:.0%}, device work {of_busy}"
