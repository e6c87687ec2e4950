"""How the requests of a trace are offered."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.errors import UsageError
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, head, scale_rate


@dataclass(frozen=True, slots=True)
class Load:
    """How a trace is offered; at most one of rate, scale and concurrency.

    Attributes:
        rate_rps: requests/s; the trace's own arrivals are stretched to it.
        rate_scale: factor on the trace's own rate.
        concurrency: closed loop: this many requests are always in flight, arrival times are ignored.
        requests: only this many of the first requests.
    """

    rate_rps: float | None = None
    rate_scale: float | None = None
    concurrency: int | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        given = [
            flag
            for flag, value in (
                ("rate", self.rate_rps), ("rate-scale", self.rate_scale), ("concurrency", self.concurrency)
            )
            if value is not None
        ]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other (allowed: one of them)")

    def of(self, trace: Trace) -> Trace:
        """The requests of ``trace`` as they are offered."""
        if self.requests is not None:
            trace = head(trace, self.requests)
        if self.rate_rps is not None:
            return at_rate(trace, self.rate_rps)
        return trace if self.rate_scale is None else scale_rate(trace, self.rate_scale)
