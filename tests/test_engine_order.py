"""Waiting lists in other orders than first come first served, and requests that are turned away."""

from __future__ import annotations

from hypothesis import given

from tests.lockstep_worlds import lockstep_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.worlds import World, drawn, worlds


@given(worlds(routers=BUILT_IN, ordered=True) | worlds(routers=BUILT_IN, ordered=True, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_in_every_order(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(lockstep_worlds(routers=BUILT_IN, ordered=True))
@drawn
def test_ranks_in_lockstep_agree_with_the_oracle_in_every_order(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(worlds(routers=BUILT_IN, phased=True) | worlds(routers=BUILT_IN, phased=True, ordered=True, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_in_every_role(world: World) -> None:
    check_requests(world)
    check_iterations(world)
