"""Queueing theory: where a replica degenerates to M/D/1, M/M/1 or M/M/c, its waiting times are the textbook's.

Waiting times of a run of 200,000 requests scatter by about 1 % at these loads; the bound is 2 % on the mean of five
seeds (M/D/1, M/M/1: Pollaczek-Khinchine; M/M/c: Erlang C).
"""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest

from apexsim.cost.tables import StepTables
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.workload.trace import Trace

N = 200_000
STEP_S = 1e-3


def constant_step(seqs: int) -> StepTables:
    """Every iteration takes STEP_S, whatever is in it."""
    flat = np.zeros((1, 2, 9))
    return StepTables(
        token_dense=8, token_stride=1 << 20, mixed_s=np.full((1, 9), STEP_S), decode_s=np.full((1, seqs + 1), STEP_S),
        context_knots=np.array([0.0, 1.0]), decode_attention_s=np.zeros((1, 2, seqs + 1, 2)), prefill_s=flat,
        prefill_past_s=flat, head_s=np.zeros(seqs + 1), host_floor_s=np.zeros(seqs + 1),
        host_serial_s=np.zeros(seqs + 1), transfer_s=np.zeros(9), window=0,
    )  # fmt: skip


def mean_wait_s(load: float, servers: int, tokens: np.ndarray, seed: int) -> float:
    """Mean time from arrival to the first iteration, the first tenth of the requests left out."""
    random = np.random.default_rng(seed)
    service_s = tokens.mean() * STEP_S
    arrival_s = np.cumsum(random.exponential(service_s / (load * servers), len(tokens)))
    trace = Trace("queue", arrival_s, np.ones(len(tokens), np.int64), tokens)
    limits = ReplicaLimits(kv_blocks=1 << 40, block_size=1 << 20, max_model_len=1 << 28)
    policy = Policy("queue", 8 + servers, servers)
    columns = simulate_pool(trace, constant_step(servers), limits, policy).requests
    return float((columns.start_s - columns.arrival_s)[N // 10 :].mean())


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits in M/M/c; ``load`` is that of one server."""
    offered = servers * load
    last = offered**servers / factorial(servers) / (1 - load)
    return last / (sum(offered**k / factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_m_d_1(load: float) -> None:
    waits = [mean_wait_s(load, 1, np.full(N, 100), seed) for seed in range(5)]
    service_s = 100 * STEP_S
    assert np.mean(waits) == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.02)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.7), (4, 0.7), (16, 0.8)])
def test_m_m_c(servers: int, load: float) -> None:
    """Geometric outputs of 1000 tokens in the mean are exponential service times to 0.1 %."""
    waits = [
        mean_wait_s(load, servers, np.random.default_rng(100 + seed).geometric(1e-3, N), seed) for seed in range(5)
    ]
    service_s = 1000 * STEP_S
    expected = erlang_c(servers, load) * service_s / (servers * (1 - load))
    # An arrival that finds a free place in a running batch still waits for the end of the iteration: half of one.
    busy = 1 - erlang_c(servers, load) if servers > 1 else 0.0
    assert np.mean(waits) == pytest.approx(expected + busy * STEP_S / 2, rel=0.02)
