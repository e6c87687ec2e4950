"""Small worlds whose replicas are ranks in lockstep, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from apexsim.cost.tables import GroupTables, StepTables
from tests.worlds import World, rising, worlds


def in_lockstep(
    random: np.random.Generator, tables: StepTables, ranks: int, padded: tuple[int, int], drafts: int = 0
) -> StepTables:
    """The tables of one rank with a random law of what ``ranks`` of them do together."""
    knots, seqs = tables.mixed_s.shape[1], tables.decode_s.shape[1]
    group = GroupTables(
        ranks, *padded,
        exchange_mixed_s=rising(random, knots, start=1e-3, step=1e-3),
        exchange_decode_s=rising(random, seqs, start=1e-3, step=1e-3),
        experts_mixed_s=rising(random, knots, start=2e-3, step=2e-3),
        experts_decode_s=rising(random, seqs, start=2e-3, step=2e-3),
        exchange_drafts_s=rising(random, seqs, start=1e-3, step=1e-3) if drafts > 1 else np.zeros(0),
        experts_drafts_s=rising(random, seqs, start=1e-3, step=1e-3) if drafts > 1 else np.zeros(0),
    )  # fmt: skip
    return tables._replace(group=group, cp=1)


@st.composite
def lockstep_worlds(draw: st.DrawFn, **options: object) -> World:
    """Worlds of 1 or 2 replicas of 2 to 4 ranks; batches are padded to the fullest rank always, sometimes or never."""
    world: World = draw(worlds(alone=True, **options))  # type: ignore[arg-type]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranks = draw(st.integers(2, 4))
    padded = draw(st.sampled_from([(0, 0), (0, 3), (6, 3), (1000, 1000)]))
    drafts = len(world.policy.acceptance)
    drafts = drafts if drafts and draw(st.booleans()) else 0  # or each rank drafts by itself
    return replace(
        world, replicas=draw(st.integers(1, 2)), tables=in_lockstep(random, world.tables, ranks, padded, drafts)
    )
