"""KV tiers and swaps on worlds whose answers fit in the head: an iteration takes 10 s and 1 s a token.

A block holds one token. It comes from the host in 3 s, from the pool in 5 s, both after 1 s, over one layer unless said
otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apexsim.cost.swap import SwapLaw
from apexsim.cost.tiers import TierLaw
from apexsim.engine.result import SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import UsageError
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import offline
from tests.test_engine_prefix import CACHING, hashed, ideal_hits
from tests.test_engine_routers import ShortestQueueInPython
from tests.test_engine_tiny import SEQS, tables
from tests.worlds import shared_by

MOONCAKE = Path(__file__).resolve().parents[2] / "shared/data/traces/mooncake_conversation.csv.gz"
HOST = TierLaw("host", 100, 3.0, 1.0, block_bytes=1.0, layers=1)
POOL = TierLaw("remote", 100, 5.0, 1.0, block_bytes=1.0, layers=1, shared=True)
THREE = [[1, 2, 3], [4, 5, 6, 7], [1, 2, 3]]


def serve(
    trace: Trace, *tiers: TierLaw, blocks: int = 5, policy: Policy = CACHING, swap: SwapLaw | None = None,
    **options: object,
) -> SimulationResult:  # fmt: skip
    limits = ReplicaLimits(kv_blocks=blocks, block_size=1, max_model_len=60, tiers=tiers, swap=swap)
    return simulate_pool(trace, tables(), limits, policy, **options)  # type: ignore[arg-type]


def three(*tiers: TierLaw, **options: object) -> SimulationResult:
    """A prompt of 3 tokens, one of 4 that drives two of them out of 5 blocks, and the first again."""
    return serve(hashed([0.0, 100.0, 200.0], [3, 4, 3], [1, 1, 1], THREE), *tiers, **options)


def test_what_the_device_evicts_comes_back_from_the_host() -> None:
    """One token is on the device, one in the host: 1 + 3 s until its layer can start, then 11 s for one token."""
    assert three().requests.cached_tokens.tolist() == [0, 0, 1]
    result = three(HOST)
    assert result.requests.cached_tokens.tolist() == [0, 0, 2]
    assert result.requests.first_token_s[2] == 200.0 + 4.0 + 11.0
    counters = result.pools[0]
    assert counters.copy_s == 4.0
    assert (counters.tiers[0].loaded_blocks, counters.tiers[0].hit_tokens, counters.tiers[0].stored_blocks) == (1, 1, 7)


def test_loads_hide_behind_the_layers_before() -> None:
    """Four layers of 11 / 4 s: the first waits 1 + 3 / 4 s, the others' loads are done before their turn."""
    columns = three(replace(HOST, layers=4)).requests
    assert columns.first_token_s[2] == 200.0 + 1.75 + 11.0


def test_loads_slower_than_the_layers_bound_the_iteration() -> None:
    """20 s a block: the last of four layers starts at 1 + 20 s and takes 11 / 4 s."""
    columns = three(replace(HOST, layers=4, block_s=20.0)).requests
    assert columns.first_token_s[2] == 200.0 + 21.0 + 2.75


def test_two_loads_of_one_iteration_share_the_bandwidth() -> None:
    """Two prompts of which one token each is loaded: 1 + 6 s, then 10 s and a token each."""
    names = [[1, 2], [3, 4], [5, 6, 7, 8], [1, 2], [3, 4]]
    trace = hashed([0.0, 50.0, 100.0, 200.0, 200.0], [2, 2, 4, 2, 2], [1] * 5, names)
    columns = serve(trace, HOST, blocks=4).requests
    assert columns.cached_tokens.tolist() == [0, 0, 0, 1, 1]
    assert columns.first_token_s[3:].tolist() == [200.0 + 7.0 + 12.0] * 2


def test_a_pool_gives_what_another_replica_has_computed() -> None:
    trace = hashed([0.0, 100.0], [3, 3], [1, 1], [[1, 2, 3]] * 2)
    options = {"replicas": 2, "router": "round-robin"}
    assert serve(trace, HOST, **options).requests.cached_tokens.tolist() == [0, 0]  # type: ignore[arg-type]
    result = serve(trace, HOST, POOL, **options)  # type: ignore[arg-type]
    assert result.requests.cached_tokens.tolist() == [0, 2]
    assert result.requests.first_token_s[1] == 100.0 + 11.0 + 11.0
    assert [tier.hit_tokens for tier in result.pools[0].tiers] == [0, 2]


def test_what_comes_from_below_passes_through_the_host() -> None:
    """Two blocks take 10 s from the pool, and at 30 s a block through the host's link 61 s."""
    trace = hashed([0.0, 100.0], [3, 3], [1, 1], [[1, 2, 3]] * 2)
    host = replace(HOST, block_s=30.0, carries=True)
    columns = serve(trace, host, POOL, replicas=2, router="round-robin").requests
    assert columns.first_token_s[1] == 100.0 + 61.0 + 11.0


def test_a_tier_written_back_gets_what_the_one_above_evicts() -> None:
    """The host holds 4 blocks: the second prompt drives the first one out of it, tail first, into the disk."""
    disk = TierLaw("nvme", 100, 5.0, 1.0, block_bytes=1.0, layers=1, through=False)
    tiers = three(replace(HOST, blocks=4), disk).pools[0].tiers
    assert tiers[1].stored_blocks == 3 + 3  # all of the first, then three of the second, when the first comes again
    assert tiers[1].loaded_blocks == 1
    assert tiers[0].peak_blocks == 4


