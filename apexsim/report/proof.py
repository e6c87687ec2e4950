"""How sure an answer of an integer program is, as a person reads it and as JSON."""

from __future__ import annotations

from math import isfinite
from typing import Any


def proof(gap: float, timed_out: bool) -> str:
    """``the optimum``, or how far from it the answer may be."""
    if not timed_out:
        return "the optimum"
    far = f"within {100 * gap:.3g} % of the optimum" if isfinite(gap) else "how far from the optimum nobody knows"
    return f"{far} (the time limit was reached)"


def proof_dict(value: float, bound: float, gap: float, timed_out: bool) -> dict[str, Any]:
    """``value``, ``bound`` (nothing is below it), relative ``gap``, ``status`` (optimum or time limit)."""
    return {
        "value": value, "bound": bound if isfinite(bound) else None, "gap": gap if isfinite(gap) else None,
        "status": "time limit" if timed_out else "optimum",
    }  # fmt: skip
