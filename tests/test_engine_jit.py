"""How the engine is compiled: one overload an entry kernel, and a cache that follows every source."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simpy

from apexsim.engine import jit, pool
from apexsim.engine.fleet import PoolProcess
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, empty_pool
from apexsim.workload.trace import Trace
from tests.test_engine_tiny import SEQS, serve, tables

ROOT = Path(__file__).parents[1]


def test_every_kernel_file_is_in_the_fingerprint() -> None:
    """A kernel in a file that the fingerprint does not know would go stale in the cache."""
    engine = ROOT / "apexsim" / "engine"
    with_kernels = {f"engine/{path.name}" for path in engine.glob("*.py") if "kernel\ndef " in path.read_text()}
    assert with_kernels <= set(jit.KERNEL_FILES)
    assert {"engine/pool.py", "engine/law.py"} <= with_kernels
    assert {"cost/tables.py", "engine/result.py", "engine/jit.py"} <= set(jit.KERNEL_FILES)


@pytest.mark.skipif(jit.numba.config.DISABLE_JIT, reason="the engine runs uncompiled")
def test_an_entry_kernel_has_one_overload() -> None:
    """Read-only, strided and Python-typed arguments all reach the same machine code."""
    odd = tables(context_s=0.5)
    frozen = odd.decode_s.copy()
    frozen.flags.writeable = False
    odd = odd._replace(decode_s=frozen, mixed_s=np.asfortranarray(odd.mixed_s), head_s=np.repeat(odd.head_s, 2)[::2])
    plain = serve([0.0, 3.0], [5, 4], [3, 2], law=tables(context_s=0.5))
    assert serve([0.0, 3.0], [5, 4], [3, 2], law=odd).same_bytes(plain)
    assert serve([0.0, 3.0], [5, 4], [3, 2], law=odd, router="random", replicas=2).replicas == (2,)
    serve([0.0, 3.0], [5, 4], [3, 2], law=odd, concurrency=1, router="power-of-two", replicas=3)
    for kernel in (pool.run_open, pool.run_closed):
        assert len(kernel.signatures) == 1


def offered() -> list[int]:
    """(prompt tokens that wait, requests that run) once a request came: an entry kernel that compiles in seconds."""
    trace = Trace("tiny", np.zeros(1), np.array([5]), np.array([3]))
    rules, state = empty_pool(
        trace, trace.arrival_s, tables(), ReplicaLimits(100, 1, 60), Policy("t", 8, SEQS), 1, seed=0, timeline=False
    )
    process = PoolProcess(simpy.Environment(), state, tables(), rules)
    process.offer(0, 0, 0.0)
    return [int(state.replicas.prompt_tokens[0]), int(state.replicas.running[0])]


def test_processes_that_compile_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    """All entry kernels are kept alike; a whole run is compiled into an empty folder by ``test_house_wheel``."""
    script = "import tests.test_engine_jit as t; print(t.offered())"
    environment = {**os.environ, "APEXSIM_CACHE_DIR": str(tmp_path)}

    def run(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(run, range(2))) == {str(offered())}
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("pool.offer_one*.nbc")}
    assert run(0) == str(offered())
    assert kept or jit.numba.config.DISABLE_JIT
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("pool.offer_one*.nbc")} == kept