def test_the_router_sees_what_only_one_replica_has() -> None:
    """The second prompt ran at replica 1, whose device has lost it since. Its host has it; a pool is everybody's."""
    names = [[4, 5], [1, 2, 3], [6, 7, 8, 9], [10, 11, 12, 13], [1, 2, 3]]
    trace = hashed([0.0, 1.0, 100.0, 101.0, 200.0], [2, 3, 4, 4, 3], [1] * 5, names)
    for tier, last in ((HOST, 1), (POOL, 0)):
        columns = serve(trace, tier, blocks=4, replicas=2, router="prefix-aware").requests
        assert columns.replica.tolist() == [0, 1, 0, 1, last]
        assert columns.cached_tokens[4] == 2


def test_a_pool_refuses_what_cannot_keep_replicas_together() -> None:
    trace = hashed([0.0], [3], [1], [[1, 2, 3]])
    with pytest.raises(UsageError, match="plug-in router advances replicas one by one"):
        serve(trace, POOL, router=ShortestQueueInPython())
    with pytest.raises(UsageError, match="marks: a run with a remote KV tier"):
        serve(trace, POOL, marks=(1.0,))
    with pytest.raises(UsageError, match="only the last one can be shared"):
        serve(trace, POOL, HOST)


# --- swaps ----------------------------------------------------------------------------------------------------------


def short_of_blocks(swap: SwapLaw | None) -> SimulationResult:
    """As ``test_the_youngest_is_preempted_and_recomputed``: two of 3 + 4 tokens at once, in 8 blocks.

    At 28 s both have 4 tokens in the cache and want a 5th block: the second gives way. The first ends at 50 s.
    """
    trace = Trace("tiny", np.zeros(2), np.array([3, 3]), np.array([4, 4]))
    return serve(trace, blocks=8, policy=Policy("t", 8, SEQS), swap=swap)


def test_a_swapped_request_goes_on_where_it_was() -> None:
    """4 blocks in groups of 2, 3 s each: 6 s out, which the iteration from 28 s on waits for, and 6 s in.

    The first has its tokens at 45 and 56 s. The second is back at 56 s and computes one token: 6 + 11 s.
    """
    result = short_of_blocks(SwapLaw(100, 2, 3.0, asynchronous=False, block_bytes=1.0))
    assert result.requests.finish_s.tolist() == [56.0, 84.0]
    assert result.requests.itl_max_s[1] == 73.0 - 28.0
    assert (result.pools[0].swaps, result.pools[0].copied_blocks, result.pools[0].copy_s) == (1, 8, 12.0)
    assert result.pools[0].prefill_tokens == 6 + 1


def test_swaps_beside_an_iteration_cost_what_sticks_out() -> None:
    """6 s are hidden behind 11; 8 s a group are 16 s, of which 5 stick out, both ways."""
    hidden, visible = (
        short_of_blocks(SwapLaw(100, 2, group_s, asynchronous=True, block_bytes=1.0)) for group_s in (3.0, 8.0)
    )
    assert hidden.requests.finish_s.tolist() == [50.0, 72.0]
    assert visible.requests.finish_s.tolist() == [55.0, 82.0]


def test_a_full_swap_space_recomputes() -> None:
    full = short_of_blocks(SwapLaw(3, 2, 3.0, asynchronous=False, block_bytes=1.0))
    assert full.same_bytes(short_of_blocks(None))
    assert full.requests.preemptions.tolist() == [0, 1]


# --- hit rates ------------------------------------------------------------------------------------------------------


def test_an_endless_host_tier_reaches_the_ideal_reuse_with_a_small_device() -> None:
    """One request after another, on a device that holds one prompt."""
    rng = np.random.default_rng(3)
    prompts = rng.integers(1, 40, 300)
    trace = Trace("synthetic", np.arange(300) * 1e4, prompts, np.ones(300, np.int64), **shared_by(rng, prompts, 4, 2))
    limits = ReplicaLimits(20, 2, 60, tiers=(replace(HOST, blocks=1 << 40),))
    result = simulate_pool(trace, tables(), limits, CACHING)
    assert result.requests.cached_tokens.tolist() == ideal_hits(trace, 2)
    assert 0 < result.pools[0].tiers[0].hit_tokens < result.requests.cached_tokens.sum()


@pytest.mark.skipif(not MOONCAKE.exists(), reason="no Mooncake trace beside the repository")
def test_the_mooncake_trace_reaches_its_ideal_reuse_through_the_host() -> None:
    """A device's cache of 131,072 tokens, one longest prompt, and an endless host tier."""
    trace = read_trace(MOONCAKE)
    tier = replace(HOST, blocks=1 << 40, block_s=1e-3)
    limits = ReplicaLimits(kv_blocks=8192, block_size=16, max_model_len=1 << 20, tiers=(tier,))
    columns = simulate_pool(offline(trace), tables(), limits, Policy("t", 1 << 20, 1, prefix_caching=True)).requests
    assert columns.cached_tokens.tolist() == ideal_hits(trace, 16)
    assert int((-(-columns.cached_tokens // 512)).sum()) == 105_702
