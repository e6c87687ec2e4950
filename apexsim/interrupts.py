"""Ctrl-C: where it has to wait, and how it is known again where a library has wrapped it in an error of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """What runs inside is done whole: an interrupt that comes meanwhile is raised when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts reach the main thread only
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(came[0], None)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether the error is an interrupt, or was caused by one (pydantic's serializers wrap whatever is raised)."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None
