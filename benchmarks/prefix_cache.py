"""How fast the engine replays with a prefix cache: requests per second of one core. Prints Markdown.

    python benchmarks/prefix_cache.py [TRACE]      default: ../shared/data/traces/mooncake_conversation.csv.gz

Llama-3.1-8B on one H100 a replica; the Mooncake conversation trace, its 3-second batches spread, eight times over,
with hashes of their own each time. Figures are the best of three, per second of CPU time as in ``replay.py``, the
numbering of the hashes included. Each stands beside the same run with the cache switched off. The last cache of each
block size is the first with a tier in host memory, whose loads the iterations wait for.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from apexsim.cost.tiers import TierLaw, tier_laws
from apexsim.engine.result import SimulationResult
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.scenario import Prepared, prepare
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.tiers import KvTier
from apexsim.spec.units import parse_bytes
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, head, jitter, repeat

MOONCAKE = Path(__file__).parents[2] / "shared/data/traces/mooncake_conversation.csv.gz"
COPIES = 8
RUNS = 3
ENDLESS = 1 << 40
HOST = "1TB"


def prepared_plan() -> Prepared:
    plan = Plan(model="Llama-3.1-8B", cluster=Cluster.model_validate("8xh100-sxm"), pools=(Pool(),))
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared), prepared
    return prepared


def host_tier(prepared: Prepared, block_size: int) -> tuple[TierLaw, ...]:
    """Host memory beside the device, at the share of PCIe that copies reach."""
    pool = Pool(block_size=block_size, kv_tiers=(KvTier(tier="host", capacity=parse_bytes(HOST)),))
    return tier_laws(prepared.model, prepared.profile, prepared.plan.cluster, pool)


def replay(
    prepared: Prepared, trace: Trace, limits: ReplicaLimits, replicas: int, router: str, *, caching: bool
) -> tuple[float, SimulationResult]:
    """Best CPU seconds of the engine, and what came out."""
    policy = replace(prepared.policy, prefix_caching=caching)
    cpu_s = float("inf")
    for _ in range(RUNS):
        begin_s = time.process_time()
        result = simulate_pool(trace, prepared.compiled.tables, limits, policy, replicas=replicas, router=router)
        cpu_s = min(cpu_s, time.process_time() - begin_s)
    return cpu_s, result


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else MOONCAKE
    trace = repeat(jitter(read_trace(source), 3.0), copies=COPIES)
    prepared = prepared_plan()
    memory = prepared.compiled.memory
    tokens = memory.kv_blocks * memory.block_size
    for caching in (False, True):
        replay(prepared, head(trace, 100), ReplicaLimits(1000, 16, 1 << 20), 1, "round-robin", caching=caching)
    print(f"## {source.name}, {COPIES} times: {len(trace):,} requests with {len(trace.hash_ids):,} hash blocks")
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}), one of them used.\n")
    row(
        "KV block", "cache", "replicas", "router, rate", "requests/CPU s", "switched off", "found", "evicted blocks",
        "mean TTFT s",
    )  # fmt: skip
    row(*["---"] * 9)
    for block_size in (512, 16):
        host = host_tier(prepared, block_size)
        for blocks, name, tiers in (
            (tokens // block_size, f"{tokens:,} tokens", ()), (ENDLESS, "endless", ()),
            (tokens // block_size, f"{tokens:,} tokens, {HOST} of host memory", host),
        ):  # fmt: skip
            limits = ReplicaLimits(blocks, block_size, memory.max_model_len, tiers=tiers)
            for replicas, router, rate in ((1, "round-robin", 1.0), (8, "least-loaded", 8.0), (8, "prefix-aware", 8.0)):
                load = at_rate(trace, rate)
                off_s, _ = replay(prepared, load, limits, replicas, router, caching=False)
                on_s, result = replay(prepared, load, limits, replicas, router, caching=True)
                columns = result.requests
                row(
                    block_size, name, replicas, f"{router}, {rate:g} req/s", f"{len(load) / on_s:,.0f}",
                    f"{len(load) / off_s:,.0f}", f"{columns.cached_tokens.sum() / columns.input_tokens.sum():.1%}",
                    f"{result.pools[0].evicted_blocks:,}",
                    f"{np.nanmean(columns.first_token_s - columns.arrival_s):.2f}",
                )  # fmt: skip


if __name__ == "__main__":
    main()
