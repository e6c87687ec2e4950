"""The prefix cache on worlds whose answers fit in the head, and hit rates counted by hand.

In the small worlds an iteration takes 10 s and 1 s a token, and a KV block holds one token unless said otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apexsim.engine.prefixes import new_cache
from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.engine.schedulers import PRESETS, Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import InputError
from apexsim.workload.read import read_trace
from apexsim.workload.stats import describe
from apexsim.workload.trace import Trace
from apexsim.workload.transform import offline
from tests.test_engine_tiny import SEQS, tables
from tests.worlds import shared_by, states_of

MOONCAKE = Path(__file__).resolve().parents[2] / "shared/data/traces/mooncake_conversation.csv.gz"
CACHING = Policy("t", 8, SEQS, prefix_caching=True)


def hashed(
    arrivals: list[float], prompts: list[int], outputs: list[int], hashes: list[list[int]], block: int = 1
) -> Trace:
    """Requests with one hash a block of ``block`` tokens."""
    flat = [name for row in hashes for name in row]
    return Trace(
        "tiny", np.array(arrivals), np.array(prompts), np.array(outputs), hash_ids=np.array(flat, np.int64),
        hash_offsets=np.cumsum([0, *(len(row) for row in hashes)]), hash_block_tokens=block,
    )  # fmt: skip


def declared(
    arrivals: list[float], prompts: list[int], outputs: list[int], shared: list[int], session: list[int] | None
) -> Trace:
    """Requests that say how many of their tokens were computed before."""
    return Trace(
        "tiny", np.array(arrivals), np.array(prompts), np.array(outputs), shared_prefix_tokens=np.array(shared),
        session=None if session is None else np.array(session),
    )  # fmt: skip


def serve(
    trace: Trace, policy: Policy = CACHING, *, blocks: int = 100, block_size: int = 1, **options: object
) -> SimulationResult:
    limits = ReplicaLimits(kv_blocks=blocks, block_size=block_size, max_model_len=60)
    return simulate_pool(trace, tables(), limits, policy, **options)  # type: ignore[arg-type]


def test_a_prompt_that_was_computed_is_found_but_for_its_last_token() -> None:
    """The first computes 5 tokens, 15 s. The same prompt later computes one: 11 s."""
    columns = serve(hashed([0.0, 50.0], [5, 5], [1, 1], [[1, 2, 3, 4, 5]] * 2)).requests
    assert columns.cached_tokens.tolist() == [0, 4]
    assert columns.first_token_s.tolist() == [15.0, 61.0]


def test_only_the_common_beginning_is_found() -> None:
    """Two of five tokens are the same: three are computed, 13 s."""
    columns = serve(hashed([0.0, 50.0], [5, 5], [1, 1], [[1, 2, 3, 4, 5], [1, 2, 6, 7, 8]])).requests
    assert columns.cached_tokens.tolist() == [0, 2]
    assert columns.first_token_s[1] == 63.0


def test_without_prefix_caching_the_hashes_say_nothing() -> None:
    trace = hashed([0.0, 50.0], [5, 5], [1, 1], [[1, 2, 3, 4, 5]] * 2)
    columns = serve(trace, Policy("t", 8, SEQS)).requests
    assert columns.cached_tokens.tolist() == [0, 0]
    assert columns.first_token_s.tolist() == [15.0, 65.0]


def test_a_block_is_found_once_its_chunk_has_ended() -> None:
    """A budget of 4: chunks of 4 and 4 end at 14 and 28 s. Who comes at 5 s starts at 28 s and finds all but one."""
    policy = replace(CACHING, max_num_batched_tokens=4)
    names = [[1, 2, 3, 4, 5, 6, 7, 8]] * 2
    columns = serve(hashed([0.0, 5.0], [8, 8], [1, 1], names), policy).requests
    assert columns.cached_tokens.tolist() == [0, 7]
    assert columns.first_token_s.tolist() == [28.0, 39.0]


def test_two_that_compute_the_same_block_at_once_each_have_a_copy_until_they_end() -> None:
    """Both come at 0 and find nothing: 3 + 3 tokens in one iteration, six blocks. Afterwards nobody finds the copy."""
    (state,) = states_of(lambda: serve(hashed([0.0, 0.0], [3, 3], [1, 1], [[1, 2, 3]] * 2)))
    assert state.replicas.peak_blocks[0] == 6
    assert state.replicas.cached_blocks[0] == 6
    assert state.replicas.lost_last[0] + state.cache.units.lost_before.sum() == 3


def test_blocks_are_shared_while_both_run() -> None:
    """The second finds 4 of 5 tokens: 5 + 2 blocks of the first, and one of its own."""
    result = serve(hashed([0.0, 16.0], [5, 5], [9, 1], [[1, 2, 3, 4, 5]] * 2))
    # At 26 s the first has yielded 2 tokens and takes its 7th block, while the second needs only its 5th token's.
    assert result.requests.start_s[1] == 26.0
    assert result.requests.cached_tokens[1] == 4
    assert result.pools[0].kv_peak_blocks == 13  # the first's 5 + 8 at its end; the second's block is free by then


def test_the_least_recently_released_is_evicted_first_and_its_tail_before_its_head() -> None:
    """Six blocks: prompts a (3 tokens), b (2 tokens) stay cached; c takes 3, so a's last two go, b's none."""
    names = [[1, 2, 3], [4, 5], [6, 7, 8], [1, 2, 3], [4, 5]]
    trace = hashed([0.0, 20.0, 40.0, 60.0, 80.0], [3, 2, 3, 3, 2], [1] * 5, names)
    result = serve(trace, blocks=6)
    # a finds its first token; its two new blocks take the place of b's last, then first
    assert result.requests.cached_tokens.tolist() == [0, 0, 0, 1, 0]
    assert result.pools[0].evicted_blocks == 2 + 2 + 2


def test_generated_tokens_stay_in_the_cache_and_nobody_finds_them() -> None:
    """Seven blocks: a leaves 3 of its prompt and 4 of its answer, whose last token was never computed. b takes 3 of
    the answer's, and then c, which finds the prompt, the fourth."""
    trace = hashed([0.0, 100.0, 200.0], [3, 3, 4], [5, 1, 1], [[1, 2, 3], [4, 5, 6], [1, 2, 3, 7]])
    result = serve(trace, blocks=7)
    assert result.requests.cached_tokens.tolist() == [0, 0, 3]
    assert result.pools[0].evicted_blocks == 4


