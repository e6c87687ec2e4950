"""Who wants to know that the engine is being compiled: the first run of a kernel takes longer than the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

from apexsim.engine.jit import CACHE_FOLDER


class _Watch(event.Listener):  # type: ignore[misc]
    """Calls ``tell`` at the next compilation, once."""

    tell: Callable[[], None] | None = None

    def on_start(self, event: Any) -> None:
        tell, self.tell = self.tell, None
        if tell is not None:
            tell()

    def on_end(self, event: Any) -> None:
        return None


_WATCH = _Watch()
event.register("numba:compile", _WATCH)  # told where the cache holds no machine code, and only there


def when_compiling(tell: Callable[[], None]) -> None:
    """Call ``tell`` when this process compiles a kernel from now on, the first time; never where all are cached."""
    _WATCH.tell = tell


def is_compiled() -> bool:
    """True where a run of this installation was compiled before, or compiling is off: a guess for other processes."""
    return bool(numba.config.DISABLE_JIT) or any(CACHE_FOLDER.glob("**/*.run_*.nbi"))
