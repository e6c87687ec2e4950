"""How a plan ends that nobody learns anything about: it raises, takes too long, or kills its worker."""

from __future__ import annotations

import traceback

KILLS = "crashed: it kills its worker process each time: is there enough memory?"


def timed_out(seconds: float | None) -> str:
    """It was stopped."""
    return f"timed out: not done after {seconds:g} s (--plan-timeout)"


def crashed(error: Exception) -> str:
    """It raised what nobody expected."""
    return f"crashed: {traceback.format_exception_only(error)[-1].strip()}"
