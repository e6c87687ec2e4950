"""How the engine is compiled: one overload an entry kernel, and a cache that follows every source."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from apexsim.engine import jit, pool
from tests.test_engine_tiny import serve, tables

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


def test_processes_that_compile_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    script = (
        "import tests.test_engine_tiny as t;"
        "print(t.serve([0.0, 3.0], [5, 4], [3, 2]).requests.finish_s.tolist())"
    )
    environment = {**os.environ, "APEXSIM_CACHE_DIR": str(tmp_path)}

    def run(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(run, range(2))) == {"[42.0, 42.0]"}
    assert run(0) == "[42.0, 42.0]"
    assert any(tmp_path.rglob("pool.run_open*.nbi")) or jit.numba.config.DISABLE_JIT
