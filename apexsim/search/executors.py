"""Who evaluates: this process, worker processes, or a cluster. A search does not care, and its answer does not either.

An executor applies a function to items and yields what comes back, in any order; whoever calls it keys the results by
plan. ``BACKENDS`` names them; each is one class, and a library that only one of them needs is imported with it.
"""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

import joblib
from joblib.externals.loky import process_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from apexsim.errors import UsageError, unknown_name

process_executor._MAX_MEMORY_LEAK_SIZE = 2_000_000_000
"""Bytes that a worker may grow by before loky replaces it: compiled shapes of pools, which it keeps, are no leak."""

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_IN_A_ROW = 10
"""So many items that each lose their worker, one after the other, are not to blame: nobody can work here."""


class WorkersLost(RuntimeError):
    """Workers died, and those that took over died, too."""


class Executor(Protocol):
    """A context manager whose workers live from ``__enter__`` to ``__exit__``."""

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        """``function(item)`` for each item, as they finish. Both must be picklable.

        What the function raises is raised here, and ends the run. A run that its caller leaves early is over, and
        the next one may begin.

        Args:
            function: one that many items share is best a ``partial`` of a plain function: what it binds travels to
                other machines once.
            lost: the result in place of one that cannot be had, because it kills its worker each time, also alone.

        Raises:
            WorkersLost: some results cannot be had, and there is no ``lost``, or workers die whatever they do.
        """
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Serial:
    """One item after the other, in this process."""

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        return map(function, items)

    def __enter__(self) -> Serial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Workers(ABC):
    """What executors with workers that can die share: what is lost is done again by fewer, then one at a time.

    A death says little: the system kills where memory runs out, whoever is to blame. What loses its worker
    with nobody beside it is to blame itself.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        lost: Callable[[Item], Result] | None = None,
    ) -> Iterator[Result]:
        missing = dict(enumerate(items))
        yield from self._finished(function, missing, self._workers)
        if len(missing) > self._workers:
            yield from self._finished(function, missing, max(1, self._workers // 2))
        in_a_row = 0
        for number, item in list(missing.items()):
            alone = {number: item}
            yield from self._finished(function, alone, 1)
            in_a_row = in_a_row + 1 if alone else 0
            if alone and (lost is None or in_a_row == MOST_IN_A_ROW):
                raise WorkersLost("workers were killed, also those that took over: is there enough memory?")
            if alone and lost is not None:
                yield lost(item)

    def _finished(
        self, function: Callable[[Item], Result], missing: dict[int, Item], workers: int
    ) -> Iterator[Result]:
        """The results of what is ``missing``, at most ``workers`` at a time; what is there leaves ``missing``."""
        for number, result in self._take(function, list(missing.items()), workers):
            del missing[number]
            yield result

    @abstractmethod
    def _take(
        self, function: Callable[[Item], Result], items: Sequence[tuple[int, Item]], workers: int
    ) -> Iterator[tuple[int, Result]]:
        """Number and ``function(item)`` of each, as they finish; those that lose their worker are left out."""


class Processes(Workers):
    """Local worker processes (joblib's loky); short items travel in batches, large arrays by memory map."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._parallel = self._processes(workers)

    def _take(
        self, function: Callable[[Item], Result], items: Sequence[tuple[int, Item]], workers: int
    ) -> Iterator[tuple[int, Result]]:
        task = partial(_numbered, function)
        results = None
        try:  # workers may die while they are still being handed their first items
            results = self._parallel(joblib.delayed(task)(*item) for item in items)
            for result in results:  # noqa: UP028 - whoever leaves a `yield from` early closes them, with a warning
                yield result
        except TerminatedWorkerError:  # all of them are gone
            self._begin_anew(max(1, self._workers // 2))
        except BaseException:  # results that nobody took would turn up in the next run
            with warnings.catch_warnings(action="ignore"):
                if results is not None:
                    results.close()
                self._begin_anew(self._workers)
            raise

    def _begin_anew(self, workers: int) -> None:
        self.__exit__(None, None, None)
        self._parallel = self._processes(workers)
        self._parallel.__enter__()

    def _processes(self, workers: int) -> joblib.Parallel:
        """At least two: joblib would take one worker to be this process."""
        return joblib.Parallel(n_jobs=max(2, workers), backend="loky", return_as="generator_unordered")

    def __enter__(self) -> Processes:
        self._parallel.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parallel.__exit__(kind, error, trace)


def batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Of so many items each: what is one task for a worker, where an item alone does not outweigh the message."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _numbered(function: Callable[[Item], Result], number: int, item: Item) -> tuple[int, Result]:
    return number, function(item)


BACKENDS: dict[str, tuple[str, str]] = {
    "process": ("apexsim.search.executors:Processes", ""),
    "ray": ("apexsim.search.ray_executor:Ray", "ray"),
    "dask": ("apexsim.search.dask_executor:Dask", "dask"),
}
"""Name -> the class, made of the number of workers (None = all there are), and the extra that it needs."""


def executor(backend: str, workers: int | None) -> Executor:
    """The executor for ``workers`` workers (all processors where left out: of this machine, or of the cluster).

    Raises:
        UsageError: nobody knows the backend, its library is not installed, or the number of workers is not positive.
    """
    if backend not in BACKENDS:
        raise UsageError(unknown_name("backend", backend, BACKENDS))
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not allowed; at least 1 is needed")
    if backend == "process":
        count: int = workers or joblib.cpu_count()  # what the affinity and the container leave to this process
        return Serial() if count == 1 else Processes(count)
    target, extra = BACKENDS[backend]
    module, _, name = target.partition(":")
    try:
        made: Executor = getattr(importlib.import_module(module), name)(workers)
    except ImportError as error:
        hint = f"pip install 'apexsim[{extra}]'"
        raise UsageError(f"backend {backend}: its library cannot be imported ({error}); {hint}") from error
    return made
