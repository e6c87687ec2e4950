"""Watts of metered kernels beside what was read: how ``apexsim calibrate report`` prices the power tables.

Readings are predicted from each kernel's own measured seconds: law times what the meter reads beside it. What serving
uses is the law alone; how far that is from the readings stands in ``power.json`` and docs/energy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from apexsim.calibration.families.family import Columns, Floats, Table, Verdict
from apexsim.calibration.power.groups import Group, groups, numbers_of, words_of
from apexsim.calibration.power.readings import load_readings
from apexsim.calibration.power.tables import METERED
from apexsim.cost.power_law import PowerFile, PowerFit, load_power
from apexsim.spec import catalog
from apexsim.spec.hardware import HardwareProfile

NO_POWER = "the profile knows no TDP or no idle power"
NO_LAW = "no law of this operator and dtype"


def watts_read(group: Group, profile: HardwareProfile) -> Floats | None:
    """[rows] watts that the meter would read; None where no law speaks of the rows."""
    fit = _fit(group, profile)
    if fit is None or profile.idle_w is None or profile.tdp_w is None:
        return None
    steady = profile.idle_w + (profile.tdp_w - profile.idle_w) * fit.law.share(*group.uses)
    folder = catalog.profile_folder(profile.name)
    if profile.power_from == profile.name:
        reading = load_readings(folder / "power_readings.json").find(fit.operator, fit.dtype, group.engine)
        steady = steady if reading is None else steady * reading.factor(group.sizes)
    return np.minimum(steady, profile.tdp_w)


def _laws(profile: HardwareProfile) -> PowerFile:
    return load_power(catalog.profile_folder(profile.power_from) / "power.json")


def _fit(group: Group, profile: HardwareProfile) -> PowerFit | None:
    wanted = (group.metered.operator, group.dtype)
    return next((fit for fit in _laws(profile).fits if (fit.operator, fit.dtype) == wanted), None)


def _price(table: str) -> Callable[[Columns, HardwareProfile], Iterator[Verdict]]:
    def price(columns: Columns, profile: HardwareProfile) -> Iterator[Verdict]:
        for group in groups(table, columns, profile):
            predicted = watts_read(group, profile)
            if predicted is None:
                why = NO_LAW if profile.idle_w is not None else NO_POWER
                skipped = {**group.skipped, **({why: int(group.seconds.size)} if group.seconds.size else {})}
                yield Verdict(group.title, np.empty(0), np.empty(0), skipped)
            else:
                yield Verdict(group.title, predicted, group.watts, group.skipped,
                              calibrated=profile.power_from == profile.name)  # fmt: skip

    return price


TABLES: dict[str, Table] = {
    name: Table(words_of(metered), numbers_of(metered), _price(name), metered.may_be_zero)
    for name, metered in METERED.items()
}
"""Name of a metered table -> how the report prices it."""


def held_out(profile: HardwareProfile) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(operator, dtype and engine, errors of readings on rows that their fit had not seen) of a metered device."""
    if profile.power_from == profile.name:
        for each in load_readings(catalog.profile_folder(profile.name) / "power_readings.json").readings:
            yield f"power of {each.operator}", f"{each.dtype} {each.engine}", each.held_out
