"""Queueing theory: where a replica degenerates to M/D/1, M/M/1, M/M/c or an M/G/1 with priorities, its waiting times
are the textbook's.

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


def cobham_s(rates: np.ndarray, services_s: list[np.ndarray]) -> np.ndarray:
    """Mean waiting time of each class of a non-preemptive M/G/1, the most urgent first (Cobham, 1954).

    W_k = W_0 / ((1 − σ_{k−1}) (1 − σ_k)) with W_0 = Σ λ_i E[S_i²] / 2 and σ_k = Σ_{i ≤ k} λ_i E[S_i].
    """
    residual_s = sum(rate * (s**2).mean() for rate, s in zip(rates, services_s, strict=True)) / 2
    sigma = np.concatenate([[0.0], np.cumsum([r * s.mean() for r, s in zip(rates, services_s, strict=True)])])
    return np.asarray(residual_s / ((1 - sigma[:-1]) * (1 - sigma[1:])))


def waits_by_class_s(
    prompts: np.ndarray, outputs: np.ndarray, code: np.ndarray, rate: float, order: str, seed: int
) -> list[float]:
    """Mean waiting time of each class at a replica that serves one request at a time, a token an iteration."""
    arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(code)))
    trace = Trace("queue", arrival_s, prompts, outputs, priority=code)
    limits = ReplicaLimits(kv_blocks=1 << 40, block_size=1 << 20, max_model_len=1 << 28)
    columns = simulate_pool(trace, constant_step(1), limits, Policy("queue", 1, 1, order=order)).requests
    wait_s, counted = columns.start_s - columns.arrival_s, np.arange(len(code)) >= len(code) // 10
    return [wait_s[counted & (code == k)].mean() for k in range(code.max() + 1)]


def test_m_g_1_with_priorities() -> None:
    """Three classes, geometric outputs of different means, loads 0.2, 0.3 and 0.3."""
    means, loads = np.array([20, 60, 200]), np.array([0.2, 0.3, 0.3])
    rates = loads / (means * STEP_S)
    waits, services_s = [], []
    for seed in range(5):
        random = np.random.default_rng(200 + seed)
        code = random.choice(3, N, p=rates / rates.sum())
        outputs = random.geometric(1 / means[code])
        services_s.append([outputs[code == k] * STEP_S for k in range(3)])
        waits.append(waits_by_class_s(np.ones(N, np.int64), outputs, code, rates.sum(), "priority", seed))
    pooled = [np.concatenate([seed[k] for seed in services_s]) for k in range(3)]
    np.testing.assert_allclose(np.mean(waits, axis=0), cobham_s(rates, pooled), rtol=0.03)


def test_shortest_first_m_g_1() -> None:
    """Prompts of three lengths, one token each iteration: the lengths are the classes."""
    lengths, shares, load = np.array([2, 8, 30]), np.array([0.6, 0.3, 0.1]), 0.8
    rate = load / ((lengths * shares).sum() * STEP_S)
    expected = cobham_s(rate * shares, [np.array([length * STEP_S]) for length in lengths])
    waits = []
    for seed in range(5):
        code = np.random.default_rng(300 + seed).choice(3, N // 2, p=shares)
        ones = np.ones(len(code), np.int64)
        waits.append(waits_by_class_s(lengths[code], ones, code, rate, "shortest-first", seed))
    np.testing.assert_allclose(np.mean(waits, axis=0), expected, rtol=0.03)
