"""Berths: the places of replicas. A berth holds the devices of one, which may serve in one pool or in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apexsim.spec.fleet import Fleet

if TYPE_CHECKING:
    import simpy

ABSENT, COMING, GONE, LOADING, SERVING, DRAINING, DOWN, AWAY, MOVING = (
    "absent", "coming", "gone", "loading", "serving", "draining", "down", "away", "moving",
)  # fmt: skip
"""States of a berth. Its devices are not there in the first three; one that is gone never comes back."""

WITHOUT_DEVICES = (ABSENT, COMING, GONE)


@dataclass(eq=False)
class Berth:
    """The devices of one replica.

    Attributes:
        number: among the berths of all pools, in their order: where it stands.
        pool: in which it serves, or will.
        replicas: its number in each pool that it may serve in.
        epoch: of what it waits for; a wake-up of an earlier one is stale.
        drained: succeeds when it has ended what it had.
        slowed_by: factors on its iterations that hold now; their product does.
    """

    number: int
    pool: int
    replicas: dict[int, int]
    state: str
    epoch: int = 0
    drained: simpy.Event | None = None
    open_since: float = 0.0
    held_since: float = 0.0
    serving: list[tuple[float, float, int]] = field(default_factory=list)  # begin, end, pool
    held: list[tuple[float, float, int]] = field(default_factory=list)
    slowed_by: list[float] = field(default_factory=list)

    @property
    def replica(self) -> int:
        return self.replicas[self.pool]


def berths_of(fleet: Fleet, replicas: Sequence[int]) -> list[Berth]:
    """Berths of pools that begin with so many ``replicas``, those for later ones included.

    A pool among which roles are switched has a replica for each berth of all of these, its own first.
    """
    switched = [rule.pool for rule in fleet.switch.pools] if fleet.switch else []
    berths: list[Berth] = []
    for p, there in enumerate(replicas):
        rule = fleet.scaling(p)
        for r in range(there if rule is None else rule.max_replicas):
            berths.append(Berth(len(berths), p, {p: r}, SERVING if r < there else ABSENT))
    for p in switched:
        foreign = [berth for berth in berths if berth.pool in switched and berth.pool != p]
        for k, berth in enumerate(foreign):
            berth.replicas[p] = replicas[p] + k
    return berths


def stand_of(berths: Sequence[Berth], pools: int) -> NDArray[np.int64]:
    """[units] the berth of every unit: the replicas of all pools, in their order."""
    places = sorted((p, r, berth.number) for berth in berths for p, r in berth.replicas.items())
    assert [p for p, _, _ in places] == sorted(p for p, _, _ in places)
    assert {p for p, _, _ in places} == set(range(pools))
    return np.array([number for _, _, number in places], np.int64)


def most_replicas(berths: Sequence[Berth], pools: int) -> list[int]:
    """Replicas that each pool may ever have."""
    return [sum(p in berth.replicas for berth in berths) for p in range(pools)]
