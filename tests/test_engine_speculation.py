"""Speculative decoding: worlds by hand, the naive oracle, and the invariants.

In the small worlds an iteration takes 10 s, a decoding sequence 1 s, a token of a mixed one 1 s; a block has one token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace
from tests import test_engine_differential as differential
from tests import test_engine_invariants as invariants
from tests.oracle_speculation import chance
from tests.paged_worlds import paged_worlds
from tests.test_engine_tiny import SEQS, serve, tables
from tests.worlds import World, drawn, worlds

drafting = worlds(routers=differential.BUILT_IN, drafting=True)
NUMBERED = (
    "test_1_every_request_ends_exactly_once", "test_2_causality",
    "test_3_blocks_are_conserved_and_all_free_at_the_end", "test_4_output_tokens_as_asked",
    "test_5_same_seed_same_bytes", "test_6_time_scales", "test_8_the_timeline_never_overlaps_on_a_slot",
    "test_9_records_that_start_too_short_grow_without_a_trace", "test_10_a_timeline_changes_no_other_byte",
    "test_11_rejections_are_those_that_could_never_run",
)  # fmt: skip


def inner(module: Any, name: str) -> Callable[[World], None]:
    """The body of a property test of another file."""
    body: Callable[[World], None] = getattr(module, name).hypothesis.inner_test
    return body


def drafts(*acceptance: float, budget: int = 16, **rules: Any) -> Policy:
    return Policy("t", budget, SEQS, acceptance=acceptance, **rules)


def test_a_step_whose_drafts_are_all_accepted_yields_them_and_one_more() -> None:
    """15 s of prompt and a token; then 3 tokens at 26 s, and the last one at 37 s."""
    result = serve([0.0], [5], [5], drafts(1.0, 1.0))
    assert result.requests.first_token_s[0] == 15.0
    assert result.requests.finish_s[0] == 37.0
    assert sorted(differential.gaps_of(result)) == [0.0, 0.0, 11.0, 11.0]
    assert result.requests.itl_max_s[0] == 11.0
    assert result.pools[0].accepted_tokens == 2
    assert result.pools[0].decode_tokens == 2


def test_a_step_never_yields_more_than_was_asked_for() -> None:
    result = serve([0.0], [5], [3], drafts(*[1.0] * 3))
    assert result.requests.finish_s[0] == 26.0
    assert result.pools[0].accepted_tokens == 1


def test_a_step_whose_drafts_are_all_rejected_yields_one_token() -> None:
    assert serve([0.0], [5], [3], drafts(0.0, 0.0)).requests.finish_s[0] == 15.0 + 2 * 11.0


def test_a_mixed_iteration_computes_the_drafts_and_the_prompt() -> None:
    """The second prompt of 4 joins the first one's step of 3 tokens: 10 + 3 + 4 s."""
    columns = serve([0.0, 3.0], [5, 4], [9, 1], drafts(1.0, 1.0)).requests
    assert columns.first_token_s.tolist() == [15.0, 32.0]


def test_drafts_take_blocks_whether_they_are_accepted_or_not() -> None:
    """Five tokens of prompt, then 5 + 3 blocks at once; each step keeps three ahead of the tokens."""
    assert serve([0.0], [5], [2], drafts(0.0, 0.0)).pools[0].kv_peak_blocks == 8
    assert serve([0.0], [5], [3], drafts(0.0, 0.0)).pools[0].kv_peak_blocks == 9


def test_a_request_that_fits_without_its_drafts_runs() -> None:
    """Six blocks hold prompt and answer, and no draft beyond them."""
    assert serve([0.0], [5], [2], drafts(0.0, 0.0), blocks=6).requests.status[0] == COMPLETED


def test_a_budget_that_cannot_hold_every_sequence_and_its_drafts_is_refused() -> None:
    with pytest.raises(UsageError, match="below max_num_seqs 4 · 3"):
        drafts(0.5, 0.5, budget=8)
    drafts(0.5, 0.5, budget=8, mix=False)


def long_run(acceptance: tuple[float, ...], n: int = 40, output: int = 3001, **options: Any) -> SimulationResult:
    trace = Trace("long", np.zeros(n), np.full(n, 1), np.full(n, output))
    limits = ReplicaLimits(kv_blocks=1 << 30, block_size=1, max_model_len=1 << 20)
    return simulate_pool(trace, tables(), limits, drafts(*acceptance, budget=64), **options)


