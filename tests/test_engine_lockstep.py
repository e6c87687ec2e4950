"""Ranks in lockstep against the oracle, and what must hold of them."""

from __future__ import annotations

from hypothesis import given

from tests.lockstep_worlds import lockstep_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.worlds import World, drawn


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_ranks_agree_with_the_oracle(world: World) -> None:
    check_requests(world)


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_every_gap_and_every_iteration_of_ranks_agrees(world: World) -> None:
    check_iterations(world)