def test_a_hash_block_of_many_kv_blocks_is_kept_or_dropped_whole() -> None:
    """Hash blocks of 4 tokens, KV blocks of 2: one more block is needed, and four tokens are gone."""
    trace = hashed([0.0, 20.0, 40.0], [5, 5, 5], [1] * 3, [[1], [2], [1]], block=4)
    result = serve(trace, blocks=4, block_size=2)
    assert result.requests.cached_tokens.tolist() == [0, 0, 0]
    assert result.pools[0].evicted_blocks == 4
    assert serve(trace, blocks=7, block_size=2).requests.cached_tokens.tolist() == [0, 0, 4]


def test_a_kv_block_of_many_hash_blocks_needs_them_all() -> None:
    """Hash blocks of 2 tokens, KV blocks of 4: the prompts are equal for 6 tokens, of which 4 fill a KV block."""
    trace = hashed([0.0, 50.0], [8, 8], [1, 1], [[1, 2, 3, 4], [1, 2, 3, 5]], block=2)
    assert serve(trace, block_size=4).requests.cached_tokens.tolist() == [0, 4]


def test_the_begun_last_hash_block_counts_by_its_whole_kv_blocks() -> None:
    """A prompt of 7 tokens in hash blocks of 4: its second one has 3 tokens, of which one KV block of 2 is whole."""
    trace = hashed([0.0, 50.0], [7, 7], [1, 1], [[1, 2]] * 2, block=4)
    assert serve(trace, block_size=2).requests.cached_tokens.tolist() == [0, 6]


def test_declared_tokens_count_as_computed_from_the_first_request_on() -> None:
    """The cache was warm before the trace began: 3 of 5 tokens are computed at once, 2 take 12 s."""
    columns = serve(declared([0.0, 50.0], [5, 5], [1, 1], [3, 5], [7, 7])).requests
    assert columns.cached_tokens.tolist() == [3, 4]
    assert columns.first_token_s.tolist() == [12.0, 61.0]


def test_blocks_of_one_session_are_held_once_and_those_without_one_are_private() -> None:
    """Three at once, 4 of 5 tokens declared each: one session holds 4 + 3 blocks, three strangers 15."""
    for session, peak in (([7, 7, 7], 7), ([1, 2, 3], 15), (None, 15), ([-1, -1, -1], 15)):
        result = serve(declared([0.0] * 3, [5] * 3, [1] * 3, [4] * 3, session))
        assert result.requests.cached_tokens.tolist() == [4, 4, 4]
        assert result.pools[0].kv_peak_blocks == peak


