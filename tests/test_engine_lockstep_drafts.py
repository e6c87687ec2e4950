"""Ranks in lockstep that speculate: against the oracle, by hand, and what must hold of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.engine.schedulers import Policy
from tests import test_engine_lockstep as lockstep
from tests.lockstep_worlds import lockstep_worlds
from tests.test_engine_balance import balanced_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.test_engine_invariants import run
from tests.test_engine_lockstep import at, together
from tests.test_engine_speculation import inner
from tests.test_engine_tiny import SEQS, serve
from tests.tier_worlds import tiered_ranks
from tests.worlds import World, drawn

drafting = lockstep_worlds(routers=BUILT_IN, drafting=True)
NUMBERED = (
    "test_ranks_of_a_group_begin_and_end_every_iteration_together", "test_ranks_conserve_requests_and_blocks",
)


@given(drafting)
@drawn
def test_ranks_that_draft_agree_with_the_oracle(world: World) -> None:
    check_requests(world)


@given(drafting)
@drawn
def test_every_gap_and_every_iteration_of_ranks_that_draft_agrees(world: World) -> None:
    check_iterations(world)


@given(balanced_worlds(routers=BUILT_IN, drafting=True))
@drawn
def test_ranks_that_draft_and_hold_prompts_agree_with_the_oracle(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(tiered_ranks(routers=BUILT_IN, drafting=True))
@drawn
def test_ranks_that_draft_and_load_from_tiers_agree_with_the_oracle(world: World) -> None:
    check_requests(world)
    check_iterations(world)


@given(lockstep_worlds(routers=BUILT_IN, drafting=True, ordered=True))
@drawn
def test_ranks_that_draft_agree_with_the_oracle_in_every_order(world: World) -> None:
    check_requests(world)


@given(drafting)
@drawn
def test_what_holds_of_ranks_holds_of_those_that_draft(world: World) -> None:
    for name in NUMBERED:
        inner(lockstep, name)(world)


@given(drafting)
@drawn
def test_the_time_of_ranks_that_draft_adds_up(world: World) -> None:
    """As without drafts, and the passes of drafts after the first once a group."""
    none = np.zeros_like(world.tables.host_serial_s)
    law = world.tables._replace(host_floor_s=none, host_serial_s=none)
    found, group = run(replace(world, tables=law)).pools[0], law.group
    own = at(law, law.mixed_s[0], found.mixed) + found.decode[: len(law.decode_s[0])] @ law.decode_s[0]
    own += found.sampled[: len(law.head_s)] @ law.head_s + found.prefill_attention_s + found.decode_attention_s
    rows = found.together
    shared = at(law, group.exchange_mixed_s, rows[0]) + dense(group.exchange_decode_s, rows[1])
    shared += at(law, group.experts_mixed_s, rows[2]) + dense(group.experts_decode_s, rows[3])
    shared += risen(group.experts_decode_s, rows[5]) / group.ranks
    rests = at(law, group.experts_mixed_s, np.roll(rows[4], 1)) - at(law, group.experts_mixed_s, rows[4])
    shared += rests / group.ranks
    assert len(rows) == (9 if len(world.policy.acceptance) > 1 else 6)
    if len(group.exchange_drafts_s):
        somebody = rows[6:].copy()
        somebody[:, 0] = 0  # where nobody yields a token nobody drafts
        shared += dense(group.exchange_drafts_s, somebody[0])
        shared += dense(group.experts_drafts_s, somebody[1]) + risen(group.experts_drafts_s, somebody[2]) / group.ranks
    np.testing.assert_allclose(own / group.ranks + shared + found.waited_s, found.busy_s, rtol=1e-9, atol=1e-12)


def dense(table: np.ndarray, counts: np.ndarray) -> float:
    return float(counts[: len(table)] @ table)


def risen(table: np.ndarray, counts: np.ndarray) -> float:
    return float(counts[: len(table)] @ np.diff(table, append=0.0))


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_ranks_without_drafts_count_nothing_of_them(world: World) -> None:
    assert len(run(world).pools[0].together) == 6


def pair(
    arrivals: list[float], prompts: list[int], outputs: list[int], *acceptance: float, padded: int = 0
) -> SimulationResult:
    policy = Policy("hand", 64, SEQS, acceptance=acceptance)
    return serve(
        arrivals, prompts, outputs, law=together(padded=padded), router="round-robin", timeline=True, policy=policy
    )


def test_a_dummy_batch_is_a_sequence_with_its_drafts() -> None:
    """Prefill of 5 tokens beside 3 of the dummy: 4 mean tokens. Decode: one sequence each, 11 + 100 + 1000 s."""
    result = pair([0.0], [5], [4], 1.0, 1.0)
    assert result.requests.first_token_s[0] == 15.0 + 100.0 + 4000.0
    assert result.requests.finish_s[0] == 4115.0 + 1111.0
    assert result.pools[0].accepted_tokens == 2


def test_verified_tokens_of_one_rank_stand_beside_anothers_prompt() -> None:
    """One sequence verifies 2 drafts, the other rank computes a prompt of 8: 5.5 mean tokens, 18 s own."""
    result = pair([0.0, 4200.0], [5, 8], [9, 1], 1.0, 1.0)
    begin = 4115.0 + 1111.0
    assert result.requests.first_token_s[1] == begin + 18.0 + 100.0 + 5500.0


def test_later_passes_are_of_sequences_and_of_a_dummy() -> None:
    """Passes 2 to k take 7 s for each sequence of the fullest rank and 2000 s a mean one, after prefill, too."""
    knots = np.arange(SEQS + 1.0)
    law = together()
    law = law._replace(group=law.group._replace(exchange_drafts_s=7 * knots, experts_drafts_s=2000 * knots))
    policy = Policy("hand", 64, SEQS, acceptance=(0.0, 0.0))
    first = serve([0.0], [5], [2], law=law, router="round-robin", policy=policy).requests
    assert first.first_token_s[0] == 15.0 + 100.0 + 4000.0 + 7.0 + 2000.0
    assert first.finish_s[0] == first.first_token_s[0] + 1111.0 + 2007.0
    three = serve([0.0] * 3, [5] * 3, [1] * 3, law=law, router="round-robin", policy=policy).requests
    assert three.finish_s[0] == 20.0 + 100.0 + 7500.0 + 14.0 + 3000.0


def test_a_chunk_that_is_not_the_last_is_drafted_once() -> None:
    """No sequence yields a token in the first iteration: passes 2 to k have nobody."""
    knots = np.arange(SEQS + 1.0)
    law = together()
    law = law._replace(group=law.group._replace(exchange_drafts_s=1 + knots, experts_drafts_s=1 + knots))
    policy = Policy("hand", 12, SEQS, acceptance=(0.0, 0.0))
    line = serve([0.0], [16], [1], law=law, router="round-robin", policy=policy, timeline=True).timeline
    assert line is not None
    assert line.end_s[0] == 22.0 + 100.0 + 7500.0
    assert line.end_s[-1] - line.begin_s[-1] == 14.0 + 100.0 + 3500.0 + 2.0 + 2.0


@given(st.integers(2, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_luck_does_not_hang_on_ranks(ranks: int, acceptance: float) -> None:
    """The draws of requests are theirs, wherever they run."""
    arrivals, prompts, outputs = [0.0] * 6, [3] * 6, [20] * 6
    policy = Policy("hand", 64, SEQS, acceptance=(acceptance, acceptance))
    counts = [
        (found.decode_tokens, found.accepted_tokens)
        for law in (together(), together(ranks))
        for found in (serve(arrivals, prompts, outputs, law=law, router="round-robin", policy=policy).pools[0],)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("acceptance", [(), (0.5,), (0.5, 0.5)])
def test_everybody_ends(acceptance: tuple[float, ...]) -> None:
    result = pair([float(n) for n in range(12)], [4] * 12, [30] * 12, *acceptance, padded=8)
    assert (result.requests.status == COMPLETED).all()
