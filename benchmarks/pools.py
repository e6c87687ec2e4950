"""How fast pools that hand requests to each other replay: requests per second of one core. Prints Markdown.

    python benchmarks/pools.py [TRACE]         default: ../shared/data/traces/azure2023_conv_first_half.csv.gz,
                                               else the bundled burstgpt-day

Llama-3.1-8B on H100, one device a replica, all in one node or each half in its own. The engine is compiled before the
clock starts; each figure is the best of three, per second of CPU time of the one core in use.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.plan import Plan
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, head, repeat

ROOT = Path(__file__).parents[1]
AZURE = ROOT.parent / "shared/data/traces/azure2023_conv_first_half.csv.gz"
RUNS = 3

SWITCHED = {"device": "h100-sxm", "nodes": 4, "network": {"topology": "leaf-spine", "nodes_per_leaf": 1}}
"""A node below each leaf, hashed over 8 spines."""

CASES = (
    # prefill and decode replicas, requests/s, transfer, cluster
    (4, 4, 40.0, {}, "8xh100-sxm"),
    (4, 4, 40.0, {"mode": "push", "layerwise": True}, "8xh100-sxm"),
    (4, 4, 40.0, {}, "2x4xh100-sxm"),
    (1, 1, 5.0, {}, "2x1xh100-sxm"),
    (16, 16, 160.0, {}, "4x8xh100-sxm"),
    (16, 16, 160.0, {}, SWITCHED),
)


def prepared_plan(prefill: int, decode: int, transfer: dict[str, object], cluster: object) -> Prepared:
    pools = [{"role": "prefill", "replicas": prefill}, {"role": "decode", "replicas": decode}]
    plan = Plan.model_validate({"model": "Llama-3.1-8B", "cluster": cluster, "pools": pools, "transfer": transfer})
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    return prepared


def best_s(prepared: Prepared, trace: Trace) -> tuple[float, int]:
    """CPU seconds of the fastest run, and its iterations."""
    seconds, iterations = [], 0
    for _ in range(RUNS):
        began = time.process_time()
        result = replay(prepared, trace)
        seconds.append(time.process_time() - began)
        iterations = sum(pool.iterations for pool in result.pools)
    return min(seconds), iterations


def main(source: str) -> None:
    base = read_trace(source)
    print(f"Python {platform.python_version()}, {platform.machine()}, {base.name}\n")
    print("| prefill + decode | transfer | cluster | requests | iterations | CPU s | requests/CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for prefill, decode, rate, transfer, cluster in CASES:
        prepared = prepared_plan(prefill, decode, transfer, cluster)
        for requests in (20_000, 80_000):
            trace = head(at_rate(repeat(base, requests // len(base) + 1), rate), requests)
            replay(prepared, head(trace, 100))
            seconds, iterations = best_s(prepared, trace)
            how = "layer by layer" if transfer else "whole"
            where = cluster if isinstance(cluster, str) else f"{prepared.plan.cluster}, leaf-spine"
            print(
                f"| {prefill} + {decode} | {how} | {where} | {requests:,} | {iterations:,} | {seconds:.2f} "
                f"| {requests / seconds:,.0f} |"
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(AZURE) if AZURE.exists() else "burstgpt-day")
