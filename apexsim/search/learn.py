"""What phases can reach, a few at a time in a worker: one that cannot be compiled is refused, however it ends."""

from __future__ import annotations

from collections.abc import Sequence

from apexsim.search.mishaps import KILLS, crashed, timed_out
from apexsim.search.part import Refused
from apexsim.search.patience import FOREVER, Patience, TookTooLong
from apexsim.search.prune import Context
from apexsim.search.reach import Counts, Phase, Reach, reach_of

Wanted = tuple[Phase, Sequence[Counts]]
"""A phase, and the numbers of replicas to know it for."""

Reached = tuple[Phase, Reach | Refused]


def learn(context: Context, wanted: Sequence[Wanted], patience: Patience = FOREVER) -> list[Reached]:
    """Of each phase; one that crashes or takes too long is refused, and the others go on."""
    found: list[Reached] = []
    for phase, counts in wanted:
        try:
            with patience.limit():
                reached = reach_of(context.problem, context.loads, phase, counts)
            found.append((phase, reached))
        except TookTooLong:
            found.append((phase, Refused("timeout", timed_out(patience.seconds))))
        except Exception as error:
            found.append((phase, Refused("failed", crashed(error))))
    return found


def killers(wanted: Sequence[Wanted]) -> list[Reached]:
    """In place of phases that kill their worker each time."""
    return [(phase, Refused("failed", KILLS)) for phase, _ in wanted]
