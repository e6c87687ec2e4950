"""Joules of all devices of a plan, idle time included, and the carbon that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.metrics.metric import Metric

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Energy:
    """Of all devices of the plan together: no host, no cooling.

    None where nothing ran, or where the profile knows no power.
    """

    total_j: float | None = None
    j_per_output_token: float | None = None
    mean_power_w: float | None = None


@dataclass(frozen=True, slots=True)
class Carbon:
    """Grams of CO2 equivalent; None where no carbon intensity was given."""

    g_co2e: float | None = None


def energy(total_j: float | None, output_tokens: int, duration_s: float) -> Energy:
    """``total_j`` of all devices, idle included, spread over output tokens (J) and time (W)."""
    if total_j is None or duration_s <= 0:
        return Energy()
    return Energy(total_j, total_j / output_tokens if output_tokens else None, total_j / duration_s)


def carbon(total_j: float | None, g_per_kwh: float | None) -> Carbon:
    """``g_per_kwh``: carbon intensity of the electricity, g CO2e per kWh."""
    return Carbon(None if total_j is None or g_per_kwh is None else total_j / JOULES_PER_KWH * g_per_kwh)


METRICS = (
    Metric("energy", "energy", "J", "down", lambda s: s.energy.total_j),
    Metric("j_per_output_token", "energy per output token", "J/token", "down",
           lambda s: s.energy.j_per_output_token),
    Metric("mean_power", "mean power", "W", "down", lambda s: s.energy.mean_power_w),
    Metric("carbon", "carbon", "g CO2e", "down", lambda s: s.carbon.g_co2e),
)
