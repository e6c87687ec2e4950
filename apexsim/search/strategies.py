"""In which order plans are replayed, and which never are. A seam: one class, one line in the registry.

A strategy is asked for the next plans and told what they reached, until it asks for none. It decides by what
it was told and by the candidates' bounds, never by who finished first: waves have a fixed size, whatever the
number of workers. ``apexsim.testing.strategy`` holds the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from apexsim import registry
from apexsim.errors import UsageError, unknown_name
from apexsim.search.figures import Figure
from apexsim.search.outcome import Candidate, Evaluation
from apexsim.search.pareto import AXES, Axes, losses, may_join_front
from apexsim.search.trade import ALWAYS

WAVE = 64
"""Plans that are asked for at once: enough for the workers of a large machine, few enough to prune soon."""


class Strategy(Protocol):
    """Made of all candidates, the objective, how many of the best plans (``keep``) must be exact, and the axes of the
    Pareto front."""

    def __init__(
        self, candidates: Sequence[Candidate], objective: Figure, keep: int, axes: Axes = AXES
    ) -> None: ...

    def ask(self) -> Sequence[Candidate]:
        """The next plans to replay, each at most once in a search; empty where the search is over."""
        ...

    def tell(self, reached: Mapping[str, Evaluation | None]) -> None:
        """What the plans of the last ``ask`` reached, by plan id; None for one that misses the SLO."""
        ...

    @property
    def dropped(self) -> Mapping[str, str]:
        """Plan id -> reason, of the plans that need no replay."""
        ...


class Grid:
    """Every plan, the most promising bound first, but for those that provably cannot matter.

    A plan is dropped where its bound on the objective is worse than the value of ``keep`` plans that were
    replayed, one replayed plan beats its bounds on the axes of the Pareto comparison, and by each of the other figures
    that are shown beside the ranking some replayed plan is better than it can be. So the first ``keep`` ranks, the
    Pareto front and the best plan by each figure are those of an exhaustive search.
    """

    def __init__(
        self, candidates: Sequence[Candidate], objective: Figure, keep: int, axes: Axes = AXES, wave: int = WAVE
    ) -> None:
        self._objective = objective
        self._axes = axes
        self._beside = [figure for figure in ALWAYS if figure not in (objective, *axes)]
        self._keep = keep
        self._wave = wave
        self._open = sorted(candidates, key=lambda c: (self._best_loss(c), -c.bounds.goodput_rps, c.id))
        self._reached: list[Evaluation] = []
        self._dropped: dict[str, str] = {}

    @property
    def dropped(self) -> Mapping[str, str]:
        return self._dropped

    def ask(self) -> Sequence[Candidate]:
        self._drop_hopeless()
        wave, self._open = self._open[: self._wave], self._open[self._wave :]
        return wave

    def tell(self, reached: Mapping[str, Evaluation | None]) -> None:
        self._reached.extend(evaluation for evaluation in reached.values() if evaluation is not None)

    def _best_loss(self, candidate: Candidate) -> float:
        return self._objective.loss(self._objective.bound(candidate.bounds, candidate.plan.devices))

    def _drop_hopeless(self) -> None:
        if len(self._reached) < self._keep:
            return
        values = sorted(self._objective.loss(self._objective.value(e)) for e in self._reached)
        worst_kept = values[self._keep - 1]
        points = np.array([losses(evaluation, self._axes) for evaluation in self._reached])
        best = [min(figure.loss(figure.value(e)) for e in self._reached) for figure in self._beside]
        still_open = []
        for candidate in self._open:
            hopeless = self._best_loss(candidate) > worst_kept
            hopeless = hopeless and not self._may_be_best(candidate, best)
            if hopeless and not may_join_front(candidate.bounds, candidate.plan.devices, points, self._axes):
                self._dropped[candidate.id] = self._reason(candidate, worst_kept)
            else:
                still_open.append(candidate)
        self._open = still_open

    def _may_be_best(self, candidate: Candidate, best: Sequence[float]) -> bool:
        """Whether it may be as good as the ``best`` so far by a figure that is neither the objective nor an axis."""
        bounds, devices = candidate.bounds, candidate.plan.devices
        each = (figure.loss(figure.bound(bounds, devices)) for figure in self._beside)
        return any(bound < np.inf and bound <= so_far for bound, so_far in zip(each, best, strict=True))

    def _reason(self, candidate: Candidate, worst_kept: float) -> str:
        objective = self._objective
        bound = objective.bound(candidate.bounds, candidate.plan.devices)
        assert bound is not None, "a plan without a bound is not hopeless"
        sign = -1 if objective.highest_wins else 1
        reach = "at most" if objective.highest_wins else "at least"
        by = f" (by its {candidate.bounds.binds})" if candidate.bounds.binds else ""
        return (
            f"{objective.label} {reach} {objective.scale * bound:.4g} {objective.unit}{by}, "
            f"worse than the best {self._keep} plans ({objective.scale * sign * worst_kept:.4g} or better)"
        )


def strategy(name: str) -> type[Strategy]:
    """The strategy class of that name; ``auto`` is the grid until a search needs more.

    Raises:
        UsageError: nobody registered the name.
    """
    known = ("auto", *registry.names("strategies"))
    if name not in known:
        raise UsageError(unknown_name("search strategy", name, known))
    chosen: type[Strategy] = registry.load("strategies", "grid" if name == "auto" else name)
    return chosen
