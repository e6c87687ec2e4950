"""From metered kernels to a device's power laws, and to what the meter reads beside them.

    apexsim calibrate fit --data ../shared/data/kernels --device h200-sxm

One law a (operator, dtype), over all engines: what a kernel draws depends on what it does, not on who launched it.
Readings are too low far more often than too high (``readings.py`` says why), so the law follows the upper ones, by
quantile regression. Errors are those of a fit on four fifths of the rows, on the other fifth; what is written was
fitted on all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from apexsim.calibration.power.groups import Group, read_groups
from apexsim.calibration.power.readings import Reading, ReadingFile
from apexsim.calibration.power.tables import METERED
from apexsim.calibration.problem import even_knots
from apexsim.calibration.regression import error_summary, fit_grids
from apexsim.calibration.rows import SYSTEMS, held_out
from apexsim.cost.grid import CorrectionGrid
from apexsim.cost.power_law import PowerFile, PowerFit, PowerLaw
from apexsim.spec.files import write_atomically
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SOURCE = "NVIDIA AIConfigurator performance database (ai-dynamo/aiconfigurator 095f58a5, Apache-2.0), power_*.parquet"

QUANTILE = 0.9
"""Share of the readings that lie below the law. The median would take a meter that had not yet risen, or memory full
of zeros, for the watts of the kernel. Laws at 0.8 and at 0.9 were held against serving runs on H100, and 0.9 kept."""

SEARCH = {
    "compute": (1.0, 0.01, 20.0), "compute_power": (0.5, 0.25, 1.0), "memory": (1.0, 0.01, 10.0),
    "sharpness": (4.0, 1.0, 30.0), "ceiling": (0.985, 0.95, 1.0),
}  # fmt: skip
"""Parameter -> start, smallest, largest. The power stays at or below 1: the same work at a lower clock never draws
more."""

LOSS_SCALE = 0.03
"""Relative error above which a row counts linearly, not squared."""

MIN_ROWS = 100
FIT_ROWS = 8000
"""Rows that a law is searched on; the grid takes all."""



@dataclass(frozen=True)
class PowerFits:
    """What is written for a device."""

    laws: PowerFile
    readings: ReadingFile


def fit_power(data: Path, profile: HardwareProfile, fitted: str) -> PowerFits | None:
    """Laws and readings of a device from the tables in ``data``; None where they do not meter it.

    Args:
        fitted: the date that the files carry, YYYY-MM-DD.

    Raises:
        InputError: a table that cannot be read.
    """
    if profile.tdp_w is None or profile.idle_w is None or profile.name not in SYSTEMS:
        return None
    fits: list[PowerFit] = []
    readings: list[Reading] = []
    for table in METERED:
        found = read_groups(data, table, SYSTEMS[profile.name], profile)
        for dtype in sorted({group.dtype for group in found}):
            mine = [group for group in found if group.dtype == dtype and group.seconds.size]
            if sum(group.seconds.size for group in mine) < MIN_ROWS:
                continue
            fit = fit_law(mine, profile.idle_w, profile.tdp_w)
            fits.append(fit)
            readings += fit_readings(mine, fit.law, profile)
    if not fits:
        return None
    return PowerFits(PowerFile(SOURCE, fitted, QUANTILE, tuple(fits)), ReadingFile(SOURCE, fitted, tuple(readings)))


def watts(law: PowerLaw, uses: tuple[Floats, Floats], idle_w: float, limit_w: float) -> Floats:
    """Watts of a running kernel."""
    return idle_w + (limit_w - idle_w) * law.share(*uses)


def fit_law(mine: Sequence[Group], idle_w: float, limit_w: float) -> PowerFit:
    """The law of the groups' rows, and its error on a fifth that another fit did not see."""
    uses = (np.concatenate([g.uses[0] for g in mine]), np.concatenate([g.uses[1] for g in mine]))
    measured = np.concatenate([group.watts for group in mine])
    test = held_out(measured.size)
    blind = search_law(_take(uses, ~test), measured[~test], idle_w, limit_w)
    errors = error_summary(watts(blind, _take(uses, test), idle_w, limit_w), measured[test])
    law = search_law(uses, measured, idle_w, limit_w)
    return PowerFit(mine[0].metered.operator, mine[0].dtype, law, int(measured.size), errors)


def search_law(uses: tuple[Floats, Floats], measured: Floats, idle_w: float, limit_w: float) -> PowerLaw:
    """The law below which ``QUANTILE`` of the readings lie, at any use."""
    if measured.size > FIT_ROWS:
        some = np.sort(np.random.default_rng(0).choice(measured.size, FIT_ROWS, replace=False))
        uses, measured = _take(uses, some), measured[some]
    start, low, high = zip(*(SEARCH[field.name] for field in fields(PowerLaw)), strict=True)

    def residual(logs: Floats) -> Floats:
        above = np.log(measured / watts(PowerLaw(*np.exp(logs).tolist()), uses, idle_w, limit_w))
        return np.asarray(np.where(above > 0, np.sqrt(QUANTILE), np.sqrt(1 - QUANTILE)) * above)

    bounds = (np.log(low), np.log(high))
    found = least_squares(residual, np.log(start), bounds=bounds, loss="soft_l1", f_scale=LOSS_SCALE)
    return PowerLaw(*np.exp(found.x).tolist())


