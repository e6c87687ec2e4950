"""Requests in a replica over time, and Little's law as a check of every run: L = λ · W (Little, 1961).

A replica books, whenever a request comes or leaves, how many were there since the last change, by its own counts of
those that wait and run: the integral of their number. The sum of the times that requests stayed is taken from their
columns. The two know nothing of each other, so a request that is lost, counted twice or given a wrong instant parts
them.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel
from apexsim.engine.result import COMPLETED
from apexsim.engine.state import Rows, State


@kernel
def count_present(replicas: Rows, r: int, now: float) -> None:
    """The number of requests at replica r changes at ``now``: book those that have been there until then."""
    replicas[r].present_s += (replicas[r].waiting + replicas[r].running) * (now - replicas[r].changed_s)
    replicas[r].changed_s = now


def check_littles_law(state: State) -> None:
    """Compare both sides after a run, in requests times seconds.

    Raises:
        RuntimeError: they differ by more than rounding, or a request never ended. That is a bug of the engine.
    """
    requests, replicas = state.requests, state.replicas
    ended, present_s = int(replicas.ended.sum()), float(replicas.present_s.sum())
    served = requests.status == COMPLETED
    stayed_s = float((requests.finish_s[served] - requests.arrival_s[served]).sum() + replicas.shed_s.sum())
    # A request may arrive an instant after the boundary at which it begins.
    rounding = (1e-9 + 1e-15 * len(requests)) * max(stayed_s, 1e-6) + 1e-9 * len(requests)
    if ended != len(requests) or not abs(present_s - stayed_s) <= rounding:
        raise RuntimeError(
            f"the engine lost count: {ended} of {len(requests)} requests ended, they stayed for {stayed_s!r} s in all, "
            f"and replicas counted {present_s!r} request-seconds (Little's law)"
        )
