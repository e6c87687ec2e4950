"""Dollars: devices of the plan × price of a device-hour × time, whether they are busy or not."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.metrics.metric import Metric

SECONDS_PER_HOUR = 3600.0
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars; None where no price is known, and where nothing ran."""

    usd: float | None = None
    usd_per_hour: float | None = None
    usd_per_million_output_tokens: float | None = None


def cost(usd_per_device_hour: float | None, devices: float, duration_s: float, output_tokens: int) -> Cost:
    """What ``devices`` cost for ``duration_s``, busy or idle; nothing is known without a price.

    Where nothing ran only the price of an hour is.
    """
    if usd_per_device_hour is None:
        return Cost()
    usd_per_hour = usd_per_device_hour * devices
    if duration_s <= 0:
        return Cost(usd_per_hour=usd_per_hour)
    usd = usd_per_hour * duration_s / SECONDS_PER_HOUR
    return Cost(usd, usd_per_hour, usd / output_tokens * MILLION if output_tokens else None)


METRICS = (
    Metric("usd_per_hour", "plan price", "USD/h", "down", lambda s: s.cost.usd_per_hour),
    Metric("usd_per_million_output_tokens", "output token price", "USD/M tokens", "down",
           lambda s: s.cost.usd_per_million_output_tokens),
)
