"""The clock of a device's compute units as a knob: what slows down with it, and what it saves.

At a share f of the boost clock

    seconds   compute, launches and latencies take 1/f as long; reads of the memory and of links do not change
    watts     above idle, less the memory's own: times f · (V(f) / V(1))²

Dynamic power of CMOS logic is capacity · V² · clock, and voltage follows the clock down to a floor (Guerreiro et al.,
HPCA 2018, measured so on NVIDIA devices). V(f) here is 1 at the boost clock, falls in a straight line to 0.7 at half of
it and stays there: an estimate, as vendors publish no curves. The memory has a clock of its own: 31 pJ a byte of it
(3.92 pJ/bit of HBM2, O'Connor et al., MICRO 2017) do not change. Idle power does not change either.

A kernel that already runs into the board's limit has lowered its clock by itself; here it slows down all the same. So
the time of a prefill is overstated at clocks just below boost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.cost.kernels import KernelModel, Priced
from apexsim.spec.cluster import Link
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

LOWEST_VOLTAGE, LOWEST_VOLTAGE_AT = 0.7, 0.5
"""Voltage over that at boost, and the share of the boost clock below which it falls no further."""

MEMORY_J_PER_BYTE = 8 * 3.92e-12


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock as a share of the boost clock, in (0, 1]."""

    fraction: float

    @property
    def voltage(self) -> float:
        """Over that at boost."""
        fall = max(self.fraction - LOWEST_VOLTAGE_AT, 0.0) / (1.0 - LOWEST_VOLTAGE_AT)
        return LOWEST_VOLTAGE + (1.0 - LOWEST_VOLTAGE) * fall

    def watts(self, at_boost: ArrayLike, memory_rate: ArrayLike) -> Floats:
        """Watts above idle of what draws ``at_boost`` at the boost clock and moves ``memory_rate`` bytes/s."""
        watts = np.asarray(at_boost, dtype=np.float64)
        if self.fraction == 1.0:
            return watts
        memory = np.minimum(MEMORY_J_PER_BYTE * np.asarray(memory_rate, dtype=np.float64), watts)
        return np.asarray(memory + (watts - memory) * self.fraction * self.voltage**2)


AT_BOOST = Clock(1.0)


def clock_of(profile: HardwareProfile, clock_mhz: float | None) -> Clock:
    """The clock of a pool; boost where it names none. ``check_clock`` has said before whether the device has it."""
    if clock_mhz is None or profile.boost_clock_mhz is None:
        return AT_BOOST
    return Clock(clock_mhz / profile.boost_clock_mhz)


def clocked(make: Callable[[HardwareProfile, str], KernelModel], profile: HardwareProfile, engine: str,
            clock: Clock) -> KernelModel:
    """The kernel model that ``make`` makes of a device, at ``clock``; itself at the boost clock.

    Laws are homogeneous: with peak, bandwidths and the inverse of all latencies times f, they give 1/f of the seconds.
    So seconds at f are those of a device with bandwidths 1/f as high, divided by f. The physical floor follows along.
    """
    if clock.fraction == 1.0:
        return make(profile, engine)
    faster = profile.model_copy(update={"memory_bandwidth": profile.memory_bandwidth / clock.fraction})
    return cast(KernelModel, _Slowed(make(faster, engine), clock.fraction))


class _Slowed:
    """Every price of a kernel model, divided by ``fraction``; links that it is handed are faster by as much."""

    def __init__(self, kernels: KernelModel, fraction: float) -> None:
        self._kernels, self._fraction = kernels, fraction

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kernels, name)

        def slowed(*args: Any, **named: Any) -> Any:
            args = tuple(_faster(each, self._fraction) for each in args)
            price = method(*args, **{key: _faster(each, self._fraction) for key, each in named.items()})
            return price._replace(seconds=price.seconds / self._fraction) if isinstance(price, Priced) else price

        return slowed


def _faster(value: Any, fraction: float) -> Any:
    if not isinstance(value, Link):
        return value
    near = None if value.near is None else _faster(value.near, fraction)
    return replace(value, bandwidth=value.bandwidth / fraction, near=near)
