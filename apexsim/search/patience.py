"""How long a plan may take: a limit on whatever runs inside a ``with``, on any thread and in any process.

Python code and sleeps are interrupted where they are, compiled code when it returns to Python: the engine does so
after each replay. Where it does not return, a worker process can still be ended, this one cannot.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

AGAIN_S = 1.0
"""An interruption that a finalizer swallowed is repeated after so long."""

AT_LEAST_S = 30.0
"""A worker process is ended where its limit was passed by another limit, or so long."""


class TookTooLong(BaseException):
    """The limit was reached. No ``Exception``: what is interrupted may catch those."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that one plan may take on one processor; None = as long as it needs.

    Attributes:
        home: the process that must not be ended, in which the search runs.
    """

    seconds: float | None = None
    home: int = field(default_factory=os.getpid)

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Raises TookTooLong in what runs inside, once the time is over."""
        if self.seconds is None:
            yield
            return
        interrupt = _by_signal if _on_main_thread() else _by_thread
        with _ending_the_process(self.seconds, os.getpid() != self.home), interrupt(self.seconds):
            yield


FOREVER = Patience()


def _on_main_thread() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        # again: a signal may have come just before that call, and the next one without a handler ends the process
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    """Where signals do not go (Dask's workers, Windows): the exception is put into the thread."""
    mine, over, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def interrupt() -> None:
        left = seconds
        while not over.wait(left):
            with lock:
                if not over.is_set():
                    _put(mine, TookTooLong)
            left = AGAIN_S

    watch = threading.Thread(target=interrupt, daemon=True)
    watch.start()
    try:
        yield
    finally:
        with lock:
            over.set()
            _put(mine, None)  # one that came too late


def _put(thread: int, error: type[BaseException] | None) -> None:
    put = ctypes.pythonapi.PyThreadState_SetAsyncExc
    put(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


@contextmanager
def _ending_the_process(seconds: float, may_end: bool) -> Iterator[None]:
    """The last resort: no Python is needed for it, so compiled code that never returns is ended, too."""
    if not may_end:
        yield
        return
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds + max(seconds, AT_LEAST_S), exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
