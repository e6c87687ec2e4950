"""How long a search takes: the main job, and its growth with plans and with requests. Figures are printed, never
asserted; run it by hand or nightly:

    python benchmarks/search.py [--workers 2] [--trace FILE]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from apexsim.report.search_results import search_for
from apexsim.search.problem import Problem, make_problem
from apexsim.search.run import SearchResult
from apexsim.search.space import default_space
from apexsim.spec import catalog
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import head, repeat

AZURE = Path(__file__).parents[2] / "shared/data/traces/azure2023_conv_first_half.csv.gz"
MODEL, CLUSTER, SLO = "Llama-3.1-70B", "8xh100-sxm", "ttft=2s,tpot=100ms@0.9"
HEADER = (
    "| job | plans | replayed | feasible | requests simulated | wall s | plans/s | M requests/s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def problem(trace: Trace, **lists: tuple[object, ...]) -> Problem:
    """The main job's question on ``trace``, with some lists of the space replaced."""
    where = catalog.cluster(CLUSTER)
    space = default_space(catalog.model(MODEL), catalog.device(where.device), where).model_copy(update=lists)
    return make_problem(MODEL, where, trace, catalog.slo(SLO), space=space)


def measure(name: str, question: Problem, workers: int) -> SearchResult:
    """Search once and print a row; the clock starts before the worker processes do."""
    began = time.perf_counter()
    result = search_for(question, workers=workers).result
    wall_s = time.perf_counter() - began
    replayed = result.to_dict()["simulation"]["plans_evaluated"]
    print(
        f"| {name} | {result.considered} | {replayed} | {len(result.ranked)} | {result.requests_simulated:,} "
        f"| {wall_s:.1f} | {result.considered / wall_s:.0f} | {result.requests_simulated / wall_s / 1e6:.2f} |",
        flush=True,
    )
    return result


def large(trace: Trace) -> Problem:
    """DeepSeek-V3 on four nodes of H200: the default space, colocated and disaggregated."""
    return make_problem("DeepSeek-V3", catalog.cluster("4x8xh200-sxm"), trace, catalog.slo(SLO))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--trace", default=str(AZURE) if AZURE.exists() else "burstgpt-day")
    given = arguments.parse_args()
    trace = read_trace(given.trace)
    print(f"{MODEL} on {CLUSTER} under {SLO}: {len(trace):,} requests of {trace.name} at {trace.rate_rps:.3g} req/s")
    print(f"{given.workers} workers, {os.cpu_count()} cores\n\n{HEADER}")
    small = {"max_num_seqs": (128,), "max_num_batched_tokens": (8192,)}
    measure("warm-up, 500 requests", problem(head(trace, 500), **small), given.workers)
    measure("main job", problem(trace), given.workers)
    measure("1/4 of the plans", problem(trace, **small), given.workers)
    measure("1/2 of the plans", problem(trace, max_num_seqs=(128,)), given.workers)
    measure("2 x the plans", problem(trace, max_num_seqs=(64, 128, 256, 512)), given.workers)
    for copies in (2, 4):
        measure(f"{copies} x the requests", problem(repeat(trace, copies)), given.workers)
    if given.workers > 1:
        measure("main job, 1 worker", problem(trace), 1)
    measure("DeepSeek-V3 on 32 H200", large(trace), given.workers)


if __name__ == "__main__":
    main()
