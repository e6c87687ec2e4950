"""Small plans and traces for the tests of scenario, reports and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

SMALL = "Llama-3.1-8B"
LARGE = "Llama-3.1-70B"


def plan(model: str = SMALL, cluster: str = "8xh100-sxm", **pool: Any) -> Plan:
    return Plan.model_validate({"model": model, "cluster": cluster, "pools": [pool]})


def trace(n: int = 60, rate: float = 5.0, inputs: int = 300, outputs: int = 40, **columns: Any) -> Trace:
    """Requests with lengths around the given means, at even distances."""
    random = np.random.default_rng(3)
    return Trace(
        "small", np.arange(n) / rate, random.integers(1, 2 * inputs, n), random.integers(1, 2 * outputs, n), **columns
    )


PLAN_YAML = """\
model: Llama-3.1-8B
cluster: 8xh100-sxm
pools:
  - {replicas: 2, tp: 1, scheduler: {max_num_seqs: 64}}
"""

TRACE_CSV = "arrival_s,input_tokens,output_tokens\n" + "".join(
    f"{i * 0.25},{100 + 37 * i % 400},{1 + 13 * i % 50}\n" for i in range(40)
)


def write_inputs(folder: Path, plan_yaml: str = PLAN_YAML, trace_csv: str = TRACE_CSV) -> tuple[str, str]:
    """A plan file and a trace file in ``folder``."""
    (folder / "plan.yaml").write_text(plan_yaml)
    (folder / "trace.csv").write_text(trace_csv)
    return str(folder / "plan.yaml"), str(folder / "trace.csv")
