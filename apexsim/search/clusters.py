"""What Ray and Dask have in common: tasks in flight, what many tasks share sent once, and workers of one version.

Plans travel pickled, with each task. What a ``partial`` binds (the context of a search: trace, model, profile) is put
into the cluster's own memory once, and each worker reads it there.
"""

from __future__ import annotations

import pickle
import platform
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from apexsim import __version__
from apexsim.errors import UsageError
from apexsim.search.executors import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks in flight for each worker: the next one is there when a task ends."""

_NOTHING: dict[str, Any] = {}


class TaskLost(Exception):
    """The worker of a task died."""


class ClusterWorkers(Workers):
    """Workers of a cluster, of which a subclass knows how to ask."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._sent: dict[int, tuple[Any, Any]] = {}  # id of a value -> the value, so that the id is its own, and handle

    @abstractmethod
    def _send(self, value: Any) -> Any:
        """A handle of ``value`` in the cluster's memory."""

    @abstractmethod
    def _submit(self, parcel: bytes, shared: Sequence[Any]) -> Any:
        """A handle of ``work(parcel, *shared)``, which begins; equal to no other handle."""

    @abstractmethod
    def _next(self, pending: dict[Any, int]) -> Any:
        """The handle of a task that is done, among those that are pending; waits for it."""

    @abstractmethod
    def _result(self, handle: Any) -> Any:
        """What the task returned. Raises what it raised, or TaskLost."""

    @abstractmethod
    def _cancel(self, handle: Any) -> None:
        """Nobody wants the result any more."""

    def _take(
        self, function: Callable[[Item], Result], items: Sequence[tuple[int, Item]], workers: int
    ) -> Iterator[tuple[int, Result]]:
        shared = [self._shared(part) for part in _parts(function)]
        # one task beside another on a worker would share its death
        most = workers * AHEAD if workers > 1 else 1
        waiting, pending, lost = iter(items), dict[Any, int](), False
        try:
            while True:
                while len(pending) < most and (new := next(waiting, None)) is not None:
                    number, item = new
                    pending[self._submit(pickle.dumps((__version__, item)), shared)] = number
                if not pending:
                    break
                handle = self._next(pending)
                number = pending.pop(handle)
                try:
                    result = self._result(handle)
                except TaskLost:
                    lost = True
                    continue
                yield number, result
        finally:
            for handle in pending:
                self._cancel(handle)
            if lost:
                self._sent.clear()  # what was shared may have been lost with a worker

    def _shared(self, value: Any) -> Any:
        if id(value) not in self._sent:
            self._sent[id(value)] = value, self._send(value)
        return self._sent[id(value)][1]

    def __enter__(self) -> ClusterWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sent.clear()


def work(parcel: bytes, function: Callable[..., Any], named: dict[str, Any], *bound: Any) -> Any:
    """What a worker does: ``function`` of what is bound and of the item in the parcel.

    Raises:
        UsageError: the worker has another version of apexsim, whose results could be others.
    """
    version, item = pickle.loads(parcel)
    if version != __version__:
        raise UsageError(
            f"the worker on {platform.node()} has apexsim {__version__}, the search {version}: install the same one"
        )
    return function(*bound, item, **named)


def _parts(function: Callable[..., Any]) -> tuple[Any, ...]:
    """A function and what it binds, as ``work`` takes them."""
    if isinstance(function, partial):
        return (function.func, function.keywords, *function.args)
    return (function, _NOTHING)
