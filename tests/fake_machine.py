"""A machine with known rooflines and a clock of its own: what it times is what its law says, with noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apexsim.calibration.microbench.cases import Case, Limits
from apexsim.calibration.microbench.machine import CannotRun, Environment, Sample

PEAK, BANDWIDTH, LAUNCH_S = 2e12, 50e9, 5e-6


def environment(**changes: Any) -> Environment:
    known: dict[str, Any] = {
        "backend": "cpu", "device": "Fake(R) Device 9", "count": 1, "units": 1, "memory_bytes": 64 * 2**30,
        "driver": "Fake 1.0", "versions": {"torch": "2.13.0"}, "settings": {"clock": 1}, "vendor": "Fake",
    }  # fmt: skip
    return Environment(**(known | changes))


def seconds_of(case: Case) -> float:
    """A smooth roofline: launch + the larger of work and traffic, rounded at the knee."""
    reached = 0.3 * PEAK if case.family == "attention" else PEAK
    work, traffic = case.flops / reached, case.moved / BANDWIDTH
    return float(LAUNCH_S + (work**4 + traffic**4) ** 0.25)


@dataclass
class FakeMachine:
    """``interrupt_after``: Ctrl-C comes with that case; ``disturb``: share of the samples that something else slows."""

    environment: Environment = field(default_factory=environment)
    limits: Limits = field(default_factory=lambda: Limits(1e11, 2**28, ("bfloat16",)))
    noise: float = 0.0
    disturb: float = 0.0
    interrupt_after: int | None = None
    lacks: str | None = None  # table that it cannot run
    free: float = 2.0**40
    kernels: int = 0
    now_s: float = 0.0
    closed: bool = False

    def kernel(self, case: Case) -> Case:
        if self.interrupt_after is not None and self.kernels >= self.interrupt_after:
            raise KeyboardInterrupt
        if case.table == self.lacks:
            raise CannotRun("no such kernel\nand a second line")
        self.kernels += 1
        return case

    def sample(self, kernel: Case, calls: int) -> Sample:
        """Noise depends on the case alone, so that an interrupted run times the same as a whole one."""
        random = np.random.default_rng(list(f"{kernel.key} {calls}".encode()))
        factor = float(np.exp(self.noise * random.standard_normal()))
        disturbed = bool(random.random() < self.disturb)
        seconds = seconds_of(kernel) * factor * (5.0 if disturbed else 1.0)
        self.now_s += seconds * calls
        return Sample(seconds, disturbed)

    def free_bytes(self) -> float:
        return self.free

    def close(self) -> None:
        self.closed = True
