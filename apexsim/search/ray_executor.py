"""Ray: a cluster that ``RAY_ADDRESS`` names or this process has joined, else one of local processes for one search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import joblib
import ray

from apexsim.errors import UsageError
from apexsim.search.clusters import ClusterWorkers, TaskLost, work

ADDRESS = "RAY_ADDRESS"

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class Ray(ClusterWorkers):
    """One task a processor. A Ray that runs already in this process is used, and left as it is."""

    def __init__(self, workers: int | None) -> None:
        super().__init__(workers or joblib.cpu_count())
        self._wanted = workers
        self._ours = False

    def __enter__(self) -> Ray:
        if not ray.is_initialized():
            self._ours = True
            if os.environ.get(ADDRESS):
                self._join(os.environ[ADDRESS])
            else:
                ray.init(address="local", num_cpus=self._workers, include_dashboard=False, **QUIET)
        processors = int(ray.cluster_resources().get("CPU", 1))
        self._workers = min(self._wanted or processors, processors)
        # what a lost task does next is for Workers to say
        self._work = ray.remote(num_cpus=1, max_retries=0)(work)
        return self

    @staticmethod
    def _join(address: str) -> None:
        try:
            ray.init(address=address, **QUIET)
        except (ConnectionError, ValueError) as error:  # no cluster there, or one that asks for a token
            raise UsageError(f"backend ray: {ADDRESS}={address}: {str(error).splitlines()[0]}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._ours:
            ray.shutdown()
            self._ours = False

    def _send(self, value: Any) -> Any:
        return ray.put(value)

    def _submit(self, parcel: bytes, shared: Sequence[Any]) -> Any:
        return self._work.remote(parcel, *shared)

    def _next(self, pending: dict[Any, int]) -> Any:
        done, _ = ray.wait(list(pending), num_returns=1)
        return done[0]

    def _result(self, handle: Any) -> Any:
        try:
            return ray.get(handle)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise TaskLost(str(error)) from error

    def _cancel(self, handle: Any) -> None:
        ray.cancel(handle)
