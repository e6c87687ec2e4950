"""The one way the engine compiles a function: Numba, cached on disk under a fingerprint of all kernels.

Numba's own cache notices a change of the file that a function stands in, not of the files whose functions it
calls. A stale kernel would be a wrong simulator, so the cache folder is named after the sources of all kernel files,
Numba and Python: any change starts an empty folder. ``NUMBA_DISABLE_JIT=1`` runs the same source uncompiled.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np

from apexsim.engine.linking import PartCompiler, WholeCompiler

F = TypeVar("F", bound=Callable[..., Any])

KERNEL_FILES = (
    "cost/tables.py",
    "engine/adapter_order.py",
    "engine/adapter_state.py",
    "engine/adapters.py",
    "engine/admission.py",
    "engine/balance.py",
    "engine/batch.py",
    "engine/between.py",
    "engine/book.py",
    "engine/coupled.py",
    "engine/course.py",
    "engine/encoding.py",
    "engine/eviction.py",
    "engine/fair.py",
    "engine/gaps.py",
    "engine/handover.py",
    "engine/heap.py",
    "engine/iteration.py",
    "engine/jit.py",
    "engine/kvcache.py",
    "engine/law.py",
    "engine/linking.py",
    "engine/links.py",
    "engine/lobby.py",
    "engine/lockstep.py",
    "engine/lockstep_pool.py",
    "engine/order.py",
    "engine/pages.py",
    "engine/pipeline.py",
    "engine/pool.py",
    "engine/presence.py",
    "engine/ranks.py",
    "engine/receiving.py",
    "engine/replica.py",
    "engine/result.py",
    "engine/series.py",
    "engine/shedding.py",
    "engine/shortage.py",
    "engine/speculation.py",
    "engine/state.py",
    "engine/swap.py",
    "engine/tier_state.py",
    "engine/tiers.py",
    "engine/unit_choice.py",
    "engine/visuals.py",
)
"""Every file whose text can change what a kernel does, relative to the package."""


def _fingerprint() -> str:
    # The folder, too: Numba keeps the kernels of each checkout apart, and ``compiling.py`` asks for this one's.
    here = f"{numba.__version__} {sys.version_info[:3]} {sys.platform} {Path(__file__).parent}"
    digest = hashlib.sha256(here.encode())
    for name in KERNEL_FILES:
        digest.update((Path(__file__).parents[1] / name).read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """A folder that can be written and that nobody else could have filled: Numba runs what it finds there."""
    base = os.environ.get("APEXSIM_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "apexsim" / "kernels" / _fingerprint()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    # Of this process alone: the kernels are compiled again in the next one.
    return Path(tempfile.mkdtemp(prefix="apexsim-"))


CACHE_FOLDER = _cache_folder()


def kernel(function: F) -> F:
    """Compile ``function`` as a part of other kernels, inlined: passing the state costs more than most of them do."""
    return _part(function, forceinline=True)


def rare_kernel(function: F) -> F:
    """A part of other kernels that runs seldom: called, not inlined, which keeps the time to compile them down."""
    return _part(function, forceinline=False)


def _part(function: F, *, forceinline: bool) -> F:
    decorate = numba.njit(
        nogil=True, error_model="numpy", forceinline=forceinline, no_cpython_wrapper=True, no_cfunc_wrapper=True,
        pipeline_class=PartCompiler,
    )
    compiled: F = decorate(function)
    return compiled


def entry_kernel(function: F) -> F:
    """A kernel that Python calls, with all its parts; compiled at its first call and kept for the next process.

    Its arguments must always have the same types: Numba numbers the cached overloads of a function, and two processes
    that compile different ones at once would each overwrite the other's machine code. See ``exact``.
    """
    # Numba reads CACHE_DIR when the decorator runs; it is put back so that other users of Numba keep theirs.
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        decorate = numba.njit(
            cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True, pipeline_class=WholeCompiler
        )
        compiled: F = decorate(function)
        return compiled
    finally:
        numba.config.CACHE_DIR = before


def exact(array: Any, dtype: type) -> Any:
    """The array as an entry kernel takes it: this dtype, contiguous, writable. Copied only where it is not."""
    return np.require(array, dtype, ["C", "A", "W"])
