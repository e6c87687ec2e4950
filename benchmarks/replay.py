"""How fast the engine replays: requests per second of one core, and how the cost grows. Prints Markdown.

    python benchmarks/replay.py [TRACE]        default: ../shared/data/traces/azure2023_conv_first_half.csv.gz,
                                               else the bundled burstgpt-day

Llama-3.1-8B on one H100 a replica. The engine is compiled before the clock starts; each figure is the best of three.
Rates are per second of CPU time of the one core in use, so that a busy machine does not change them; the wall time
stands beside them. Both hold the set-up of the state and the columns of the result.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from apexsim.engine.result import SimulationResult
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.scenario import Prepared, prepare
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, head, repeat

ROOT = Path(__file__).parents[1]
AZURE = ROOT.parent / "shared/data/traces/azure2023_conv_first_half.csv.gz"
MILLION = 1_360_000
RUNS = 3


def prepared_plan(pp: int = 1) -> Prepared:
    plan = Plan(model="Llama-3.1-8B", cluster=Cluster.model_validate("8xh100-sxm"), pools=(Pool(pp=pp),))
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared), prepared
    return prepared


def replay(
    prepared: Prepared, trace: Trace, replicas: int = 1, router: str = "round-robin"
) -> tuple[float, float, SimulationResult]:
    """Best CPU seconds and best wall seconds of the engine, and what came out."""
    memory = prepared.compiled.memory
    limits = ReplicaLimits(memory.kv_blocks, memory.block_size, memory.max_model_len, pages=memory.pages)
    cpu_s = wall_s = float("inf")
    for _ in range(RUNS):
        begin_cpu, begin = time.process_time(), time.perf_counter()
        result = simulate_pool(
            trace, prepared.compiled.tables, limits, prepared.policy, replicas=replicas, router=router
        )
        cpu_s, wall_s = min(cpu_s, time.process_time() - begin_cpu), min(wall_s, time.perf_counter() - begin)
    return cpu_s, wall_s, result


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def heading(title: str, *columns: str) -> None:
    print(f"\n### {title}\n")
    row(*columns)
    row(*("---" for _ in columns))


def throughput(prepared: Prepared, trace: Trace) -> None:
    heading("Rate", "replicas", "router", "iterations", "wall s", "CPU s", "requests/CPU s", "iterations/CPU s")
    for replicas, router, rate in (
        (1, "round-robin", trace.rate_rps), (1, "round-robin", 20.0), (8, "join-shortest-queue", 8 * 5.5),
        (8, "least-loaded", 8 * 5.5), (8, "power-of-two", 8 * 5.5),
    ):  # fmt: skip
        load = at_rate(trace, rate)
        cpu_s, wall_s, result = replay(prepared, load, replicas, router)
        iterations = result.pools[0].iterations
        row(
            replicas, f"{router}, {rate:.3g} req/s", f"{iterations:,}", f"{wall_s:.2f}", f"{cpu_s:.2f}",
            f"{len(load) / cpu_s:,.0f}", f"{iterations / cpu_s:,.0f}",
        )  # fmt: skip


def pipelines(trace: Trace) -> None:
    title = "Pipelines, which step one iteration at a time"
    heading(title, "stages", "requests", "iterations", "CPU s", "iterations/CPU s")
    for stages in (2, 4):
        cpu_s, _, result = replay(prepared_plan(stages), trace)
        iterations = result.pools[0].iterations
        row(stages, f"{len(trace):,}", f"{iterations:,}", f"{cpu_s:.2f}", f"{iterations / cpu_s:,.0f}")


def growth_with_requests(prepared: Prepared, trace: Trace) -> None:
    heading("Growth with requests (one replica)", "requests", "CPU s", "ns a request")
    for n in (len(trace) // 16, len(trace) // 8, len(trace) // 4, len(trace) // 2, len(trace)):
        cpu_s, _, _ = replay(prepared, head(trace, n))
        row(f"{n:,}", f"{cpu_s:.3f}", f"{cpu_s / n * 1e9:.0f}")


def growth_with_output(prepared: Prepared) -> None:
    heading(
        "Growth with output length at constant batch changes", "output tokens each", "iterations", "batch changes",
        "CPU s", "iterations/CPU s",
    )  # fmt: skip
    n, prompt = 200_000, 100
    for length in (10, 100, 1000, 10_000):
        # Arrivals stretch with the outputs, so that as many requests meet in the batch at every length.
        arrival_s = np.arange(n) * 0.005 * length
        trace = Trace("fixed", arrival_s, np.full(n, prompt), np.full(n, length))
        cpu_s, _, result = replay(prepared, trace)
        runs = len(result.itl.count)
        iterations = result.pools[0].iterations
        row(f"{length:,}", f"{iterations:,}", f"{runs:,}", f"{cpu_s:.3f}", f"{iterations / cpu_s:,.0f}")


def whole_process(trace: Trace) -> None:
    heading(
        "Whole process: `apexsim simulate` on a CSV", "rows", "CSV MB", "first run: wall s", "CPU s",
        "again: wall s", "CPU s", "peak GiB",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        table, plan = Path(folder, "trace.csv"), Path(folder, "plan.yaml")
        columns = np.column_stack([trace.arrival_s, trace.input_tokens, trace.output_tokens])
        np.savetxt(
            table, columns, fmt=("%.6f", "%d", "%d"), delimiter=",", header="arrival_s,input_tokens,output_tokens",
            comments="",
        )  # fmt: skip
        plan.write_text("model: Llama-3.1-8B\ncluster: 8xh100-sxm\npools: [{tp: 1}]\n")
        command = [sys.executable, "-m", "apexsim", "simulate", str(plan), "--trace", str(table), "--json", "-"]
        cells = [f"{len(trace):,}", f"{table.stat().st_size / 1e6:.0f}"]
        for _ in range(2):
            begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            cells += [f"{time.perf_counter() - begin:.1f}", f"{cpu_s:.1f}"]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        row(*cells, f"{peak:.2f}")


def main() -> None:
    source = sys.argv[1] if len(sys.argv) > 1 else str(AZURE) if AZURE.exists() else "burstgpt-day"
    trace = read_trace(source)
    million = head(repeat(trace, copies=-(-MILLION // len(trace))), MILLION)
    prepared = prepared_plan()
    replay(prepared, head(trace, 100))
    print(f"## Replay of {Path(source).name}, repeated to {len(million):,} requests")
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}), one of them used.")
    throughput(prepared, million)
    pipelines(head(million, 100_000))
    growth_with_requests(prepared, million)
    growth_with_output(prepared)
    whole_process(million)


if __name__ == "__main__":
    main()