def test_declared_tokens_that_were_evicted_take_blocks_but_no_time() -> None:
    """Five blocks: the second session drives the first one's out; it still computes one token only, 11 s."""
    result = serve(declared([0.0, 20.0, 40.0], [5] * 3, [1] * 3, [0, 0, 4], [1, 2, 1]), blocks=5)
    assert result.requests.first_token_s.tolist() == [15.0, 35.0, 51.0]
    assert result.pools[0].evicted_blocks == 10  # all five of the first, then of the second


def test_hashes_win_over_declared_tokens_request_by_request() -> None:
    trace = hashed([0.0, 50.0], [5, 5], [1, 1], [[1, 2, 3, 4, 5], []])
    trace = trace.with_columns(shared_prefix_tokens=np.array([4, 2]))
    assert serve(trace).requests.cached_tokens.tolist() == [0, 2]


def test_a_preempted_request_finds_its_own_prompt_again() -> None:
    """As ``test_the_youngest_is_preempted_and_recomputed``, but what the first did not take is still there.

    At 28 s the second gives back 3 shared blocks and one of its own. The first takes two (one free, one evicted from
    the second's tail) by 50 s; the second then finds 2 tokens and computes 3: 13 s instead of 15.
    """
    trace = hashed([0.0, 0.0], [3, 3], [4, 4], [[1, 2, 3], [4, 5, 6]])
    columns = serve(trace, blocks=8).requests
    assert columns.preemptions.tolist() == [0, 1]
    assert columns.cached_tokens.tolist() == [0, 0]  # at the first admission
    assert columns.itl_max_s[1] == 63.0 - 28.0


def test_an_eviction_can_let_the_first_that_waits_in() -> None:
    """Whoever waits needs room for what it would find, too; where a decode evicts that, it may need less.

    Twelve blocks, hash blocks of 4, two tokens an iteration. The first prompt ends at 24 s: 4 cached blocks. The second
    decodes from 48 s on, with 5, 6, 7 blocks; at 81 s it takes its 8th. The third, there since 75 s, would find 4 and
    needs one more: 5 of the 4 that are not used. At 92 s the 9th block drives the cached ones out: now one is enough.
    """
    trace = hashed([0.0, 0.0, 75.0], [4, 4, 10], [1, 8, 1], [[1], [2], [1, 3, 4]], block=4)
    columns = serve(trace, Policy("t", 2, 2, prefix_caching=True), blocks=12).requests
    assert columns.start_s.tolist() == [0.0, 24.0, 92.0]
    assert columns.cached_tokens[2] == 0


def test_an_eviction_can_let_in_who_came_during_a_series() -> None:
    """As above, but the second prompt has 7 tokens, so that its first decode, from 71 to 82 s, has the 8th block."""
    trace = hashed([0.0, 0.0, 75.0], [4, 7, 10], [1, 4, 1], [[1], [2, 5], [1, 3, 4]], block=4)
    columns = serve(trace, Policy("t", 2, 2, prefix_caching=True), blocks=12).requests
    assert columns.start_s.tolist() == [0.0, 24.0, 82.0]


def test_an_eviction_after_a_refusal_is_news_for_the_next_iteration() -> None:
    """As above, where prefill goes first: at 92 s the third is refused, then the decode evicts; it starts at 103 s."""
    trace = hashed([0.0, 0.0, 75.0], [4, 4, 10], [1, 8, 1], [[1], [2], [1, 3, 4]], block=4)
    columns = serve(trace, Policy("t", 2, 2, mix=False, prefix_caching=True), blocks=12).requests
    assert columns.start_s.tolist() == [0.0, 24.0, 103.0]


def test_before_anybody_is_preempted_all_that_is_cached_is_taken() -> None:
    """Eleven blocks: 2 cached, 9 of three prompts. All three want one more; two take the cached ones, one goes."""
    trace = hashed([0.0, 20.0, 20.0, 20.0, 200.0], [3] * 5, [1, 2, 2, 2, 1], [[1], [], [], [], [1]], block=2)
    result = serve(trace, Policy("t", 12, SEQS, prefix_caching=True), blocks=11)
    assert result.requests.preemptions.tolist() == [0, 0, 0, 1, 0]
    assert result.requests.cached_tokens[4] == 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("concurrency", [None, 6])
