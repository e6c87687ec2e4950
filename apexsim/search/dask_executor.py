"""Dask: a cluster that ``DASK_SCHEDULER_ADDRESS`` names, else one of local processes for the length of one search."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import dask
import joblib
from distributed import Client, KilledWorker, LocalCluster
from distributed.comm import CommClosedError

from apexsim.errors import UsageError
from apexsim.search.clusters import ClusterWorkers, TaskLost, work
from apexsim.search.executors import WorkersLost

ADDRESS = "DASK_SCHEDULER_ADDRESS"

QUIET = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
"""Of a cluster of ours: what a lost task does next is for Workers to say."""

ABSENT_S = 30.0
"""So long a cluster may be without a worker; one that was killed is back within seconds."""

NOBODY = "no worker of the Dask cluster is left"


class Dask(ClusterWorkers):
    """One task a thread of the cluster; local workers have one thread each, for the engine keeps a whole one busy."""

    def __init__(self, workers: int | None) -> None:
        super().__init__(workers or joblib.cpu_count())
        self._wanted = workers
        self._cluster: Any = None

    def __enter__(self) -> Dask:
        address = dask.config.get("scheduler-address", None)
        if address is None:
            with dask.config.set(QUIET):
                self._cluster = LocalCluster(
                    n_workers=self._workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )  # fmt: skip
        try:
            self._client = Client(address or self._cluster, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"backend dask: {ADDRESS}={address}: no scheduler answers there") from error
        threads = sum(self._client.nthreads().values()) or self._workers
        self._workers = min(self._wanted or threads, threads)
        self._done: SimpleQueue[Any] = SimpleQueue()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _send(self, value: Any) -> Any:
        try:
            self._client.wait_for_workers(1, timeout=ABSENT_S)
            return self._client.scatter([value], broadcast=True, hash=False)[0]
        except (TimeoutError, CommClosedError):
            raise WorkersLost(NOBODY) from None

    def _submit(self, parcel: bytes, shared: Sequence[Any]) -> Any:
        future = self._client.submit(work, parcel, *shared, pure=False)
        future.add_done_callback(self._done.put)
        return future

    def _next(self, pending: dict[Any, int]) -> Any:
        while True:
            try:
                future = self._done.get(timeout=ABSENT_S)
            except Empty:
                if not self._client.nthreads():  # tasks would wait for ever
                    raise WorkersLost(NOBODY) from None
                continue
            if future in pending:  # and not of a run that its caller left
                return future

    def _result(self, handle: Any) -> Any:
        try:
            return handle.result()
        except (KilledWorker, CancelledError, CommClosedError) as error:
            raise TaskLost(str(error)) from error

    def _cancel(self, handle: Any) -> None:
        handle.cancel()
