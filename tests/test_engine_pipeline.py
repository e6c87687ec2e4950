"""Pipelines: how chunks follow each other, how requests spread over the batches in flight, and the textbook's bubble.

As in ``test_engine_tiny.py`` an iteration takes 10 s and a second for each token, shared out evenly over the stages
unless a test says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from apexsim.engine.result import COMPLETED, SimulationResult
from apexsim.engine.schedulers import PRESETS, Policy
from tests.test_engine_differential import run_both
from tests.test_engine_tiny import SEQS, serve, tables
from tests.worlds import World, drawn, worlds

BUDGET = 8
WHOLE_S = 10.0 + BUDGET
"""An iteration that fills the budget, through all stages."""


def batch_sizes(result: SimulationResult) -> list[int]:
    """Most requests of an iteration, by batch in flight."""
    line = result.timeline
    assert line is not None
    return [int(line.requests[line.slot == slot].max(initial=0)) for slot in range(int(line.slot.max()) + 1)]


@pytest.mark.parametrize(("follow", "first_token_s"), [(True, 27.0), (False, 36.0)])
def test_the_second_chunk_enters_behind_the_first(follow: bool, first_token_s: float) -> None:
    """Two stages of 9 s: the second chunk is in the first stage while the first chunk is in the second."""
    policy = Policy("t", BUDGET, SEQS, follow=follow)
    result = serve([0.0], [16], [1], policy, law=tables(2), timeline=True)
    assert result.requests.first_token_s[0] == first_token_s
    assert result.pools[0].prefill_tokens == 16


def test_the_request_stays_in_the_batch_of_its_last_chunk() -> None:
    """Three chunks go through two batches by turns; the third one's batch decodes."""
    result = serve([0.0], [24], [3], Policy("t", BUDGET, SEQS), law=tables(2), timeline=True)
    line = result.timeline
    assert line is not None
    assert line.slot[line.prefill_tokens > 0].tolist() == [0, 1, 0]
    assert set(line.slot[line.decoding > 0].tolist()) == {0}


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("batches", "one_prompt"), [(1, False), (2, False), (5, False), (12, False), (2, True), (5, True), (7, True)]
)
def test_fill_and_drain_leave_the_bubble_of_the_textbook(stages: int, batches: int, one_prompt: bool) -> None:
    """m equal micro-batches through p equal stages: (p - 1) / (m + p - 1) of the time a stage stands idle (GPipe,
    Huang et al. 2019, section 2.3), whether they are prompts of their own or the chunks of one."""
    prompts = [BUDGET * batches] if one_prompt else [BUDGET] * batches
    policy = Policy("t", BUDGET, SEQS)
    result = serve([0.0] * len(prompts), prompts, [1] * len(prompts), policy, blocks=200, law=tables(stages))
    assert (result.requests.status == COMPLETED).all()
    bubble = 1.0 - result.pools[0].busy_s / result.duration_s
    assert result.duration_s == pytest.approx((batches + stages - 1) * WHOLE_S / stages)
    assert bubble == pytest.approx((stages - 1) / (batches + stages - 1), abs=1e-12)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.7), (0.2, 0.3, 0.5), (0.25, 0.25, 0.25, 0.25)])
def test_equal_batches_run_as_fast_as_the_slowest_stage(shares: tuple[float, ...]) -> None:
    """With as many equal batches in flight as stages, an iteration ends every max(stage) seconds."""
    stages, steps = len(shares), 40
    law = tables(stages)
    part = np.array(shares)[:, None] * stages
    law = law._replace(mixed_s=law.mixed_s * part, decode_s=law.decode_s * part)
    policy = Policy("t", BUDGET, SEQS, seqs_of="batch")
    result = serve([0.0] * stages, [BUDGET] * stages, [steps] * stages, policy, blocks=400, law=law, timeline=True)
    line = result.timeline
    assert line is not None
    ends = np.sort(line.end_s[line.decoding == 1])[stages:-stages]
    assert np.diff(ends).mean() == pytest.approx(11.0 * max(shares), rel=0.02)


@pytest.mark.parametrize(
    ("seqs_of", "total", "each"), [("replica", 4, [4, 0]), ("batch", 8, [4, 4]), ("share", 4, [2, 2])]
)
def test_what_max_num_seqs_limits(seqs_of: str, total: int, each: list[int]) -> None:
    """Twelve prompts of one token that are there at once. vLLM's one limit lets the first batch take all places."""
    policy = Policy("t", BUDGET, SEQS, seqs_of=seqs_of)  # type: ignore[arg-type]
    assert policy.seqs(2) == (total, max(each))
    result = serve([0.0] * 12, [1] * 12, [30] * 12, policy, blocks=500, law=tables(2), timeline=True)
    line = result.timeline
    assert line is not None
    sizes = [int(line.requests[(line.slot == slot) & (line.begin_s < 200.0)].max(initial=0)) for slot in range(2)]
    assert sizes == each


def test_an_equal_share_is_at_least_one_request() -> None:
    assert Policy("t", BUDGET, 1, seqs_of="share").seqs(4) == (1, 1)


def test_presets_limit_batches_in_flight_as_their_engines_do() -> None:
    assert PRESETS["vllm"].seqs(2) == (256, 256)
    assert PRESETS["sglang"].seqs(4) == (256, 64)
    assert PRESETS["tensorrt-llm"].seqs(2) == (4096, 2048)
    assert not PRESETS["sarathi"].follow


def test_a_full_batch_leaves_an_open_prompt_to_the_others() -> None:
    """A batch that may hold one request decodes it; the long prompt's chunks all go through the other one."""
    policy = Policy("t", BUDGET, 2, seqs_of="share")
    result = serve([0.0, 1.0], [1, 24], [20, 2], policy, law=tables(2), timeline=True)
    line = result.timeline
    assert line is not None
    assert batch_sizes(result) == [1, 1]
    assert set(line.slot[line.prefill_tokens == BUDGET].tolist()) == {1}


@given(worlds(closed=False), st.booleans(), st.sampled_from(["replica", "batch", "share"]))
@drawn
def test_pipeline_rules_change_no_byte_without_stages(world: World, follow: bool, seqs_of: str) -> None:
    assume(world.tables.stages == 1)
    plain = replace(world.policy, follow=True, seqs_of="replica")
    other = replace(world.policy, follow=follow, seqs_of=seqs_of)
    results = [run_both(replace(world, policy=policy))[0] for policy in (plain, other)]
    assert results[0].same_bytes(results[1])


@given(worlds(pipelines=True))
@drawn
def test_no_batch_in_flight_is_larger_than_its_limit(world: World) -> None:
    result, expected = run_both(world)
    assume(not expected.tied)
    line = result.timeline
    assert line is not None
    assert line.requests.max(initial=0) <= world.policy.seqs(world.tables.stages)[1]
    assert sorted(line.requests.tolist()) == sorted(expected.sizes)
