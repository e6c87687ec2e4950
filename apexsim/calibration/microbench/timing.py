"""How one case is timed.

Warm-up calls first; they also say how many calls make a sample that a clock resolves. Then samples until they agree
or the time is up. A sample during which the machine did something else is set aside where enough others are left.
The median counts, and the spread around it is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from apexsim.calibration.microbench.machine import Machine, Sample


@dataclass(frozen=True)
class Effort:
    """How much time a case may take, and when it is known well enough."""

    warmup_calls: int = 2
    sample_s: float = 400e-6  # of all calls of one sample together
    least_samples: int = 5
    most_samples: int = 100
    case_s: float = 0.05  # samples end here, but for the least
    spread: float = 0.01  # standard error of the median, relative, that ends the samples


@dataclass(frozen=True)
class Timing:
    """The time of a case and how it is known."""

    seconds: float  # median of one call
    spread: float  # median absolute deviation over the median, of what counted
    samples: int  # that counted
    disturbed: int  # samples during which the machine did something else
    calls: int  # of one sample

    @property
    def noisy(self) -> bool:
        """Whether the samples that counted differ by more than a fifth."""
        return self.spread > NOISY


NOISY = 0.2


def time_case(machine: Machine, kernel: Any, effort: Effort) -> Timing:
    """Time one kernel."""
    machine.sample(kernel, 1)
    once = min(machine.sample(kernel, 1).seconds for _ in range(max(effort.warmup_calls - 1, 1)))
    calls = max(1, ceil(effort.sample_s / max(once, 1e-9)))
    samples: list[Sample] = []
    spent = 0.0
    while len(samples) < effort.most_samples:
        samples.append(machine.sample(kernel, calls))
        spent += samples[-1].seconds * calls
        if len(samples) >= effort.least_samples and (spent >= effort.case_s or _agree(samples, effort)):
            break
    counted = _counted(samples, effort)
    disturbed = sum(sample.disturbed for sample in samples)
    middle = median(counted)
    return Timing(middle, _deviation(counted) / middle, len(counted), disturbed, calls)


def _counted(samples: Sequence[Sample], effort: Effort) -> list[float]:
    """Undisturbed samples where there are at least a few, else all."""
    quiet = [sample.seconds for sample in samples if not sample.disturbed]
    return quiet if 2 * len(quiet) >= effort.least_samples else [sample.seconds for sample in samples]


def _agree(samples: Sequence[Sample], effort: Effort) -> bool:
    """Whether the samples that count put the median within the effort's spread."""
    counted = _counted(samples, effort)
    return bool(MEDIAN_ERROR * _deviation(counted) <= effort.spread * median(counted) * len(counted) ** 0.5)


MEDIAN_ERROR = 1.253 * 1.4826
"""Standard error of the median of n normal values over their median absolute deviation, times the root of n."""


def _deviation(values: Sequence[float]) -> float:
    middle = median(values)
    return float(median(abs(value - middle) for value in values))
