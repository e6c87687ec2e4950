"""The tables of docs/energy.md, from the committed power files and profiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apexsim.calibration.power.readings import Reading, load_readings
from apexsim.cost.power import committed_serving
from apexsim.cost.power_law import load_power, load_serving
from apexsim.spec.catalog import data_root, device, device_names, profile_folder
from apexsim.spec.hardware import HardwareProfile

Row = tuple[str, ...]


def metered() -> list[str]:
    """Devices whose kernels were metered."""
    return [name for name in device_names() if device(name).power_from == name]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


READINGS = (
    "device", "operator", "dtype", "engine", "rows", "median", "p90", "whole shapes held out", "equal work apart",
)  # fmt: skip


def readings() -> Iterator[Row]:
    """One row a grid of readings."""
    for name in metered():
        for each in load_readings(profile_folder(name) / "power_readings.json").readings:
            yield name, *_reading(each)


def _reading(each: Reading) -> Row:
    return (
        each.operator.replace("_", " "), each.dtype, f"{each.engine} {each.engine_version}", f"{each.rows:,}",
        _percent(each.held_out["median"]), _percent(each.held_out["p90"]),
        _percent(each.held_out_shapes.get("median")), _percent(each.repeats.get("median")),
    )  # fmt: skip


LAWS = ("device", "operator", "dtype", "rows", "compute", "power", "memory", "sharpness", "ceiling", "median", "bias")


def laws() -> Iterator[Row]:
    """One row a law, with its parameters and its error alone, without the grid of readings."""
    for name in metered():
        for fit in load_power(profile_folder(name) / "power.json").fits:
            law = fit.law
            parameters = (law.compute, law.compute_power, law.memory, law.sharpness, law.ceiling)
            yield (
                name, fit.operator.replace("_", " "), fit.dtype, f"{fit.rows:,}",
                *(f"{value:.3g}" for value in parameters), _percent(fit.held_out["median"]),
                f"{100 * fit.held_out['bias']:+.1f} %",
            )  # fmt: skip


SERVING = ("factor", "value", "what it is")


def serving() -> Iterator[Row]:
    """The three factors."""
    factors = committed_serving()
    yield "compute", f"{factors.compute:g}", "share of a kernel's use of compute that counts"
    yield "attention", f"{factors.attention:g}", "what attention draws above idle, over its law; the board caps it"
    yield "communicating", f"{factors.communicating:g}", "what a collective draws, of what lies between idle and TDP"


SERVING_ERRORS = ("runs", "n", "median", "p90", "worst", "bias")


def serving_errors() -> Iterator[Row]:
    """Errors of watts in serving runs."""
    file = load_serving(data_root() / "hardware_profiles" / "serving_power.json")
    names = {"all": f"{file.source}, all", "left out": "each model's, with factors fitted on the others"}
    for which, error in file.errors.items():
        figures = (_percent(error[name]) for name in ("median", "p90", "worst"))
        yield names[which], str(error["n"]), *figures, f"{100 * error['bias']:+.1f} %"


DEVICES = ("device", "TDP", "idle", "idle is", "laws of", "what carries over", "clocks, MHz")


def devices() -> Iterator[Row]:
    """One row a device that knows its limits."""
    for name in device_names():
        profile = device(name)
        if profile.tdp_w is not None and profile.idle_w is not None:
            yield _device(profile)


def _device(profile: HardwareProfile) -> Row:
    own = profile.power_from == profile.name
    low, high = profile.min_clock_mhz, profile.boost_clock_mhz
    return (
        profile.name, f"{profile.tdp_w:g} W", f"{profile.idle_w:g} W", profile.idle_basis,
        "its own" if own else profile.power_from, "–" if own else profile.power_carries,
        "–" if low is None or high is None else f"{low:g} to {high:g}",
    )  # fmt: skip


def markdown(header: Iterable[str], rows: Iterable[Row]) -> str:
    """A Markdown table."""
    cells = [tuple(header), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]) + "\n"


TABLES = {
    "power readings": ("docs/energy.md", lambda: markdown(READINGS, readings())),
    "power laws": ("docs/energy.md", lambda: markdown(LAWS, laws())),
    "serving power": ("docs/energy.md", lambda: markdown(SERVING, serving())),
    "serving power errors": ("docs/energy.md", lambda: markdown(SERVING_ERRORS, serving_errors())),
    "power of devices": ("docs/energy.md", lambda: markdown(DEVICES, devices())),
}
"""Name in the mark -> file, and what makes the table."""
