"""From measured kernels to the coefficient files of a device.

    apexsim calibrate fit --data ../shared/data/kernels --device h100-sxm

reads the tables, fits a law and its grids for each recipe on four fifths of the shapes, measures the error on the
rest, fits once more on all, and writes ``hardware_profiles/<device>/kernels/*.json``. Equal tables give equal files.
What is particular to an operator stands in ``apexsim/calibration/families/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.families.family import Family
from apexsim.calibration.families.own import OWN
from apexsim.calibration.problem import Problem
from apexsim.calibration.regression import error_summary, fit_grids, fit_parameters
from apexsim.calibration.rows import SYSTEMS, Recipe, read_rows
from apexsim.cost.coefficients import Fit, KernelFile
from apexsim.cost.laws import LAWS, Law
from apexsim.errors import InputError, UsageError
from apexsim.spec import catalog
from apexsim.spec.files import write_atomically
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

FIT_ROWS = 6000
"""Rows that the few parameters of a law are searched on; the grid takes all."""

DIGITS = 3
"""Significant digits of a law's parameters. The grids are fitted on what the rounded law leaves, so that the last bits
of a search, which differ from machine to machine, do not reach the files."""


def fit_device(data: Path, device: str, fitted: str) -> tuple[KernelFile, ...]:
    """All kernel files that the tables in ``data`` allow for ``device``.

    Args:
        data: folder of Parquet tables, any subset.
        fitted: the date that the files carry, YYYY-MM-DD.

    Raises:
        UsageError: the folder holds no table of the device.
        InputError: a table that cannot be read.
    """
    profile = catalog.device(device)
    files = fit_profile(data, profile, fitted)
    if not files:
        recipes = [recipe for family in families_of(profile).values() for recipe in family.recipes]
        tables = ", ".join(sorted({f"{recipe.table}.parquet" for recipe in recipes}))
        raise UsageError(f"{data}: holds no kernel tables of {profile.name} (known: {tables})")
    return files


def fit_profile(data: Path, profile: HardwareProfile, fitted: str) -> tuple[KernelFile, ...]:
    """All kernel files that the tables in ``data`` allow for a device; none where none speaks of it."""
    files: list[KernelFile] = []
    with TemporaryDirectory() as folder:
        for family in families_of(profile).values():
            if family.after:
                profile = _with_kernels(profile, files, Path(folder))
            made = [fit_recipe(data, profile, recipe, fitted) for recipe in family.recipes]
            files += [file for file in made if file is not None]
    return tuple(files)


def families_of(profile: HardwareProfile) -> Mapping[str, Family]:
    """Those of the published tables for the devices that they hold, else those of ``apexsim calibrate run``."""
    return FAMILIES if profile.name in SYSTEMS else OWN


def _with_kernels(profile: HardwareProfile, files: Iterable[KernelFile], folder: Path) -> HardwareProfile:
    """The same device with just these kernel files, written into ``folder``."""
    paths = write_fits(files, folder / "kernels")
    return profile.model_copy(update={"kernels": tuple(path.stem for path in paths)}).read_from(folder)


def fit_recipe(data: Path, profile: HardwareProfile, recipe: Recipe, fitted: str) -> KernelFile | None:
    """The kernel file of one recipe; None where there are no rows that the device's profile can stand for."""
    family = families_of(profile)[recipe.operator]
    system = SYSTEMS.get(profile.name, profile.name)
    rows = read_rows(data, recipe, system) if recipe.speaks_of(profile.name) else None
    if rows is None:
        return None
    problems = list(family.problems(recipe, rows, profile))
    if problems and not any((problem.seconds >= problem.floor).any() for problem in problems):
        table = data / f"{recipe.table}.parquet"
        raise InputError(
            f"{table}: no row of {recipe.engine} {recipe.operator} {recipe.dtype} on {system} has a time that is "
            "possible (allowed: positive, and no shorter than 0.95 of the roofline)"
        )
    made = [fit_problem(family, problem, profile) for problem in problems if _can_be_fitted(problem)]
    fits = tuple(fit for fit in made if fit.held_out["p90"] <= family.worst_p90)
    if not fits:
        return None
    return KernelFile(recipe.operator, recipe.dtype, recipe.engine, rows.version, recipe.source, fitted, fits)


