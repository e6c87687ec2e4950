"""Speculative decoding: worlds by hand, the naive oracle, and the invariants."""

from __future__ import annotations

from hypothesis import given

from tests import test_engine_differential as differential
from tests.paged_worlds import paged_worlds
from tests.worlds import World, drawn, worlds

check_requests = differential.test_engine_agrees_with_the_oracle.hypothesis.inner_test
check_gaps = differential.test_every_gap_and_every_iteration_agrees.hypothesis.inner_test


@given(worlds(routers=differential.BUILT_IN, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_that_draft(world: World) -> None:
    check_requests(world)


@given(paged_worlds(routers=differential.BUILT_IN, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_on_pages_and_drafts(world: World) -> None:
    check_requests(world)


@given(worlds(routers=differential.BUILT_IN, drafting=True))
@drawn
def test_every_gap_and_every_iteration_agrees_with_drafts(world: World) -> None:
    check_gaps(world)
