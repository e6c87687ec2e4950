"""Who evaluates: this process, or worker processes. A search does not care, and its answer does not either.

An executor applies a function to items and yields what comes back, in any order; whoever calls it keys the
results by plan. Another backend (Ray, Dask) is one more class here and one more row of ``BACKENDS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

import joblib

from apexsim.errors import UsageError, unknown_name

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """A context manager whose workers live from ``__enter__`` to ``__exit__``."""

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``function(item)`` for each item, as they finish. Both must be picklable."""
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
    """Local worker processes (joblib's loky); short items travel in batches, large arrays by memory map."""

    def __init__(self, workers: int) -> None:
        self._parallel = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered")

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        results: Iterator[Result] = self._parallel(joblib.delayed(function)(item) for item in items)
        return results

    def __enter__(self) -> Processes:
        self._parallel.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parallel.__exit__(kind, error, trace)


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
    count = workers or len(os.sched_getaffinity(0))
    return Serial() if count == 1 else BACKENDS[backend](count)
