"""What LoRA adapters did in a run: how often one was on the device, and how long loads took."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.engine.result import Counters


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """Sums over the replicas.

    Attributes:
        requests: admissions of requests with an adapter; who was preempted is admitted again.
        loads: of them, those that did not find it on the device.
        fetches: loads that did not find it in host memory either.
        hit_rate: 1 - loads / requests; None where nobody had an adapter.
        loaded_bytes: of all devices.
        load_s: seconds that the links were busy with loads and fetches,
        wait_s: and those that iterations waited for them.
        most_at_once: distinct adapters of one running batch.
    """

    requests: int
    loads: int
    fetches: int
    hit_rate: float | None
    loaded_bytes: float
    load_s: float
    wait_s: float
    most_at_once: int


def adapter_use(counters: Counters) -> AdapterUse | None:
    """None where a pool has no adapters."""
    found = counters.adapters
    if found is None:
        return None
    hit_rate = 1.0 - found.loads / found.uses if found.uses else None
    return AdapterUse(
        found.uses, found.loads, found.fetches, hit_rate, found.loaded_bytes, found.load_s, counters.adapter_wait_s,
        found.most_in_use,
    )