def _can_be_fitted(problem: Problem) -> bool:
    """Whether any row that a fit sees, and any that it is held against, could have been measured."""
    possible = problem.seconds >= problem.floor
    held_out = problem.held_out()
    return bool((possible & held_out).any() and (possible & ~held_out).any())


def fit_problem(family: Family, problem: Problem, profile: HardwareProfile) -> Fit:
    """Law and grids of one variant on all its rows, and the error of a fit on four fifths of its shapes on the rest.

    Rows that beat 0.95 × roofline take no part.
    """
    error = held_out_error(fit_rows(family, problem, ~problem.held_out(), profile), problem)
    whole = fit_rows(family, problem, np.ones(problem.seconds.size, dtype=np.bool_), profile)
    return replace(whole, held_out=error)


def fit_rows(family: Family, problem: Problem, seen: NDArray[np.bool_], profile: HardwareProfile) -> Fit:
    """Law and grids on the rows that are ``seen``, without a word on their error."""
    possible = problem.seconds >= problem.floor
    train = np.flatnonzero(possible & seen)
    law = _law(family, problem, train, profile)
    part = problem.take(train)
    residual = np.log(part.seconds / law.seconds(part.work, part.sizes, part.peak, part.bandwidth))
    grid, *finer = fit_grids((part.knots, *part.finer), part.sizes, residual, family.smoothness)
    measured = {axis: (float(problem.sizes[axis].min()), float(problem.sizes[axis].max())) for axis in problem.knots}
    return Fit(
        problem.variant, problem.windowed, law, grid, measured, int(problem.seconds.size), int((~possible).sum()), {},
        tuple(finer), problem.label, problem.runs,
    )


def held_out_error(fit: Fit, problem: Problem) -> dict[str, float]:
    """Error on the shapes that the fit has not seen, with the floor applied as the kernel model does."""
    chosen = problem.held_out() & (problem.seconds >= problem.floor)
    predicted = np.maximum(
        fit.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth), problem.floor
    )
    around = np.broadcast_to(problem.around, predicted.shape)[chosen]
    return error_summary(predicted[chosen] + around, problem.seconds[chosen] + around)


def _law(family: Family, problem: Problem, train: NDArray[np.int64], profile: HardwareProfile) -> Law:
    """The law with the parameters that explain the training rows best."""
    if train.size > FIT_ROWS:
        train = np.sort(np.random.default_rng(0).choice(train, FIT_ROWS, replace=False))
    part = problem.take(train)
    return min((_search(family, part, fixed) for fixed in family.fixed(profile)), key=lambda found: found[1])[0]


def _search(family: Family, part: Problem, fixed: Mapping[str, int]) -> tuple[Law, float]:
    """The best parameters of the family's law, and their loss."""
    names = list(family.search)
    start, low, high = zip(*family.search.values(), strict=True)

    def made(values: Floats) -> Law:
        return LAWS[family.operator](**dict(zip(names, values.tolist(), strict=True)), **fixed)

    def predict(values: Floats) -> Floats:
        return made(values).seconds(part.work, part.sizes, part.peak, part.bandwidth)

    values, loss = fit_parameters(predict, part.seconds, start, low, high)
    return made(np.array([float(f"{value:.{DIGITS}g}") for value in values])), loss


def write_fits(files: Iterable[KernelFile], folder: Path) -> list[Path]:
    """Write each file into ``folder`` and return the paths."""
    paths = []
    for file in files:
        path = folder / f"{file.name}.json"
        write_atomically(path, file.to_json())
        paths.append(path)
    return paths


def summary_lines(files: Iterable[KernelFile]) -> list[str]:
    """One line a fit: rows, and the error on held-out shapes in per cent."""
    lines = [f"{'file':36} {'variant':>9} {'rows':>6} {'left out':>8} {'median':>7} {'p90':>6} {'worst':>6}"]
    for file in files:
        for fit in file.fits:
            e, name = fit.held_out, f"{fit.variant}{' win' if fit.windowed else ''} {fit.label}".strip()
            lines.append(
                f"{file.name:36} {name:>9} {fit.rows:>6} {fit.beyond_roofline:>8} "
                f"{e['median']:>7.1%} {e['p90']:>6.1%} {e['worst']:>6.0%}"
            )
    return lines
