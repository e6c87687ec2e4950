"""One line about what stands in the way where an integer program has no solution, or none was found in time."""

from __future__ import annotations

from collections.abc import Sequence

from apexsim.errors import NoFeasiblePlan
from apexsim.search.ilp import Outcome, Program, Shortfall


def solved(program: Program, outcome: Outcome, time_limit_s: float, *, refused: str, missing: str) -> Outcome:
    """The outcome, where it holds a solution.

    Raises:
        NoFeasiblePlan: there is none (``refused``, and what would have to give way), or none was found in time
            (``missing``).
    """
    if outcome.impossible:
        raise NoFeasiblePlan(f"{refused}: {told(program.shortfalls(time_limit_s))}")
    if not outcome.found:
        raise NoFeasiblePlan(f"{missing} within {time_limit_s:g} s, and none was ruled out: allow more time")
    return outcome


def told(shortfalls: Sequence[Shortfall]) -> str:
    """``it takes one of: …``: each limit that would do alone, or all that must give way."""
    if not shortfalls:
        return "no limit that could give way would help"
    parts = [_one(shortfall) for shortfall in shortfalls]
    if len(parts) == 1:
        return f"it takes {parts[0]}"
    alone = shortfalls[0].alone
    return f"it takes {'one' if alone else 'all'} of: {'; '.join(parts)}"


def _one(shortfall: Shortfall) -> str:
    limit, by = shortfall.limit, shortfall.by
    about = "" if shortfall.least else "at most "
    if limit.unit == "share":
        return f"{about}{100 * by:.3g} % less {limit.name}"
    needed = limit.size + by
    return f"{limit.name} {about}{needed:.6g} {limit.unit} instead of {limit.size:.6g} (short by {about}{by:.4g})"
