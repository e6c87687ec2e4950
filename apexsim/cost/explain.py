"""Where the time of one iteration goes, operator by operator, and how far each is from the device's roofline.

The seconds are those of the step tables, taken apart: an operator's share is what ``step.py`` added up for it, so the
rows, the launches that nothing hides and the host's time give the iteration's duration again.

Roofline position (Williams, Waterman & Patterson, CACM 2009): an operator that must do F FLOP and move B bytes needs at
least max(F / peak, B / bandwidth). ``reached`` is that time over the priced one. What is reached less than half is held
up by neither: by latency, launches, or kernels with too few rows to fill the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.ledger import CALIBRATED, COMMUNICATION, EXTRAPOLATED, PARTS, Ledger
from apexsim.cost.operators import AttentionOp, Gemm, GroupedGemm, Operator
from apexsim.cost.precision import compute_dtype, sixteen_bit
from apexsim.cost.pricing import Pricer, Sizes
from apexsim.cost.shapes import causal_pairs
from apexsim.cost.step import PoolParts
from apexsim.cost.tables import token_knots

Bound = Literal["compute", "memory", "links", "latency"]

HALF = 0.5
"""Share of the roofline below which an operator is bound by latency."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of a replica: ``decoding`` sequences with ``context`` tokens each (their new one counted), and a
    chunk of ``chunk`` tokens of one prompt of which ``past`` are cached."""

    decoding: int = 0
    context: float = 0.0
    chunk: int = 0
    past: int = 0

    @property
    def tokens(self) -> int:
        return self.decoding + self.chunk


@dataclass(frozen=True, slots=True)
class OperatorShare:
    """All runs of one operator in the iteration, on one rank of a stage.

    Attributes:
        part: gemm, attention, moe or communication.
        runs: how often the stage runs it.
        flops, moved_bytes: what it must do; bytes of a collective pass over links.
        reached: share of the roofline, 0 where it must do neither.
        calibrated: its price comes from measurements; extrapolated: … from outside their range.
    """

    name: str
    part: str
    runs: int
    seconds: float
    flops: float
    moved_bytes: float
    reached: float
    bound: Bound
    calibrated: bool
    extrapolated: bool

    @property
    def intensity(self) -> float | None:
        """FLOP a byte; None where nothing is moved."""
        return self.flops / self.moved_bytes if self.moved_bytes else None


@dataclass(frozen=True, slots=True)
class Explained:
    """One iteration on its slowest pipeline stage.

    ``launches_s`` is what launching the kernels adds to them, ``host_s`` the engine's own time that no kernel hides.
    """

    iteration: Iteration
    stage: int
    operators: tuple[OperatorShare, ...]
    launches_s: float
    host_s: float

    @property
    def kernels_s(self) -> float:
        return sum(op.seconds for op in self.operators)

    @property
    def duration_s(self) -> float:
        """Of the stage; a pipeline's other stages run beside it."""
        return self.kernels_s + self.launches_s + self.host_s

    @property
    def by_bound(self) -> dict[str, float]:
        """Seconds by what they are spent on: the operators' bounds, launches and the host, largest first."""
        seconds: Counter[str] = Counter()
        for op in self.operators:
            seconds[op.bound] += op.seconds
        seconds["launches"] += self.launches_s
        seconds["host"] += self.host_s
        return {name: total for name, total in seconds.most_common() if total > 0}

    @property
    def binds(self) -> str:
        """What most of the iteration is spent on."""
        return next(iter(self.by_bound), "nothing")

    @property
    def calibrated_share(self) -> float:
        """Of the kernels' seconds, what rests on measurements of this device."""
        return self._share([op for op in self.operators if op.calibrated])

    @property
    def extrapolated_share(self) -> float:
        """Of the kernels' seconds, what was priced outside the measured range."""
        return self._share([op for op in self.operators if op.extrapolated])

    def _share(self, operators: list[OperatorShare]) -> float:
        return sum(op.seconds for op in operators) / self.kernels_s if self.kernels_s else 0.0


def explain(parts: PoolParts, iteration: Iteration) -> Explained:
    """One iteration taken apart, on the stage that takes longest."""
    each = [_stage(parts, stage, iteration) for stage in range(len(parts.stages))]
    return max(each, key=lambda stage: stage.duration_s)


def _stage(parts: PoolParts, stage: int, iteration: Iteration) -> Explained:
    operators = tuple(_shares(parts, stage, iteration))
    kernels_s = sum(op.seconds for op in operators)
    launches_s = host_s = 0.0
    if iteration.tokens:
        scheduled = iteration.decoding + (iteration.chunk > 0)
        launches_s = parts.launches_added_s(stage, _sizes(parts, iteration), iteration.tokens)
        if stage == 0:
            device_s = kernels_s + launches_s
            floor_s, serial_s = (float(table[scheduled]) for table in parts.host_s)
            host_s = max(floor_s - device_s, 0.0) + serial_s
    return Explained(iteration, stage, operators, launches_s, host_s)