@pytest.mark.parametrize(("a", "k"), [(0.7, 1), (0.7, 3), (0.85, 5), (0.3, 2)])
def test_mean_tokens_of_a_step_are_those_of_the_formula(a: float, k: int) -> None:
    """(1 − a^(k + 1)) / (1 − a): Leviathan et al. 2023, equation 1."""
    counters = long_run((a,) * k).pools[0]
    mean = 1 + counters.accepted_tokens / counters.decode_tokens
    assert mean == pytest.approx((1 - a ** (k + 1)) / (1 - a), rel=0.01)


def test_each_position_has_its_own_acceptance() -> None:
    """1 + a1 + a1·a2 + a1·a2·a3."""
    counters = long_run((0.9, 0.5, 0.8)).pools[0]
    assert 1 + counters.accepted_tokens / counters.decode_tokens == pytest.approx(1 + 0.9 + 0.45 + 0.36, rel=0.01)


def test_all_or_none() -> None:
    counters = long_run((1.0,) * 3, output=4 * 100 + 1).pools[0]
    assert counters.accepted_tokens == 3 * counters.decode_tokens
    assert long_run((0.0,) * 3, output=400).pools[0].accepted_tokens == 0


def test_draws_are_uniform() -> None:
    values = np.array([chance(seed, i, place) for seed in (0, 1, 1 << 40) for i in range(60) for place in range(60)])
    shares, _ = np.histogram(values, 10, (0, 1))
    assert np.abs(shares / len(values) - 0.1).max() < 0.01
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_neither_replicas_nor_load_change_a_draw() -> None:
    """Steps and accepted drafts are those of the requests, wherever and with whomever they run."""
    counts = [
        (result.pools[0].decode_tokens, result.pools[0].accepted_tokens)
        for result in (
            long_run((0.6, 0.6), 30, 200, **options)
            for options in ({}, {"replicas": 3}, {"concurrency": 2}, {"router": "random", "replicas": 2}, {"seed": 1})
        )
    ]
    assert len(set(counts[:4])) == 1
    assert counts[4] != counts[0]


def test_a_preemption_changes_no_draw_of_what_comes_after_it() -> None:
    """The recomputed prompt yields a token without drafts; what follows is drawn by its place."""
    roomy = serve([0.0, 0.0], [4, 4], [12, 12], drafts(0.5, 0.5))
    tight = serve([0.0, 0.0], [4, 4], [12, 12], drafts(0.5, 0.5), blocks=16)
    assert roomy.pools[0].preemptions == 0 < tight.pools[0].preemptions
    assert tight.pools[0].decode_tokens + tight.pools[0].accepted_tokens == 22 - tight.pools[0].preemptions


@given(drafting)
@drawn
def test_engine_agrees_with_the_oracle_on_worlds_that_draft(world: World) -> None:
    inner(differential, "test_engine_agrees_with_the_oracle")(world)


@given(drafting)
@drawn
def test_every_gap_and_every_iteration_agrees_with_drafts(world: World) -> None:
    inner(differential, "test_every_gap_and_every_iteration_agrees")(world)


@given(paged_worlds(routers=differential.BUILT_IN, drafting=True))
@drawn
def test_engine_agrees_with_the_oracle_on_pages_and_drafts(world: World) -> None:
    inner(differential, "test_engine_agrees_with_the_oracle")(world)


@given(drafting)
@drawn
def test_the_numbered_invariants_hold_with_drafts(world: World) -> None:
    for name in NUMBERED:
        inner(invariants, name)(world)


@given(drafting)
@drawn
def test_a_step_yields_one_token_to_all_its_drafts_and_one_more(world: World) -> None:
    result = invariants.run(world)
    counters, done = result.pools[0], result.requests.status == COMPLETED
    assert 0 <= counters.accepted_tokens <= len(world.policy.acceptance) * counters.decode_tokens
    yielded = counters.decode_tokens + counters.accepted_tokens + result.requests.preemptions[done].sum()
    assert yielded >= (result.requests.output_tokens[done] - 1).sum()


@given(worlds())
@drawn
def test_drafts_that_are_never_accepted_are_single_steps_of_the_same_length(world: World) -> None:
    """With room for everybody and tables that know no drafts, only the token count of mixed iterations differs."""
    policy = replace(world.policy, mix=False, reserve=False, prefix_caching=False)
    if world.tables.stages > 1:
        return
    roomy = replace(world.limits, kv_blocks=1 << 20)
    plain = invariants.run(replace(world, policy=policy, limits=roomy))
    never = invariants.run(replace(world, policy=replace(policy, acceptance=(0.0,)), limits=roomy))
    np.testing.assert_allclose(never.requests.finish_s, plain.requests.finish_s, rtol=1e-9)
