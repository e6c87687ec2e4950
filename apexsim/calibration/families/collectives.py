"""Collectives over the scale-up links."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from apexsim.calibration.families.family import Family
from apexsim.calibration.problem import Problem, even_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.collectives import sent_bytes
from apexsim.cost.floor import FLOOR
from apexsim.cost.shapes import collective_work
from apexsim.spec.hardware import HardwareProfile

MIN_ROWS = 10
"""A number of ranks with fewer rows is not fitted."""

SIZES = ("gpus", "bytes")

KNOTS = 10

SEARCH = {"latency_s": (5e-6, 1e-7, 1e-3), "link": (0.7, 0.01, 1.5), "sharpness": (1.5, 0.5, 10.0)}


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """One a number of ranks; none on a device without scale-up links."""
    if profile.scaleup is None:
        return
    bandwidth = profile.scaleup.bandwidth
    for ranks in np.unique(rows.sizes["gpus"]):
        mine = rows.take(rows.sizes["gpus"] == ranks)
        if mine.seconds.size < MIN_ROWS:
            continue
        sent = sent_bytes(recipe.operator, mine.sizes["bytes"], int(ranks))
        sizes = {"bytes": mine.sizes["bytes"]}
        knots = {"bytes": even_knots(mine.sizes["bytes"], KNOTS)}
        floor = FLOOR * sent / bandwidth
        yield Problem(collective_work(sent), sizes, mine.seconds, floor, 0.0, bandwidth, knots, int(ranks))


ALL_REDUCE = Family(
    operator="all_reduce",
    recipes=(
        # Eager variants hold 20 to 44 us of launches, which a running engine hides or replays in a graph.
        Recipe("all_reduce", "bf16", "vllm", "allreduce", SIZES, {"variant": "vllm_graph"}),
        Recipe("all_reduce", "bf16", "tensorrt-llm", "allreduce", SIZES, {"variant": "trtllm"}),
    ),
    problems=_problems,
    search=SEARCH,
    smoothness=0.3,
)

ALL_GATHER = Family(
    operator="all_gather",
    recipes=(Recipe("all_gather", "bf16", "nccl", "nccl", SIZES, {"op": "all_gather", "dtype": "half"}),),
    problems=_problems,
    search=SEARCH,
    smoothness=0.3,
)
