"""KV tiers: the compiled engine against the naive oracle, and what must hold whatever is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given

from tests.test_engine_differential import BUILT_IN, EXACT, run_both
from tests.tier_worlds import tiered_worlds
from tests.worlds import World, drawn


@given(tiered_worlds(routers=BUILT_IN))
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_with_tiers(world: World) -> None:
    result, expected = run_both(world)
    assume(not expected.tied)
    columns, counters = result.requests, result.pools[0]
    for i, request in enumerate(expected.requests):
        assert columns.cached_tokens[i] == (request.hit or 0)
        assert columns.replica[i] == request.replica
        if not request.rejected:
            np.testing.assert_allclose(columns.start_s[i], request.start, **EXACT)
            np.testing.assert_allclose(columns.first_token_s[i] - world.limits.exit_s, request.tokens[0], **EXACT)
            np.testing.assert_allclose(columns.finish_s[i] - world.limits.exit_s, request.tokens[-1], **EXACT)
    np.testing.assert_allclose(counters.copy_s, expected.copy_s, rtol=1e-9, atol=1e-11)
    assert counters.iterations == len(expected.iterations)
    for t, tier in enumerate(counters.tiers):
        below = [replica.below for replica in expected.replicas]
        owners = {id(one.tiers[t]): one.tiers[t] for one in below}.values()
        assert tier.loaded_blocks == sum(one.loaded[t] for one in below)
        assert tier.hit_tokens == sum(one.hits[t] for one in below) * world.limits.block_size
        assert tier.stored_blocks == sum(one.stored for one in owners)
        assert tier.evicted_blocks == sum(one.evicted for one in owners)
        assert tier.peak_blocks == max(one.peak for one in owners)
