"""The goodput of one plan, and the replay that shows it."""

from __future__ import annotations

from apexsim.engine.result import SimulationResult
from apexsim.metrics.attainment import attainment, reaches
from apexsim.metrics.goodput import WARMUP, Goodput, goodput, goodput_trace
from apexsim.scenario import Prepared, replay
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace


def measure_goodput(
    prepared: Prepared,
    trace: Trace,
    slo: SLO,
    upper_bound_rps: float,
    *,
    guess_rps: float | None = None,
    seed: int = 0,
) -> tuple[Goodput, SimulationResult | None]:
    """The largest rate at which the plan keeps ``slo``; every rate is tested on the same requests.

    The replay is that of ``goodput_trace`` at this rate; None where no rate keeps the SLO.
    """
    passed: SimulationResult | None = None

    def attainment_at(rate_rps: float) -> float:
        nonlocal passed
        result = replay(prepared, goodput_trace(trace, rate_rps), seed=seed)
        share = attainment(result, slo, WARMUP).attainment or 0.0
        if reaches(share, slo.target):
            passed = result  # of the rates that keep the SLO each is higher than the one before
        return share

    return goodput(attainment_at, slo.target, upper_bound_rps, guess_rps), passed
