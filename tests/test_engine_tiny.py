"""The engine on worlds whose answers fit in the head. One token costs 1 s, an iteration 10 s on top."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from apexsim.cost.tables import StepTables
from apexsim.engine.result import COMPLETED, REJECTED_CONTEXT, REJECTED_KV, SimulationResult
from apexsim.engine.schedulers import PRESETS, Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace

SEQS = 4


def tables(stages: int = 1, context_s: float = 0.0) -> StepTables:
    """10 s an iteration, 1 s a token of it, ``context_s`` for each token of context; shared out over the stages."""
    knots = np.arange(65)
    seqs = np.arange(SEQS + 1)
    attention = np.zeros((stages, 2, SEQS + 1, 3))
    attention[:, 0] = context_s * seqs[:, None] * np.array([0.0, 8.0, 64.0]) / stages
    return StepTables(
        token_dense=64, token_stride=1,
        mixed_s=np.tile((10.0 + knots) / stages, (stages, 1)), decode_s=np.tile((10.0 + seqs) / stages, (stages, 1)),
        context_knots=np.array([0.0, 8.0, 64.0]), decode_attention_s=attention,
        prefill_s=np.zeros((stages, 2, 65)), prefill_past_s=np.zeros((stages, 2, 65)), head_s=np.zeros(SEQS + 1),
        host_floor_s=np.zeros(SEQS + 1), host_serial_s=np.zeros(SEQS + 1), transfer_s=np.zeros(65), window=0,
    )  # fmt: skip


def serve(
    arrivals: list[float], prompts: list[int], outputs: list[int], policy: Policy | None = None, *,
    blocks: int = 100, law: StepTables | None = None, **options: object,
) -> SimulationResult:  # fmt: skip
    trace = Trace("tiny", np.array(arrivals), np.array(prompts), np.array(outputs))
    limits = ReplicaLimits(kv_blocks=blocks, block_size=1, max_model_len=60)
    return simulate_pool(trace, law or tables(), limits, policy or Policy("t", 8, SEQS), **options)  # type: ignore[arg-type]


def test_one_request_alone() -> None:
    """Prefill of 5 tokens: 15 s. Then two decode iterations of 11 s."""
    columns = serve([1.0], [5], [3]).requests
    assert columns.start_s[0] == 1.0
    assert columns.first_token_s[0] == 16.0
    assert columns.finish_s[0] == 38.0
    assert columns.itl_max_s[0] == 11.0


def test_a_prompt_over_the_budget_is_cut() -> None:
    """20 tokens at 8 an iteration: 18 + 18 + 14 s."""
    assert serve([0.0], [20], [1]).requests.first_token_s[0] == 50.0


def test_decode_rides_with_prefill_in_mixed_batches() -> None:
    """The second prompt joins at 15 s: 1 decode + 4 prompt tokens take 15 s, so the first gap is 15 s, then 12 s."""
    columns = serve([0.0, 3.0], [5, 4], [3, 2]).requests
    assert columns.start_s[1] == 15.0
    assert columns.first_token_s.tolist() == [15.0, 30.0]
    assert columns.finish_s.tolist() == [42.0, 42.0]
    assert columns.itl_max_s.tolist() == [15.0, 12.0]


def test_decodes_wait_where_prefill_goes_first() -> None:
    """vLLM v0, SGLang: prefill of 4 alone takes 14 s, then both decode for 12 s: a gap of 26 s for the first."""
    policy = Policy("t", 8, SEQS, mix=False)
    columns = serve([0.0, 3.0], [5, 4], [3, 2], policy).requests
    assert columns.first_token_s.tolist() == [15.0, 29.0]
    assert columns.itl_max_s.tolist() == [26.0, 12.0]
    assert columns.finish_s.tolist() == [52.0, 41.0]


def test_attention_grows_with_the_context() -> None:
    """0.5 s a token of context: iterations over 6, 7, 8 tokens take 14, 14.5, 15 s."""
    result = serve([0.0], [5], [4], law=tables(context_s=0.5))
    assert result.requests.finish_s[0] == 15.0 + 14.0 + 14.5 + 15.0
    assert result.requests.itl_max_s[0] == 15.0


def test_an_arrival_cuts_a_series_at_the_next_boundary() -> None:
    """Boundaries at 15, 26, 37, …: the arrival at 30 starts at 37, the one exactly at 37 with it."""
    columns = serve([0.0, 30.0, 37.0], [5, 1, 1], [9, 1, 1]).requests
    assert columns.start_s.tolist() == [0.0, 37.0, 37.0]


@pytest.mark.parametrize(("arrival", "ahead", "start"), [
    (20.0, False, 26.0), (20.0, True, 37.0), (15.0, False, 15.0), (15.0, True, 26.0),
])  # fmt: skip
def test_an_arrival_misses_the_iteration_that_was_composed_before_it(arrival: float, ahead: bool, start: float) -> None:
    """Boundaries of the first at 15, 26, 37, …; the second's 4 tokens ride with one decode: 15 s.

    At 20 the iteration from 15 to 26 runs. Composed ahead, that from 26 is decided already, and the next begins at 37.
    At 15 the iteration from 15 is decided already; that from 26 is decided then, and takes it.
    """
    columns = serve([0.0, arrival], [5, 4], [5, 1], Policy("t", 8, SEQS, ahead=ahead)).requests
    assert columns.start_s[1] == start
    assert columns.first_token_s[1] == start + 15.0
    assert columns.finish_s[0] == 15.0 + 3 * 11.0 + 15.0


def test_an_empty_batch_takes_an_arrival_at_once_though_composed_ahead() -> None:
    """The second waits for the first, alone until 15 s, and no longer; the third finds the replica idle since 29 s."""
    columns = serve([0.0, 3.0, 40.0], [5, 4, 2], [1, 1, 1], Policy("t", 8, SEQS, ahead=True)).requests
    assert columns.start_s.tolist() == [0.0, 15.0, 40.0]
    assert columns.finish_s.tolist() == [15.0, 29.0, 52.0]


def test_the_youngest_is_preempted_and_recomputed() -> None:
    """8 blocks of one token; both prompts of 3 enter (16 s), decode together (28 s), and both ask for a 5th block.

    At 28 s eight blocks are taken: the youngest gives its four back. The first goes on alone for two iterations
    (39, 50 s) and ends; the second computes its 3 + 2 tokens again (50 → 65 s) and yields its third token.
    """
    result = serve([0.0, 0.0], [3, 3], [4, 4], blocks=8)
    columns = result.requests
    assert columns.preemptions.tolist() == [0, 1]
    assert columns.finish_s[0] == 50.0
    assert columns.itl_max_s[1] == 65.0 - 28.0
    assert columns.finish_s[1] == 76.0
    assert result.pools[0].kv_peak_blocks == 8


def test_reserving_the_whole_length_never_preempts() -> None:
    """5 + 3 tokens need 6 blocks up front, so of 8 blocks only one request runs at a time."""
    policy = Policy("t", 8, SEQS, reserve=True)
    columns = serve([0.0, 0.0], [3, 3], [4, 4], policy, blocks=8).requests
    assert columns.preemptions.tolist() == [0, 0]
    assert columns.start_s[1] == columns.finish_s[0]


def test_requests_that_can_never_run_are_rejected_with_a_reason() -> None:
    result = serve([0.0, 0.0, 0.0], [50, 20, 3], [20, 30, 2], blocks=30)
    assert result.requests.reason.tolist() == [REJECTED_CONTEXT, REJECTED_KV, 0]
    assert result.requests.status[2] == COMPLETED
    assert np.isnan(result.requests.finish_s[:2]).all()


def test_a_pipeline_keeps_two_batches_in_flight() -> None:
    """Two stages of half the time. The second request's batch follows the first one stage behind.

    Prefill of 5: 7.5 s a stage, out at 15. The second prompt enters stage 0 at 7.5 and is out at 22.5. A decode of one
    sequence takes 5.5 s a stage: the first's leaves stage 0 at 20.5, waits there for the second prompt until 22.5 and
    is out at 28; the second's runs right behind it and is out at 33.5.
    """
    result = serve([0.0, 1.0], [5, 5], [2, 2], law=tables(stages=2), timeline=True)
    assert result.requests.first_token_s.tolist() == [15.0, 22.5]
    assert result.requests.finish_s.tolist() == [28.0, 33.5]
    assert result.timeline is not None
    assert set(result.timeline.slot.tolist()) == {0, 1}


def test_a_full_pipeline_yields_a_batch_every_stage_time() -> None:
    """The pipeline bubble formula: m batches through p stages of s seconds take (m + p - 1) · s."""
    stages, batches, stage_s = 4, 12, 3.5
    policy = Policy("t", 4, 4)
    columns = serve([0.0] * batches, [4] * batches, [1] * batches, policy, law=tables(stages=stages)).requests
    assert columns.finish_s.max() == pytest.approx((batches + stages - 1) * stage_s)


def test_closed_loop_keeps_the_concurrency() -> None:
    """Two in flight: the third request arrives when the first ends."""
    result = serve([5.0, 6.0, 7.0, 8.0], [5, 5, 5, 5], [1, 3, 1, 1], concurrency=2)
    columns = result.requests
    assert columns.arrival_s[:2].tolist() == [0.0, 0.0]
    assert columns.arrival_s[2] == columns.finish_s[0]
    assert columns.arrival_s[3] == columns.finish_s[2]


def test_simultaneous_arrivals_are_scheduled_together() -> None:
    """Offline: both prompts of 4 share the first iteration, 18 s."""
    assert serve([0.0, 0.0], [4, 4], [1, 1]).requests.finish_s.tolist() == [18.0, 18.0]


def test_orca_lets_a_long_prompt_run_whole() -> None:
    """No chunking: 20 tokens at once although the budget says 8."""
    policy = Policy("t", 8, SEQS, chunked=False, free_decodes=True, reserve=True)
    assert serve([0.0], [20], [1], policy).requests.first_token_s[0] == 30.0


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_serves_all(preset: str) -> None:
    rng = np.random.default_rng(5)
    law = tables()
    wide = law._replace(
        decode_s=10.0 + np.arange(257.0)[None, :], head_s=np.zeros(257), host_floor_s=np.zeros(257),
        host_serial_s=np.zeros(257), decode_attention_s=np.zeros((1, 2, 257, 3)),
    )  # fmt: skip
    prompts, outputs = rng.integers(1, 30, 40), rng.integers(1, 20, 40)
    trace = Trace("tiny", np.cumsum(rng.exponential(20.0, 40)), prompts, outputs)
    result = simulate_pool(trace, wide, ReplicaLimits(200, 4, 60), PRESETS[preset])
    assert (result.requests.status == COMPLETED).all()


def test_a_concurrency_of_zero_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="concurrency 0"):
        serve([0.0], [1], [1], concurrency=0)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_no_generator_takes_is_a_usage_error(seed: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        serve([0.0], [1], [1], seed=seed, router="session-affine")


def test_the_same_source_runs_uncompiled() -> None:
    """NUMBA_DISABLE_JIT=1 gives the same bytes: what a debugger steps through is what runs."""
    script = (
        "import hashlib, tests.test_engine_tiny as t;"
        "r = t.serve([0.0, 3.0, 4.0, 70.0], [5, 4, 20, 2], [9, 12, 3, 2], blocks=30, law=t.tables(context_s=0.25));"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in"
        " (r.requests.finish_s, r.requests.itl_max_s, r.itl.start_s, r.pools[0].mixed))).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "NUMBA_DISABLE_JIT": flag}, check=True,
            capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(__file__)),
        ).stdout
        for flag in ("0", "1")
    ]  # fmt: skip
    assert digests[0] == digests[1] != ""
