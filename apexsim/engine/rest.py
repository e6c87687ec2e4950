"""When a fleet is at rest with requests left: nothing runs or moves, nobody comes, and no look at the loads changes it.

So it is where a replica that never comes back was the last that could decode, and the one that prefills holds the KV
that nobody takes. Looks at the loads go on for ever, so time alone does not end such a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apexsim.engine.berths import ABSENT, DRAINING, GONE, SERVING, Berth
from apexsim.engine.course import CALLS, FIRST_CALL, KNOWN, NEXT, TO_DECODE
from apexsim.engine.disaggregated import CoupledRun
from apexsim.spec.fleet import Fleet


class Rest:
    """Since when a fleet is at rest."""

    def __init__(self, fleet: Fleet) -> None:
        periods = [rule.period for rule in fleet.autoscale] + ([fleet.switch.period] if fleet.switch else [])
        longest = max((rule.cooldown for rule in fleet.autoscale), default=0.0)
        self.patience_s = 2.0 * max(periods, default=0.0) + longest
        self.since_s = np.inf
        self.events = -1

    def is_final(self, run: CoupledRun, berths: Sequence[Berth], events: int, now: float) -> bool:
        """Whether nothing has happened for so long that nothing will; ``events`` of replicas until ``now``."""
        if self.patience_s == 0.0:
            return False  # nobody looks again and again: what is to come ends by itself
        if not is_at_rest(run, berths):
            self.since_s = np.inf
        elif self.since_s == np.inf or events != self.events:
            self.since_s, self.events = now, events
        return now - self.since_s > self.patience_s


def is_at_rest(run: CoupledRun, berths: Sequence[Berth]) -> bool:
    """Whether no iteration, transfer, arrival or call is due, and no replica is on its way."""
    cursor, course, traffic = run.cursor, run.course, run.traffic
    if any(berth.state not in (SERVING, DRAINING, GONE, ABSENT) for berth in berths) or cursor[NEXT] != cursor[KNOWN]:
        return False
    ends = [state.groups.end_s for state in run.states]
    ends.append(course.lobby.at_s[cursor[FIRST_CALL] : cursor[CALLS]])
    ends.append(traffic.flows.end_s[: traffic.moved[0].flows])
    return not any(np.isfinite(each).any() for each in ends)


def nobody_serves(
    run: CoupledRun, berths: Sequence[Berth], roles: Sequence[tuple[bool, bool]], fleet: Fleet
) -> bool:
    """Whether nobody will ever serve those who are left: a replica that never comes back was the last of its kind.

    ``roles``: of each pool, whether requests enter there, and whether they decode there.
    """
    cursor = run.cursor
    ended = sum(int(state.replicas.ended.sum()) for state in run.states)
    waiting = run.course.lobby[cursor[FIRST_CALL] : cursor[CALLS]]
    if cursor[NEXT] != cursor[KNOWN] or len(waiting) != cursor[KNOWN] - ended:
        return False
    scaled = {rule.pool for rule in fleet.autoscale}
    coming = [b for b in berths if b.state != GONE and (b.state != ABSENT or b.pool in scaled)]
    kinds = {bool(kind == TO_DECODE) for kind in waiting.kind.tolist()}
    return bool(kinds) and not any(roles[berth.pool][decode] for berth in coming for decode in kinds)
