"""From measured kernels to the coefficient files of a device.

    apexsim calibrate fit --data ../shared/data/kernels --device h100-sxm

reads the tables, fits a law and a grid for each recipe on 80 % of the shapes, measures the error on the other 20 %,
and writes ``hardware_profiles/<device>/kernels/*.json``. Equal tables give equal files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apexsim.calibration.problems import Problem, problems, window_factor
from apexsim.calibration.regression import error_summary, fit_grid, fit_parameters
from apexsim.calibration.rows import RECIPES, SYSTEMS, Recipe, held_out, read_rows
from apexsim.cost.coefficients import LAWS, Fit, KernelFile, Law
from apexsim.cost.laws import CollectiveLaw, DecodeLaw, ExpertLaw, GemmLaw, PrefillLaw
from apexsim.errors import UsageError, unknown_name
from apexsim.spec import catalog
from apexsim.spec.files import write_atomically

Floats = NDArray[np.float64]

DATABASE = "NVIDIA AIConfigurator performance database (aiconfigurator-core 0.12.0, Apache-2.0)"

UNITS = {"h100-sxm": 132, "h200-sxm": 132, "a100-sxm-80gb": 108, "l40s": 142, "b200-sxm": 148, "b300-sxm": 148}
"""Streaming multiprocessors, by NVIDIA's architecture papers; other devices take 128."""

TILES = ((64, 128), (128, 128), (128, 256), (256, 128), (64, 256))
"""Tiles that GEMM kernels use, rows × columns; the fit takes the pair that explains the rows best."""

KNOTS = {
    "gemm": {"m": 16, "n": 10, "k": 10},
    "prefill_attention": {"blocks": 11, "tokens": 15, "group": 4},
    "prefill_attention windowed": {"blocks": 11, "tokens": 15, "group": 4, "window": 2},
    "decode_attention": {"blocks": 12, "tokens": 14, "group": 7},
    "grouped_gemm": {"rows": 12, "experts": 6, "width": 14, "per_token": 4},
    "all_reduce": {"bytes": 10},
    "all_gather": {"bytes": 10},
}
"""Knots of the correction grids, by axis."""

SMOOTHNESS = {
    "gemm": 0.3, "prefill_attention": 0.3, "decode_attention": 0.1, "grouped_gemm": 0.05, "all_reduce": 0.3,
    "all_gather": 0.3,
}  # fmt: skip
"""Weight of a step between neighbouring knots of a grid against one row: the less, the closer to the rows. For GEMM a
smaller one changed no held-out error, but moved real models' shapes, which lie between the measured ones, away from
measured step times. Kernels that are tuned by shape (experts, TensorRT-LLM's decode) need a smaller one."""

