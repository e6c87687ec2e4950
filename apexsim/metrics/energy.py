"""Joules of a plan's devices, idle time included, of what stands around them, and the carbon that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.metrics.metric import Metric

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What draws power beside the devices. By default nothing is counted."""

    overhead_w: float = 0.0  # of all nodes that hold a device of the plan: hosts, fans, NICs, switches
    pue: float = 1.0  # energy of the site over that of its nodes


ALONE = Surroundings()


@dataclass(frozen=True, slots=True)
class Energy:
    """Of the whole plan: total = (devices + overhead of nodes) · PUE.

    None where nothing ran, or where the profile knows no power.
    """

    total_j: float | None = None
    j_per_output_token: float | None = None
    j_per_request: float | None = None  # the mean over completed requests
    mean_power_w: float | None = None
    devices_j: float | None = None
    overhead_j: float | None = None  # of the nodes beside their devices
    site_j: float | None = None  # cooling and distribution: what the PUE adds


@dataclass(frozen=True, slots=True)
class Carbon:
    """Grams of CO2 equivalent; None where no carbon intensity was given."""

    g_co2e: float | None = None


def energy(
    devices_j: float | None, output_tokens: int, completed: int, duration_s: float, around: Surroundings = ALONE
) -> Energy:
    """``devices_j`` of all devices, idle included, with what stands around them, by token (J), request (J), time (W).

    Nodes draw their overhead for the whole duration, busy or not.
    """
    if devices_j is None or duration_s <= 0:
        return Energy()
    overhead_j = around.overhead_w * duration_s
    total_j = (devices_j + overhead_j) * around.pue
    return Energy(
        total_j=total_j,
        j_per_output_token=total_j / output_tokens if output_tokens else None,
        j_per_request=total_j / completed if completed else None,
        mean_power_w=total_j / duration_s,
        devices_j=devices_j,
        overhead_j=overhead_j,
        site_j=total_j - devices_j - overhead_j,
    )


def carbon(total_j: float | None, g_per_kwh: float | None) -> Carbon:
    """``g_per_kwh``: carbon intensity of the electricity, g CO2e per kWh."""
    return Carbon(None if total_j is None or g_per_kwh is None else total_j / JOULES_PER_KWH * g_per_kwh)


METRICS = (
    Metric("energy", "energy", "J", "down", lambda s: s.energy.total_j),
    Metric("j_per_output_token", "energy per output token", "J/token", "down",
           lambda s: s.energy.j_per_output_token),
    Metric("j_per_request", "energy per request", "J", "down", lambda s: s.energy.j_per_request),
    Metric("mean_power", "mean power", "W", "down", lambda s: s.energy.mean_power_w),
    Metric("carbon", "carbon", "g CO2e", "down", lambda s: s.carbon.g_co2e),
)
