"""The served requests, simulated: errors of each request and of the means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim import scenario
from apexsim.calibration.closed_loop.served import Served
from apexsim.metrics.latency import latencies
from apexsim.scenario import Prepared

Floats = NDArray[np.float64]

METRICS = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class Compared:
    """One metric, request by request; NaN where it is undefined."""

    measured: Floats
    simulated: Floats

    @property
    def errors(self) -> Floats:
        """simulated / measured - 1 of the requests that have both."""
        both = np.isfinite(self.measured) & np.isfinite(self.simulated)
        return np.asarray(self.simulated[both] / self.measured[both] - 1.0)

    @property
    def median_abs_error(self) -> float:
        """Of single requests."""
        return float(np.median(np.abs(self.errors)))

    @property
    def mean_error(self) -> float:
        """Of the mean over all requests, with its sign."""
        return float(np.nanmean(self.simulated) / np.nanmean(self.measured) - 1.0)


def compare(prepared: Prepared, served: Served) -> dict[str, Compared]:
    """Metric -> measured and simulated; the simulation gets the arrivals as they really were."""
    result = scenario.replay(prepared, served.trace("closed loop"))
    simulated = latencies(result.requests)
    return {name: Compared(getattr(served, name), getattr(simulated, name)) for name in METRICS}