SEARCH: dict[type[Law], dict[str, tuple[float, float, float]]] = {
    GemmLaw: {
        "compute": (0.8, 0.1, 1.2), "memory": (0.85, 0.2, 1.2), "sharpness": (4, 1, 30),
        "latency_s": (2.5e-6, 1e-7, 5e-5), "quantisation": (0.5, 0.01, 1), "k_half": (50, 0.1, 3000),
    },
    PrefillLaw: {
        "compute": (0.6, 0.1, 1.1), "memory": (0.7, 0.1, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "quantisation": (0.5, 0.01, 1), "critical_s": (5e-9, 1e-12, 1e-6),
    },
    DecodeLaw: {
        "compute": (0.5, 0.01, 3), "memory": (0.85, 0.3, 1.2), "sharpness": (3, 1, 20),
        "latency_s": (1e-5, 1e-6, 1e-4), "block_s": (3e-6, 1e-8, 1e-4), "critical_s": (1e-10, 1e-13, 1e-7),
    },
    ExpertLaw: {
        "compute": (0.5, 0.02, 1.1), "memory": (0.8, 0.1, 1.2), "sharpness": (2, 0.7, 20),
        "latency_s": (2e-5, 1e-6, 3e-4), "expert_s": (1e-8, 1e-12, 1e-5), "token_s": (1e-8, 1e-12, 1e-6),
    },
    CollectiveLaw: {"latency_s": (5e-6, 1e-7, 1e-3), "link": (0.7, 0.01, 1.5), "sharpness": (1.5, 0.5, 10)},
}
"""Parameters of each law: where the search starts, and its bounds."""

WORST_P90 = 0.4
"""A fit whose held-out p90 is worse is not kept: head dimension 512 (FlashAttention-4) is too rough for this law."""

FIT_ROWS = 6000
"""Rows that the few parameters of a law are searched on; the grid takes all."""


def fit_device(data: Path, device: str, fitted: str) -> tuple[KernelFile, ...]:
    """All kernel files that the tables in ``data`` allow for ``device``.

    Args:
        data: folder of Parquet tables, any subset.
        fitted: the date that the files carry, YYYY-MM-DD.

    Raises:
        UsageError: the tables do not know the device, or the folder holds none of them.
        InputError: a table that cannot be read.
    """
    if device not in SYSTEMS:
        raise UsageError(unknown_name("measured device", device, SYSTEMS))
    made = [fit_recipe(data, device, recipe, fitted) for recipe in RECIPES]
    files = tuple(file for file in made if file is not None)
    if not files:
        tables = ", ".join(sorted({f"{recipe.table}.parquet" for recipe in RECIPES}))
        raise UsageError(f"{data}: holds no kernel tables of {device} (known: {tables})")
    return files


def fit_recipe(data: Path, device: str, recipe: Recipe, fitted: str) -> KernelFile | None:
    """The kernel file of one recipe; None where there are no rows or the device lacks the dtype."""
    profile = catalog.device(device)
    multiplies = recipe.operator in ("gemm", "grouped_gemm")
    if multiplies and not profile.supports(recipe.dtype):  # type: ignore[arg-type]  # recipes hold words of WeightDtype
        return None
    rows = read_rows(data, recipe, SYSTEMS[device])
    if rows is None:
        return None
    fits = []
    for problem in problems(recipe, rows, profile):
        factor = window_factor(rows, problem.variant) if recipe.operator == "decode_attention" else 1.0
        fit = fit_problem(recipe.operator, problem, UNITS.get(device, 128), factor)
        if fit.held_out["p90"] <= WORST_P90:
            fits.append(fit)
    source = f"{DATABASE}, {recipe.table}.parquet"
    return KernelFile(recipe.operator, recipe.dtype, recipe.engine, rows.version, source, fitted, tuple(fits))


def fit_problem(operator: str, problem: Problem, units: int, factor: float = 1.0) -> Fit:
    """Law, grid and held-out error of one variant. Rows that beat 0.95 × roofline take no part."""
    possible = problem.seconds >= problem.floor
    test = held_out(problem.seconds.size)
    train = np.flatnonzero(possible & ~test)
    law = _law(operator, problem, train, units)
    predicted = law.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth)
    knots = KNOTS[f"{operator} windowed" if problem.windowed else operator]
    axes = {axis: (problem.sizes[axis][train], count) for axis, count in knots.items()}
    grid = fit_grid(axes, np.log(problem.seconds / predicted)[train], SMOOTHNESS[operator])
    measured = {axis: (float(problem.sizes[axis].min()), float(problem.sizes[axis].max())) for axis in knots}
    fit = Fit(
        problem.variant, problem.windowed, law, grid, measured, int(problem.seconds.size),
        int((~possible).sum()), {}, factor,
    )
    return replace(fit, held_out=held_out_error(fit, problem))


def held_out_error(fit: Fit, problem: Problem) -> dict[str, float]:
    """Error on the shapes that the fit has not seen, with the floor applied as the kernel model does."""
    chosen = held_out(problem.seconds.size) & (problem.seconds >= problem.floor)
    predicted = np.maximum(
        fit.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth), problem.floor
    )
    return error_summary(predicted[chosen], problem.seconds[chosen])


def _law(operator: str, problem: Problem, train: NDArray[np.int64], units: int) -> Law:
    """The law with the parameters that explain the training rows best."""
    if train.size > FIT_ROWS:
        train = np.sort(np.random.default_rng(0).choice(train, FIT_ROWS, replace=False))
    part = problem.take(train)
    if operator == "gemm":
        tiles = ({"tile_m": rows, "tile_n": columns, "units": units} for rows, columns in TILES)
        return min((_search(GemmLaw, part, fixed) for fixed in tiles), key=lambda found: found[1])[0]
    law = LAWS[operator]
    return _search(law, part, {"units": units} if law in (PrefillLaw, DecodeLaw) else {})[0]


def _search(law: type[Law], part: Problem, fixed: dict[str, int]) -> tuple[Law, float]:
    """The best parameters of ``law``, and their loss."""
    names = list(SEARCH[law])
    start, low, high = zip(*SEARCH[law].values(), strict=True)

    def made(values: Floats) -> Law:
        return law(**dict(zip(names, values.tolist(), strict=True)), **fixed)

    def predict(values: Floats) -> Floats:
        return made(values).seconds(part.work, part.sizes, part.peak, part.bandwidth)

    values, loss = fit_parameters(predict, part.seconds, start, low, high)
    return made(values), loss


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
            e, name = fit.held_out, f"{fit.variant}{' win' if fit.windowed else ''}"
            lines.append(
                f"{file.name:36} {name:>9} {fit.rows:>6} {fit.beyond_roofline:>8} "
                f"{e['median']:>7.1%} {e['p90']:>6.1%} {e['worst']:>6.0%}"
            )
    return lines
