"""What a simulated run says where the row has a measured value, by the same definitions (validation/README, docs)."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from apexsim.cost.accounting import Account
from apexsim.engine.result import SimulationResult
from apexsim.metrics.itl import itl_distribution, itl_percentiles
from apexsim.metrics.latency import Latencies, latencies
from apexsim.metrics.pools import joined
from apexsim.scenario import Prepared
from apexsim.validation import window as windows
from apexsim.validation.columns import CAPACITY, LATENCY
from apexsim.validation.window import Window
from apexsim.workload.trace import Floats


class Simulated:
    """One simulated run, asked column by column; what no column asks for is not computed.

    Args:
        window: what throughput, power and mean batch are of; None where the run has no such window.
        from_engine: TTFT starts where the engine gets the request, ``entry_s`` after the client sent it.
    """

    def __init__(
        self, prepared: Prepared, result: SimulationResult, window: Window | None, *, from_engine: bool
    ) -> None:
        self._prepared = prepared
        self._result = result
        self._window = window
        self._entry_s = prepared.compiled.entry_s if from_engine else 0.0

    def value(self, column: str) -> float | None:
        """The simulated value of a metric's column; None where it is undefined."""
        if column == CAPACITY:
            return float(where_it_decodes(self._prepared).compiled.memory.kv_capacity_tokens)
        latency = LATENCY.fullmatch(column)
        if latency is not None:
            metric, statistic = latency.groups()
            found = self._itl(statistic) if metric == "itl" else _statistic(self._column(metric), statistic)
        else:
            found = self._figure(column)
        return found if found is not None and np.isfinite(found) else None

    @cached_property
    def latencies(self) -> Latencies:
        """Per request, from arrival; TTFT from where the row measures it."""
        found = latencies(self._result.requests)
        return Latencies(found.ttft_s - self._entry_s, found.tpot_s, found.itl_max_s, found.e2e_s, found.queue_s)

    def _column(self, metric: str) -> Floats:
        values: Floats = getattr(self.latencies, f"{metric}_s")
        return values

    def _itl(self, statistic: str) -> float | None:
        if statistic in ("mean", "max"):
            return getattr(itl_distribution(self._result.itl), statistic)  # type: ignore[no-any-return]
        return itl_percentiles(self._result.itl, (float(statistic[1:]),))[0]

    @cached_property
    def _account(self) -> Account:
        assert self._window is not None
        parts = self._prepared.parts
        if parts:
            found = tuple(
                part.compiled.accounting.account(counters, part.pool.replicas, self._window.seconds)
                for part, counters in zip(parts, self._result.pools, strict=True)
            )
            return joined(found, self._prepared.deployment.shapes)
        return self._prepared.compiled.accounting.account(
            self._window.counters, self._prepared.pool.replicas, self._window.seconds
        )

    def _figure(self, column: str) -> float | None:
        window = self._window
        if window is None or window.seconds <= 0:
            return None
        seconds = window.seconds
        if column == "step_tokens_mean" and self._prepared.parts:
            return None  # which pool's steps?
        if column == "mean_running_requests":
            return self._running(window)
        if column == "power_w_per_device":
            return self._account.mean_power_w
        if column == "energy_j_per_output_token":
            joules = self._account.energy_j
            return None if joules is None or not window.output_tokens else joules / window.output_tokens
        return {
            "output_tokens_per_s": window.output_tokens / seconds,
            "total_tokens_per_s": (window.output_tokens + window.input_tokens) / seconds,
            "requests_per_s": window.completed / seconds,
            "makespan_s": self._result.duration_s,
            "step_tokens_mean": (window.output_tokens + window.input_tokens) / max(window.counters.iterations, 1),
        }[column]

    def _running(self, window: Window) -> float:
        timeline = self._result.timeline
        if timeline is not None and self._prepared.policy.mix:
            return windows.mean_scheduled(timeline, window.begin_s, window.end_s)
        # decodes that wait while a prompt is computed alone run all the same
        return windows.mean_admitted(self._result.requests, window.begin_s, window.end_s)


def where_it_decodes(prepared: Prepared) -> Prepared:
    """The pool that decodes, of several; the plan itself where there is one."""
    return next((part for part in prepared.parts if part.pool.role == "decode"), prepared)


def _statistic(values: Floats, statistic: str) -> float | None:
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return None
    if statistic == "mean":
        return float(defined.mean())
    return float(defined.max() if statistic == "max" else np.percentile(defined, float(statistic[1:])))
