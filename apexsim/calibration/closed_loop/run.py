"""The closed loop in order: warm the engine up, measure its own time, serve each load, replay it, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apexsim import scenario
from apexsim.calibration.closed_loop.engine import ServingEngine
from apexsim.calibration.closed_loop.host import HostTime, measure_host
from apexsim.calibration.closed_loop.plan import no_host, prepare
from apexsim.calibration.closed_loop.replay import Compared, compare
from apexsim.calibration.closed_loop.served import Served
from apexsim.errors import UsageError
from apexsim.scenario import Prepared
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.workload.lengths import LogNormal
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate

PROMPTS = LogNormal.of(96, 120, 400)
ANSWERS = LogNormal.of(32, 40, 128)
"""Lengths of the requests where no trace is given."""

DISTURBED = 0.05
"""Share of its time that the engine's thread may be kept waiting for a processor."""


@dataclass(frozen=True)
class Load:
    """What is offered: ``share`` of the rate at which the simulated engine is never idle."""

    share: float
    rate_rps: float
    trace: Trace

    @property
    def name(self) -> str:
        return f"load-{self.share:.2f}"

    @property
    def regime(self) -> str:
        """Word of the validation sets."""
        return "light" if self.share < 0.5 else "moderate" if self.share <= 1.0 else "overload"


@dataclass(frozen=True)
class LoopRun:
    """One load: what was measured, and how far the simulation is from it.

    ``attempts``: how often it was served before the machine left the engine alone.
    """

    load: Load
    served: Served
    compared: dict[str, Compared]
    attempts: int = 1


@dataclass(frozen=True)
class LoopResult:
    """The engine's own time, and every load."""

    host: HostTime
    runs: tuple[LoopRun, ...]

    @property
    def median_e2e_error(self) -> float:
        """Of all requests of all loads."""
        return float(np.median(np.abs(np.concatenate([run.compared["e2e_s"].errors for run in self.runs]))))


def closed_loop(
    engine: ServingEngine, model: ModelSpec, profile: HardwareProfile, requests: Trace, shares: Sequence[float], *,
    attempts: int = 3, on_step: Callable[[str], None] = lambda step: None,
) -> LoopResult:
    """Measure, replay and compare.

    Args:
        requests: whose lengths are served; their arrivals are stretched to each load's rate.
        shares: loads, as shares of the largest rate that the simulation sustains.
        attempts: a load during which other programs took more than ``DISTURBED`` of the processor is served again, so
            often at most; the least disturbed one counts.
    """
    on_step("warming up")
    engine.warm_up()
    on_step("measuring the engine's own time")
    host = measure_host(engine, prepare(model, profile, engine.limits, engine.name, no_host(engine.name)))
    prepared = prepare(model, profile, engine.limits, engine.name, host.model)
    runs = []
    for number, load in enumerate(loads_of(prepared, requests, shares)):
        on_step(f"serving {len(load.trace)} requests at {load.rate_rps:.3g} requests/s")
        served, tries = _least_disturbed(engine, load.trace, number, attempts)
        runs.append(LoopRun(load, served, compare(prepared, served), tries))
    return LoopResult(host, tuple(runs))


def _least_disturbed(engine: ServingEngine, trace: Trace, seed: int, attempts: int) -> tuple[Served, int]:
    """(the attempt that counts, how many there were). Chosen before anything is compared."""
    tried = []
    for _ in range(attempts):
        tried.append(engine.serve(trace, seed))
        if not tried[-1].waited_share > DISTURBED:  # not a number: the system does not tell
            break
    return min(tried, key=lambda served: served.waited_share), len(tried)


def draw_requests(count: int, seed: int) -> Trace:
    """``count`` Poisson arrivals with lognormal lengths."""
    return poisson(1.0, count, PROMPTS, ANSWERS, seed)


def loads_of(prepared: Prepared, requests: Trace, shares: Sequence[float]) -> list[Load]:
    """The same requests at shares of the rate at which the simulation serves them when all wait from the start.

    The simulation says only how much is offered, so that no load needs to be tried on the engine before.
    """
    for share in shares:
        if not 0 < share <= 10:
            raise UsageError(f"--load {share:g} (allowed: above 0, at most 10)")
    waiting = requests.with_columns(arrival_s=np.zeros(len(requests)))
    most_rps = len(requests) / scenario.replay(prepared, waiting).duration_s
    return [Load(share, share * most_rps, at_rate(requests, share * most_rps)) for share in shares]