def fit_readings(mine: Sequence[Group], law: PowerLaw, profile: HardwareProfile) -> list[Reading]:
    """What each engine's meter read, against the law."""
    readings = []
    for engine in sorted({group.engine for group in mine}):
        parts = [group for group in mine if group.engine == engine]
        if sum(part.seconds.size for part in parts) < MIN_ROWS:
            continue
        readings.append(_reading(_merged(parts), law, profile))
    return readings


@dataclass(frozen=True)
class _Rows:
    group: Group
    uses: tuple[Floats, Floats]
    sizes: dict[str, Floats]
    shapes: Floats
    work: Floats  # [rows, …] sizes and ideal seconds: rows alike do equal work
    watts: Floats


def _merged(parts: Sequence[Group]) -> _Rows:
    metered = parts[0].metered
    sizes = [part.sizes for part in parts]
    return _Rows(
        parts[0],
        (np.concatenate([p.uses[0] for p in parts]), np.concatenate([p.uses[1] for p in parts])),
        {axis: np.concatenate([each[axis] for each in sizes]) for axis in metered.knots},
        np.concatenate([np.column_stack([p.columns[name] for name in metered.shape]) for p in parts]),
        np.concatenate([
            np.column_stack([*each.values(), *p.ideal]) for each, p in zip(sizes, parts, strict=True)
        ]),
        np.concatenate([part.watts for part in parts]),
    )


def _reading(rows: _Rows, law: PowerLaw, profile: HardwareProfile) -> Reading:
    assert profile.idle_w is not None
    assert profile.tdp_w is not None
    limit_w = profile.tdp_w
    steady = watts(law, rows.uses, profile.idle_w, limit_w)
    metered = rows.group.metered
    knots = {axis: even_knots(rows.sizes[axis], count) for axis, count in metered.knots.items()}
    smoothness = metered.smoothness

    def fitted(train: Mask) -> CorrectionGrid:
        sizes = {axis: size[train] for axis, size in rows.sizes.items()}
        (grid,) = fit_grids((knots,), sizes, np.log(rows.watts[train] / steady[train]), smoothness)
        return grid

    def errors(test: Mask) -> dict[str, float]:
        factor = fitted(~test).factor([rows.sizes[axis][test] for axis in knots])
        return error_summary(np.minimum(steady[test] * factor, limit_w), rows.watts[test])

    _, of_row = np.unique(rows.shapes, axis=0, return_inverse=True)
    whole = held_out(int(of_row.max()) + 1)[of_row.ravel()]
    everything = np.ones(rows.watts.size, dtype=np.bool_)
    group = rows.group
    return Reading(
        group.metered.operator, group.dtype, group.engine, group.version, int(rows.watts.size),
        errors(held_out(rows.watts.size)), errors(whole) if 0 < whole.sum() < whole.size else {},
        repeats(rows.work, rows.watts) if "window_tokens" in rows.group.columns else {}, fitted(everything),
    )  # fmt: skip


def repeats(work: Floats, measured: Floats) -> dict[str, float]:
    """How far apart equal rows of ``work`` [rows, …] were read: a model that knows the work cannot be closer.

    Attention has such rows: a window that holds the whole context changes nothing.
    """
    order = np.lexsort(work.T)
    equal = (work[order[1:]] == work[order[:-1]]).all(axis=1)
    first, second = measured[order[:-1]][equal], measured[order[1:]][equal]
    if not equal.any():
        return {}
    apart = np.abs(second / first - 1.0)
    return {"n": int(equal.sum()), "median": float(np.median(apart)), "p90": float(np.quantile(apart, 0.9))}


def _take(uses: tuple[Floats, Floats], which: NDArray[np.generic]) -> tuple[Floats, Floats]:
    return uses[0][which], uses[1][which]


def write_power(fits: PowerFits, folder: Path) -> None:
    """Write ``power.json`` and ``power_readings.json`` into a profile's folder."""
    write_atomically(folder / "power.json", fits.laws.to_json())
    write_atomically(folder / "power_readings.json", fits.readings.to_json())


def summary_lines(fits: PowerFits) -> Iterable[str]:
    """One line a law, in per cent, and one a reading."""
    yield f"{'power law':36} {'rows':>7} {'median':>7} {'p90':>6} {'bias':>7}"
    for fit in fits.laws.fits:
        e = fit.held_out
        name = f"{fit.operator}.{fit.dtype}"
        yield f"{name:36} {fit.rows:>7} {e['median']:>7.1%} {e['p90']:>6.1%} {e['bias']:>+7.1%}"
    yield f"{'as the meter reads':36} {'rows':>7} {'median':>7} {'p90':>6} {'shapes':>7}"
    for each in fits.readings.readings:
        name, whole = f"{each.operator}.{each.dtype}.{each.engine}", each.held_out_shapes.get("median", float("nan"))
        e = each.held_out
        yield f"{name:36} {each.rows:>7} {e['median']:>7.1%} {e['p90']:>6.1%} {whole:>7.1%}"
