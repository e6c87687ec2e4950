"""How fast a fleet replays whose replicas come and go: requests per second of one core. Prints Markdown.

    python benchmarks/fleet.py [TRACE]         default: ../shared/data/traces/azure2023_conv_first_half.csv.gz,
                                               else the bundled burstgpt-day

Llama-3.1-8B on H100, one device a replica, least-loaded routing. The engine is compiled before the clock starts; each
figure is the best of three, per second of CPU time of the one core in use.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.plan import Plan
from apexsim.workload.read import read_trace
from apexsim.workload.transform import at_rate, head, repeat

ROOT = Path(__file__).parents[1]
AZURE = ROOT.parent / "shared/data/traces/azure2023_conv_first_half.csv.gz"
RUNS = 3
REPLICAS = 100

FLEETS: dict[str, dict[str, Any]] = {
    "none": {},
    "a straggler": {"stragglers": [{"replica": 0, "factor": 1.5}]},
    "failures, 1 h and 1 min": {"failures": {"mtbf": 3600.0, "mttr": 60.0}},
    "failures, 1 min and 10 s": {"failures": {"mtbf": 60.0, "mttr": 10.0}},
    "autoscaling": {
        "autoscale": [{"max_replicas": REPLICAS, "min_replicas": 10, "target_requests": 4.0, "load": 30.0}]
    },
}


def prepared_plan(replicas: int, fleet: dict[str, Any]) -> Prepared:
    plan = Plan.model_validate({
        "model": "Llama-3.1-8B", "cluster": f"{-(-replicas // 8)}x8xh100-sxm", "pools": [{"replicas": replicas}],
        "fleet": fleet or None,
    })  # fmt: skip
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    return prepared


def main(source: str) -> None:
    base = read_trace(source)
    print(f"Python {platform.python_version()}, {platform.machine()}, {base.name}, {REPLICAS} replicas\n")
    print("| fleet | requests/s offered | requests | failures | CPU s | requests/CPU s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, fleet in FLEETS.items():
        prepared = prepared_plan(REPLICAS, fleet)
        for requests in (20_000, 80_000):
            rate = 500.0
            trace = head(at_rate(repeat(base, requests // len(base) + 1), rate), requests)
            replay(prepared, head(trace, 100))
            seconds, failures = [], 0
            for _ in range(RUNS):
                began = time.process_time()
                result = replay(prepared, trace)
                seconds.append(time.process_time() - began)
                failures = sum(event.kind == "failed" for event in result.fleet_events)
            best = min(seconds)
            print(f"| {name} | {rate:g} | {requests:,} | {failures} | {best:.2f} | {requests / best:,.0f} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(AZURE) if AZURE.exists() else "burstgpt-day")
