"""The trials that a race asks for, made by an executor: of whole plans, or put together from their pools'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from apexsim.search.apart import Alone, joined, nothing_of, parts_of, try_parts
from apexsim.search.combinations import shape_of
from apexsim.search.executors import Executor, batches
from apexsim.search.patience import FOREVER, Patience
from apexsim.search.prune import Context
from apexsim.search.trial import Request, Trial, not_tried, short, try_all
from apexsim.spec.plan import Pool

AT_ONCE = 16
"""Trials of one task for a worker: those of like shapes, which it compiles once."""


class Trials:
    """Makes trials, and knows what was tried.

    Attributes:
        tried: ids of the plans.
        requests: that were replayed.
    """

    def __init__(
        self,
        context: Context,
        executor: Executor,
        patience: Patience = FOREVER,
        report: Callable[[str, int], None] = lambda stage, done: None,
    ) -> None:
        self._executor, self._report, self._context = executor, report, context
        self._try = partial(try_all, context, patience=patience)
        self._try_parts = partial(try_parts, context, patience=patience)
        self.tried: set[str] = set()
        self.requests = 0

    def make(self, wanted: Sequence[Request]) -> list[Trial]:
        """In the order in which they are asked for."""
        made = {trial.id: trial for trial in self._put_together([request for request in wanted if request.apart])}
        alike = sorted((request for request in wanted if not request.apart), key=_shapes)
        for trials in self._executor.run(self._try, batches(alike, AT_ONCE), lost=not_tried):
            made.update({trial.id: trial for trial in trials})
            self.requests += sum(trial.requests_simulated for trial in trials)
            self._report("tried in short", len(self.tried | made.keys()))
        self.tried |= made.keys()
        return [made[request.candidate.id] for request in wanted]

    def _put_together(self, wanted: Sequence[Request]) -> Iterator[Trial]:
        alone: dict[Pool, dict[float, Alone]] = {}
        of_parts = batches(parts_of(wanted), AT_ONCE)
        for parts in self._executor.run(self._try_parts, of_parts, lost=nothing_of):
            alone.update({part.pool: at for part, at in parts})
            self.requests += sum(len(at) * self._replayed(part.requests) for part, at in parts)
            self._report("pools tried alone", len(alone))
        return joined(self._context, wanted, alone)

    def _replayed(self, asked: int) -> int:
        return len(short(self._context.problem.trace, asked))


def _shapes(request: Request) -> list[str]:
    return [shape_of(pool).model_dump_json() for pool in request.candidate.plan.pools]
