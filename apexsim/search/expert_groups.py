"""Experts of one layer in equally large groups of about equal load: the first stage of MoETuner (arXiv 2502.06643).

EPLB's packing (heaviest first, to the lightest group with room) and swaps between the fullest group and the others are
often at a bound that nothing can beat; where they are not, and the layer is small, the integer program decides. What
remains open is told as a gap. Bounds of the fullest group: the mean; the heaviest expert with the lightest others; of
the groups + 1 heaviest experts two share a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.placement import packed_evenly
from apexsim.search.placement_ilp import groups_by_ilp

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALL = 160
"""Experts times groups up to which an integer program is worth its time."""

EXACT = 1e-9
"""A relative gap that rounding makes."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """``members[group]`` are experts; ``value`` is what was made small, ``bound`` what no grouping beats."""

    members: Integers
    value: float
    bound: float
    timed_out: bool = False

    @property
    def gap(self) -> float:
        gap = (self.value - self.bound) / self.value if self.value > 0 else 0.0
        return gap if gap > EXACT else 0.0


def grouped(loads: Floats, groups: int, balance: str, time_limit_s: float) -> Grouped:
    """[experts] tokens in ``groups`` groups; ``balance``: max-load or sum-deviation."""
    pack = packed_evenly(loads, groups)
    members = _swapped(loads, np.argsort(pack, kind="stable").reshape(groups, -1))
    found = Grouped(members, worth(loads, members, balance), least(loads, groups) if balance == "max-load" else 0.0)
    if not found.gap or loads.size * groups > SMALL or loads.size == groups:
        return found if loads.size > groups else Grouped(members, found.value, found.value)
    proven = groups_by_ilp(loads, groups, balance, time_limit_s)
    better = found.members if proven.members is None else proven.members
    value = min(found.value, worth(loads, better, balance))
    members = better if worth(loads, better, balance) < found.value else found.members
    return Grouped(members, value, max(min(proven.bound, value), found.bound), proven.timed_out)


def worth(loads: Floats, members: Integers, balance: str) -> float:
    """Load of the fullest group, or the sum of what groups deviate from the mean."""
    held = loads[members].sum(axis=1)
    return float(held.max()) if balance == "max-load" else float(np.abs(held - held.mean()).sum())


def least(loads: Floats, groups: int) -> float:
    """What the fullest of equally large groups has at least."""
    size, ordered = loads.size // groups, np.sort(loads)
    alone = ordered[-1] + ordered[: size - 1].sum()
    pair = ordered[-groups] + ordered[-groups - 1] + ordered[: size - 2].sum() if size > 1 else 0.0
    bound = float(max(loads.sum() / groups, alone, pair))
    return float(ceil(bound - EXACT * bound)) if (loads % 1 == 0).all() else bound


def _swapped(loads: Floats, members: Integers) -> Integers:
    """The groups after the swaps of an expert of the fullest one that lower the fuller of the two most."""
    members = members.copy()
    for _ in range(members.size):
        held = loads[members].sum(axis=1)
        full = int(held.argmax())
        best = float(held[full]) * (1 - EXACT)
        swap: tuple[int, int, int] | None = None
        for other in range(len(members)):
            if other != full:
                less = loads[members[full]][:, None] - loads[members[other]][None, :]
                after = np.maximum(held[full] - less, held[other] + less)
                if after.min() < best:
                    mine, theirs = divmod(int(after.argmin()), after.shape[1])
                    best, swap = float(after.min()), (other, mine, theirs)
        if swap is None:
            break
        other, mine, theirs = swap
        members[full, mine], members[other, theirs] = members[other, theirs], members[full, mine]
    return np.sort(members, axis=1)
