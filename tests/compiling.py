"""Test processes share the work of compiling the engine: where it is not compiled yet, each takes other kernels first.

Left alone, all of them would compile the same kernels at the same time, some 20 s of a processor each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import apexsim
from apexsim.cost.tables import StepTables
from apexsim.engine.jit import CACHE_FOLDER
from apexsim.engine.routers import Offered, ReplicaView, RequestView
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.workload.trace import Trace
from tests.house import ROOT
from tests.test_engine_lockstep import together
from tests.test_engine_tiny import SEQS, tables

WAIT_S = 300.0
"""Longest that one process waits for what another has begun to compile."""


class First:
    """A router in Python, which other kernels serve."""

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        """Nothing to draw."""

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        return 0


def _example(name: str, concurrency: int | None = None) -> None:
    examples = ROOT / "docs" / "examples"
    apexsim.simulate(examples / f"{name}.yaml", examples / "requests.csv", concurrency=concurrency)


def _asked_in_python(law: Callable[[], StepTables]) -> None:
    trace = Trace("tiny", np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    simulate_pool(trace, law(), ReplicaLimits(100, 1, 60), Policy("t", 8, SEQS), router=First())


RUNS: dict[str, Callable[[], None]] = {
    "run_coupled": partial(_example, "disaggregated"),
    "run_open": partial(_example, "plan"),
    "run_closed": partial(_example, "plan", 1),
    "run_open_in_lockstep": partial(_example, "attention-dp"),
    "run_closed_in_lockstep": partial(_example, "attention-dp", 1),
    "advance_all": partial(_asked_in_python, tables),
    "advance_all_in_lockstep": partial(_asked_in_python, together),
}
"""A run that compiles each of the large kernels."""


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process is the first to ask; ``PATH.done`` is there once the first is through."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        path.with_suffix(".done").touch()


def share_compiling(folder: Path) -> None:
    """Compile what nobody has begun to compile, then wait for the others."""
    missing = {name: run for name, run in RUNS.items() if not any(CACHE_FOLDER.glob(f"**/*.{name}-*.nbc"))}
    for name, run in missing.items():
        with _claimed(folder / name) as first:
            if first:
                run()
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until and not all((folder / f"{name}.done").exists() for name in missing):
        time.sleep(0.1)
