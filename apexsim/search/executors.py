"""Who evaluates: this process, or worker processes. A search does not care, and its answer does not either.

An executor applies a function to items and yields what comes back, in any order; whoever calls it keys the
results by plan. Another backend (Ray, Dask) is one more class here and one more row of ``BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from apexsim.errors import UsageError, unknown_name

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkersLost(RuntimeError):
    """Worker processes died, and those that took over died, too."""


class Executor(Protocol):
    """A context manager whose workers live from ``__enter__`` to ``__exit__``."""

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``function(item)`` for each item, as they finish. Both must be picklable.

        Raises:
            WorkersLost: some results cannot be had, because whoever works on them dies.
        """
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Serial:
    """One item after the other, in this process."""

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return map(function, items)

    def __enter__(self) -> Serial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Processes:
    """Local worker processes (joblib's loky); short items travel in batches, large arrays by memory map.

    Where a worker is killed (by the system, when memory runs out) what was lost is done again, once, by fresh and
    fewer processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._parallel = self._processes()

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        missing = dict(enumerate(items))
        try:
            yield from self._take(function, missing)
        except TerminatedWorkerError:
            self.__exit__(None, None, None)
            self._workers = max(2, self._workers // 2)
            self._parallel = self._processes()
            self._parallel.__enter__()
            yield from self._again(function, missing)

    def _again(self, function: Callable[[Item], Result], missing: dict[int, Item]) -> Iterator[Result]:
        try:
            yield from self._take(function, missing)
        except TerminatedWorkerError as error:
            raise WorkersLost("worker processes were killed, twice: is there enough memory?") from error

    def _take(self, function: Callable[[Item], Result], missing: dict[int, Item]) -> Iterator[Result]:
        """The results of what is ``missing``; what is there leaves it."""
        task = partial(_numbered, function)
        for number, result in self._parallel(joblib.delayed(task)(*item) for item in list(missing.items())):
            del missing[number]
            yield result

    def _processes(self) -> joblib.Parallel:
        return joblib.Parallel(n_jobs=self._workers, backend="loky", return_as="generator_unordered")

    def __enter__(self) -> Processes:
        self._parallel.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parallel.__exit__(kind, error, trace)


def _numbered(function: Callable[[Item], Result], number: int, item: Item) -> tuple[int, Result]:
    return number, function(item)


BACKENDS: dict[str, Callable[[int], Executor]] = {"process": Processes}


def executor(backend: str, workers: int | None) -> Executor:
    """The executor for ``workers`` processes (all processors of this machine where left out).

    Raises:
        UsageError: nobody knows the backend, or the number of workers is not positive.
    """
    if backend not in BACKENDS:
        raise UsageError(unknown_name("backend", backend, BACKENDS))
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not allowed; at least 1 is needed")
    count = workers or joblib.cpu_count()  # what the affinity and the container leave to this process
    return Serial() if count == 1 else BACKENDS[backend](count)
