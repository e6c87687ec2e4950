"""Hand-made tables of kernels: rows that a law would measure, and folders of Parquet."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.problem import Problem
from apexsim.calibration.report import Line, price_folder
from apexsim.calibration.rows import Recipe, Rows
from apexsim.spec.hardware import HardwareProfile


def recipe_of(name: str, device: str = "h100-sxm") -> Recipe:
    """The recipe of a kernel file on a device."""
    family = FAMILIES[name.partition(".")[0]]
    return next(recipe for recipe in family.recipes if recipe.name == name and recipe.speaks_of(device))


def rows_of(axes: dict[str, list[Any]], version: str = "1.0") -> Rows:
    """Every combination of the axes' values, words among them, sorted as ``read_rows`` sorts; no seconds yet."""
    words = {name: values for name, values in axes.items() if isinstance(values[0], str)}
    order = [*words, *(name for name in axes if name not in words)]
    found = list(zip(*sorted(product(*(axes[name] for name in order))), strict=True))
    columns = dict(zip(order, found, strict=True))
    sizes = {name: np.array(columns[name], dtype=np.float64) for name in order if name not in words}
    return Rows(sizes, np.ones(len(found[0])), version, {name: np.array(columns[name]) for name in words})


def timed(recipe: Recipe, rows: Rows, profile: HardwareProfile, law: Any, noise: float = 0.0) -> list[Problem]:
    """The problems of ``rows`` whose seconds are those of ``law``, with what was measured around them."""
    draw = np.random.default_rng(3)
    made = []
    for problem in FAMILIES[recipe.operator].problems(recipe, rows, profile):
        seconds = law.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth)
        made.append(replace(problem, seconds=seconds * np.exp(noise * draw.standard_normal(seconds.size))))
    return made


def report(folder: Path, name: str, columns: dict[str, Any]) -> dict[str, Line]:
    """The report's lines on one table, by dtype."""
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return {line.dtype: line for line in price_folder(folder)}
