"""Families for the tables that ``apexsim calibrate run`` writes: PyTorch's kernels on the user's own device.

The same laws as everywhere, but searched over wider ranges, because such a device may be a CPU whose attention reaches
a fiftieth of its peak; and coarser grids, because such a table holds hundreds of rows and not tens of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.families.family import Family, units
from apexsim.calibration.problem import Problem, even_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.spec.hardware import HardwareProfile

ENGINE = "torch"
"""Column ``backend`` of such tables, and the engine of the files that are fitted on them."""

WIDE: Mapping[str, tuple[float, float, float]] = {
    "compute": (0.3, 0.002, 1.2), "memory": (0.5, 0.02, 3.0), "sharpness": (2.0, 0.7, 30.0),
    "latency_s": (1e-5, 1e-7, 1e-3), "quantisation": (0.5, 0.01, 1.0), "k_half": (50.0, 0.1, 3000.0),
    "critical_s": (5e-9, 1e-13, 1e-5), "block_s": (3e-6, 1e-8, 1e-3), "link": (0.7, 0.01, 1.5),
}  # fmt: skip
"""Parameter of any of the laws -> start, smallest and largest value."""

SMOOTHNESS = 0.1

GEMM_KNOTS = {"m": 12, "n": 4, "k": 4}

MIN_ROWS = 12
"""A variant with fewer rows is not fitted, and stays analytic. Collectives have no more than one size an octave."""

WORST_P90 = 0.8
"""The user's own measurements are kept unless they explain nothing: the alternative is a guess, and the file says how
good they are."""

ATTENTION_KNOTS = {"blocks": 6, "tokens": 8, "group": 3}


TILES = ((1, 16), (16, 16), (16, 64), (32, 64), (64, 64), (64, 128))
"""Tiles of matrix products, rows × columns: from the registers of a CPU to the smaller tiles of GPUs. With a taller one
the law doubles at once where the rows pass it, which no table of a few hundred rows can refute."""


def _tiles(profile: HardwareProfile) -> Sequence[Mapping[str, int]]:
    return [{"tile_m": rows, "tile_n": columns, "units": units(profile)} for rows, columns in TILES]


def _own(operator: str, knots: Mapping[str, int], *recipes: Recipe) -> Family:
    """The family of an operator with these recipes and a grid of so many knots an axis."""
    family = FAMILIES[operator]

    def problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
        for problem in family.problems(recipe, rows, profile):
            if problem.seconds.size < MIN_ROWS or not problem.held_out().any() or problem.held_out().all():
                continue
            coarse = {axis: even_knots(problem.sizes[axis], count) for axis, count in knots.items()}
            yield replace(problem, knots=coarse, finer=())

    search = {name: WIDE.get(name, limits) for name, limits in family.search.items()}
    fixed = _tiles if operator == "gemm" else family.fixed
    return replace(
        family, recipes=recipes, problems=problems, search=search, smoothness=SMOOTHNESS, worst_p90=WORST_P90,
        fixed=fixed,
    )


def _recipe(operator: str, kept_as: str, table: str, **where: str) -> Recipe:
    """An operator's rows in a table of ours; files of any 16-bit format are named bf16."""
    return replace(
        FAMILIES[operator].recipes[0], dtype=kept_as, engine=ENGINE, table=table, where={"backend": ENGINE, **where},
        words=(), database="measured by apexsim calibrate run",
    )


def _sixteen_bit(operator: str, knots: Mapping[str, int], table: str, **where: str) -> Family:
    return _own(operator, knots, _recipe(operator, "bf16", table, **where))


OWN: dict[str, Family] = {
    family.operator: family
    for family in (
        _own(
            "gemm", GEMM_KNOTS, _recipe("gemm", "bf16", "gemm", dtype="bfloat16"),
            _recipe("gemm", "fp8", "gemm", dtype="fp8"),
        ),
        _sixteen_bit("prefill_attention", ATTENTION_KNOTS, "context_attention", kv_dtype="bfloat16"),
        _sixteen_bit("decode_attention", ATTENTION_KNOTS, "generation_attention", kv_dtype="bfloat16"),
        _sixteen_bit("all_reduce", {"bytes": 8}, "nccl", op="all_reduce", dtype="half"),
        _sixteen_bit("all_gather", {"bytes": 8}, "nccl", op="all_gather", dtype="half"),
    )
}  # fmt: skip
"""Operator -> its family on a device that ``apexsim calibrate run`` measured."""