def test_every_preset_finds_prefixes(preset: str, stages: int, concurrency: int | None) -> None:
    law = tables(stages)
    seqs = PRESETS[preset].max_num_seqs + 1
    wide = law._replace(
        decode_s=np.full((stages, seqs), 10.0), head_s=np.zeros(seqs), host_floor_s=np.zeros(seqs),
        host_serial_s=np.zeros(seqs), decode_attention_s=np.zeros((stages, 2, seqs, 3)),
    )  # fmt: skip
    rng = np.random.default_rng(5)
    rows = [[int(rng.integers(3)), int(rng.integers(3, 6)) + 10 * i] for i in range(40)]
    trace = hashed(list(np.cumsum(rng.exponential(20.0, 40))), [9] * 40, [7] * 40, rows, block=4)
    policy = replace(PRESETS[preset], prefix_caching=True)
    result = simulate_pool(trace, wide, ReplicaLimits(24, 2, 60), policy, concurrency=concurrency)
    assert (result.requests.status == COMPLETED).all()
    assert result.requests.cached_tokens.sum() > 0


def test_a_hash_in_two_places_is_no_prefix_and_says_so() -> None:
    with pytest.raises(InputError, match="block hash stands for block 0 of one prompt and for block 1 of another"):
        serve(hashed([0.0, 1.0], [2, 2], [1, 1], [[1, 2], [3, 1]]))


def test_ids_are_dense_and_equal_only_for_equal_prefixes() -> None:
    """Sparse and dense hashes give the same numbers; a whole hash block and its begun twin are two things."""
    for factor in (1, 10**15):
        hashes = [[3 * factor, 5 * factor], [3 * factor, 5 * factor], [3 * factor, 9 * factor]]
        trace = hashed([0.0] * 3, [8, 7, 8], [1] * 3, hashes, block=4)
        cache = new_cache(trace, 2, 1, wanted=True)
        assert cache.ids.tolist() == [0, 1, 0, 3, 0, 2]
        assert cache.sizes.tolist() == [2, 2, 2, 1]


# --- hit rates ------------------------------------------------------------------------------------------------------


def test_an_endless_cache_finds_every_block_that_an_earlier_request_had() -> None:
    """A synthetic trace, one request after another: the naive count of leading blocks seen before, token by token."""
    rng = np.random.default_rng(3)
    prompts = rng.integers(1, 40, 300)
    trace = Trace("synthetic", np.arange(300) * 1e4, prompts, np.ones(300, np.int64), **shared_by(rng, prompts, 4, 2))
    columns = serve(trace, blocks=10**6, block_size=2).requests
    assert columns.cached_tokens.tolist() == ideal_hits(trace, 2)
    assert columns.cached_tokens.sum() > 0.3 * prompts.sum()


@pytest.mark.skipif(not MOONCAKE.exists(), reason="no Mooncake trace beside the repository")
@pytest.mark.parametrize("block_size", [16, 512])
def test_the_mooncake_trace_reaches_its_ideal_reuse(block_size: int) -> None:
    """One request after another: 105,710 of its 288,500 blocks were seen before, and all are found but for a few.

    What is missing are last blocks of prompts that come again word for word and end with a KV block: their last token
    has to be computed.
    """
    trace = read_trace(MOONCAKE)
    limits = ReplicaLimits(kv_blocks=1 << 40, block_size=block_size, max_model_len=1 << 20)
    policy = Policy("t", 1 << 20, 1, prefix_caching=True)
    columns = simulate_pool(offline(trace), tables(), limits, policy).requests
    assert columns.cached_tokens.tolist() == ideal_hits(trace, block_size)
    blocks = int((-(-columns.cached_tokens // 512)).sum())
    reuse = blocks / int(trace.hash_counts.sum())
    assert reuse == pytest.approx(describe(trace)["prefix"]["ideal_reuse"], abs=5e-4)


def ideal_hits(trace: Trace, block_size: int) -> list[int]:
    """Tokens of the leading blocks that an earlier request has had, the last token apart, in whole KV blocks."""
    assert trace.hash_ids is not None
    assert trace.hash_offsets is not None
    seen: set[tuple[int, int]] = set()
    hits = []
    for i, prompt in enumerate(trace.input_tokens.tolist()):
        ends = [min((k + 1) * trace.hash_block_tokens, prompt) for k in range(trace.hash_counts[i])]
        ends = [end // block_size * block_size for end in ends]
        names = trace.hash_ids[trace.hash_offsets[i] : trace.hash_offsets[i + 1]].tolist()
        found = 0
        for name, end in zip(names, ends, strict=True):
            if end > prompt - 1 or (name, end) not in seen:
                break
            found = end
        hits.append(found)
        seen |= set(zip(names, ends, strict=True))
    return hits
