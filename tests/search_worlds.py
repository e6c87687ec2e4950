"""Small random worlds for the search's tests: step tables, traces and limits that differ in what binds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apexsim.cost.kvpages import KvPages
from apexsim.cost.tables import StepTables, token_knots
from apexsim.engine.result import SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.search.work import Lengths, Work, least_work
from apexsim.workload.trace import Trace


@dataclass(frozen=True)
class World:
    tables: StepTables
    limits: ReplicaLimits
    policy: Policy
    replicas: int
    trace: Trace

    @property
    def units(self) -> int:
        """Replicas, or ranks of all of them: what a bound counts."""
        return self.replicas * self.tables.group.ranks

    def run(self, trace: Trace) -> SimulationResult:
        return simulate_pool(trace, self.tables, self.limits, self.policy, replicas=self.replicas)

    def work(self, lengths: Lengths) -> Work:
        return least_work(self.tables, self.limits, self.policy, lengths)


def random_tables(rng: np.random.Generator, max_tokens: int, max_seqs: int) -> StepTables:
    """Affine and quadratic laws with random coefficients: now compute is dear, now memory, now the host."""
    stages = int(rng.choice([1, 1, 2, 4]))
    knots = token_knots(max_tokens, dense=64, stride=16).astype(float)
    contexts = np.array([0.0, 128, 1024, 4096])
    seqs = np.arange(max_seqs + 1.0)
    window = int(rng.choice([0, 0, 100]))
    kinds = np.array([1.0, 1.0 if window else 0.0])

    def cost(low: float, high: float) -> np.ndarray:
        return 10 ** rng.uniform(low, high, (stages, 1))

    mixed = cost(-3, -2) + cost(-5.5, -4) * knots
    mixed[:, 0] = 0
    decode = np.maximum(cost(-3, -2), cost(-5, -3.5) * seqs) * np.ones((stages, 1))
    decode[:, 0] = 0
    attention = cost(-8, -6)[:, None, :, None] * kinds[None, :, None, None] * (seqs[:, None] * contexts)
    pair = cost(-9, -7)[:, None] * kinds[None, :, None]
    return StepTables(
        token_dense=64, token_stride=16, mixed_s=mixed, decode_s=decode, context_knots=contexts,
        decode_attention_s=attention, prefill_s=pair * 0.5 * knots * (knots + 1),
        prefill_past_s=pair * knots, head_s=float(10 ** rng.uniform(-5, -3)) * np.sqrt(seqs),
        host_floor_s=np.where(seqs > 0, float(10 ** rng.uniform(-4, -2)), 0.0),
        host_serial_s=np.where(seqs > 0, 10 ** rng.uniform(-5, -3) + 10 ** rng.uniform(-6, -4) * seqs, 0.0),
        transfer_s=1e-4 * np.ones_like(knots) * (stages > 1), window=window,
    )  # fmt: skip


def random_trace(rng: np.random.Generator, n: int) -> Trace:
    """Poisson arrivals, lengths with a long tail."""
    return Trace(
        name="random",
        arrival_s=np.cumsum(rng.exponential(0.2, n)) - 0.1,
        input_tokens=np.maximum(1, rng.lognormal(4.5, 1.0, n)).astype(np.int64),
        output_tokens=np.maximum(1, rng.lognormal(3.0, 1.0, n)).astype(np.int64),
    )


def random_world(seed: int, n: int = 300) -> World:
    """A pool and a trace; presets with and without chunking, KV caches that bind and such that do not.

    In every third one layers of several kinds share the pages, in every fourth two ranks share each context.
    """
    rng = np.random.default_rng(seed)
    max_tokens, max_seqs = int(rng.choice([256, 1024])), int(rng.choice([8, 64]))
    mix, chunked = ((True, True), (True, True), (False, True), (True, False))[int(rng.integers(4))]
    policy = Policy("drawn", max_tokens, max_seqs, mix=mix, chunked=chunked, free_decodes=not chunked)
    kv_blocks, replicas = int(rng.choice([60, 120, 2000])), int(rng.integers(1, 4))
    limits = ReplicaLimits(kv_blocks, 16, max_model_len=1500, entry_s=0.002, exit_s=0.001)
    tables = random_tables(rng, max_tokens, max_seqs)._replace(cp=1 + seed % 4 // 3)
    if seed % 3 == 0:
        groups = 2 if tables.window else 0
        pages = KvPages(1, groups, seed % 2, 16, 16, tables.window)
        limits = replace(limits, kv_blocks=(1 + groups) * kv_blocks, pages=pages)
    return World(tables, limits, policy, replicas, random_trace(rng, n))
