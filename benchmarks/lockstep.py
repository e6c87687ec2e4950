"""How fast ranks in lockstep replay: rank-iterations per second of one core. Prints Markdown.

    python benchmarks/lockstep.py

DeepSeek-V3 with attention in data parallel and experts over all of 64 H200: one replica of 64 ranks, each with a batch
and a KV cache of its own. A rank-iteration is one iteration of one rank; a series counts as the iterations that it
stands for, a dummy batch as one. The engine is compiled before the clock starts; each figure is the best of three, per
second of CPU time of the one core in use.
"""

from __future__ import annotations

import platform
import time

import numpy as np

from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.workload.trace import Trace

RANKS = 64
RUNS = 3


def prepared_plan() -> Prepared:
    pool = Pool(dp=RANKS, ep=RANKS, scheduler=Scheduler(max_num_seqs=256))
    plan = Plan(
        model="DeepSeek-V3", cluster=Cluster.model_validate("8x8xh200-sxm"), pools=(pool,),
        router="join-shortest-queue",
    )
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared), prepared
    return prepared


def load(per_rank: int, waves: int, shortest: int, longest: int) -> Trace:
    """Prompts of 64 to 512 tokens with long answers, ``waves`` times as many as run at once."""
    random = np.random.default_rng(0)
    n = per_rank * waves * RANKS
    return Trace("decode-heavy", np.zeros(n), random.integers(64, 513, n), random.integers(shortest, longest + 1, n))


def measure(prepared: Prepared, name: str, per_rank: int, waves: int, lengths: tuple[int, int]) -> None:
    trace, concurrency = load(per_rank, waves, *lengths), per_rank * RANKS
    events = replay(prepared, trace, concurrency=concurrency, timeline=True).timeline
    assert events is not None
    best_s, iterations = float("inf"), 0
    for _ in range(RUNS):
        began = time.process_time()
        result = replay(prepared, trace, concurrency=concurrency)
        best_s = min(best_s, time.process_time() - began)
        iterations = result.pools[0].iterations
    steps = float(events.steps.sum()) / len(events.steps)
    row(
        name, concurrency, len(trace), f"{iterations:,}", f"{steps:.1f}", f"{best_s:.2f}",
        f"{iterations / best_s / 1e6:.2f} million", f"{len(trace) / best_s:,.0f}",
    )  # fmt: skip


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}, {RANKS} ranks\n")
    prepared = prepared_plan()
    replay(prepared, load(1, 1, 2, 4), concurrency=RANKS)
    row(
        "load", "in flight", "requests", "rank-iterations", "iterations an event", "CPU s", "rank-iterations/CPU s",
        "requests/CPU s",
    )  # fmt: skip
    row(*("---" for _ in range(8)))
    measure(prepared, "single stepping: an answer ends in almost every iteration", 64, 4, (200, 2000))
    measure(prepared, "few long answers", 4, 4, (2000, 8000))
    measure(prepared, "one long answer a rank", 1, 4, (4000, 16000))


if __name__ == "__main__":
    main()
