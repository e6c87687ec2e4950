"""QServe's throughput table beside the simulator: 8 models x 4 precisions on A100-80G and L40S. Prints Markdown.

    python benchmarks/qserve.py [TABLE]      default: ../shared/data/published/qserve_throughput.csv

Static batches: in-flight batching is off, 1024 tokens in and 512 out, all requests of a batch arrive at once and nobody
joins later; their prompts are one iteration. Each cell is the best batch of ``BATCHES`` that fits, or out of memory
where one sequence does not. The plans are plain ones of the product: engine TensorRT-LLM 0.9 with its memory rule and
default share of it, and these number formats:

    FP16      16-bit weights, 16-bit KV
    W4A16     int4 weights by 16-bit activations, 16-bit KV
    W8A8      int8 by int8, int8 KV (as in TensorRT-LLM's examples for SmoothQuant)
    QServe    int4 weights by int8, int4 KV
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from apexsim.cost.graph import cut_of
from apexsim.cost.memory import MemoryPlan, plan_memory
from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

TABLE = Path(__file__).parents[2] / "shared/data/published/qserve_throughput.csv"
INPUT, OUTPUT = 1024, 512
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""256 is the largest of the published batches."""

LOOKED_AT = 3
"""Of the batches that fit, the largest ones: more sequences never cost throughput for long."""

DEVICES = {"A100-80GB": "a100-sxm-80gb", "L40S": "l40s"}
MODELS = {
    "Llama-3-8B": "Llama-3-8B", "Llama-2-7B": "Llama-2-7B", "Mistral-7B": "Mistral-7B", "Llama-2-13B": "Llama-2-13B",
    "Llama-30B": "Llama-30B", "Yi-34B": "Yi-34B", "Llama-2-70B": "Llama-2-70B", "Qwen-1.5-72B": "Qwen1.5-72B",
}  # fmt: skip
MODES: Mapping[str, dict[str, str]] = {
    "FP16": {"kv_cache": "bf16"},
    "W4A16": {"weights": "w4a16", "kv_cache": "bf16"},
    "W8A8": {"weights": "int8", "kv_cache": "int8"},
    "W4A8KV4": {"weights": "w4a8", "activations": "int8", "kv_cache": "int4"},
}
BASELINES = ("FP16", "W4A16", "W8A8")

Key = tuple[str, str, str]
"""(GPU, model, mode) in the table's words."""


def measured(table: Path = TABLE) -> dict[Key, float | None]:
    """Output tokens/s of every cell; None where the table has no row: out of memory."""
    with table.open(encoding="utf-8") as file:
        rows = {(row["gpu"], row["model"], row["quant"]): float(row["output_tok_s"]) for row in csv.DictReader(file)}
    return {(gpu, model, mode): rows.get((gpu, model, mode)) for gpu in DEVICES for model in MODELS for mode in MODES}


def plan_of(gpu: str, model: str, mode: str, batch: int) -> Plan:
    """A static batch: prompts first, alone and whole, as many sequences as the batch has."""
    limits = {"preset": "vllm-v0", "max_num_seqs": batch, "max_num_batched_tokens": batch * INPUT}
    pool: dict[str, Any] = MODES[mode] | {
        "gpu_memory_utilization": 0.9, "block_size": 64, "max_model_len": INPUT + OUTPUT, "scheduler": limits,
    }  # fmt: skip
    data = {
        "model": MODELS[model], "cluster": f"1x{DEVICES[gpu]}", "engine": "tensorrt-llm", "engine_version": "0.9.0",
        "pools": [pool],
    }  # fmt: skip
    return parse(Plan, data, source="qserve")


@cache
def simulated(gpu: str, model: str, mode: str) -> tuple[float, int] | None:
    """(output tokens/s, batch) of the best batch; None where not one sequence fits."""
    fitting = [batch for batch in BATCHES if fits(plan_of(gpu, model, mode, batch), batch)]
    rates = [(throughput(plan_of(gpu, model, mode, batch), batch), batch) for batch in fitting[-LOOKED_AT:]]
    return max(rates, default=None)


def fits(plan: Plan, batch: int) -> bool:
    """Whether the KV cache of the whole batch fits, to its last token."""
    pool = plan.pools[0]
    model, profile = catalog.model(plan.model), catalog.device(plan.cluster.device)
    memory = plan_memory(model, profile, pool, cut_of(model, pool), batch * INPUT, batch, plan.engine)
    return isinstance(memory, MemoryPlan) and memory.kv_capacity_tokens >= batch * (INPUT + OUTPUT)


def throughput(plan: Plan, batch: int) -> float:
    """Output tokens/s of one static batch."""
    prepared = prepare(plan)
    assert isinstance(prepared, Prepared), prepared
    same = np.ones(batch, dtype=np.int64)
    result = replay(prepared, Trace("static", np.zeros(batch), INPUT * same, OUTPUT * same))
    return batch * OUTPUT / result.duration_s


def ratio(cells: Mapping[Key, float | None], gpu: str, model: str) -> float:
    """QServe over the best baseline that fits."""
    own = cells[gpu, model, "W4A8KV4"]
    best = max(cells[gpu, model, mode] or 0.0 for mode in BASELINES)
    return (own or 0.0) / best


def geomean(cells: Mapping[Key, float | None], gpu: str) -> float:
    return exp(sum(log(ratio(cells, gpu, model)) for model in MODELS) / len(MODELS))


def all_simulated() -> dict[Key, float | None]:
    """The simulator's table."""
    found = {key: simulated(*key) for key in ((g, m, q) for g in DEVICES for m in MODELS for q in MODES)}
    return {key: cell[0] if cell else None for key, cell in found.items()}


def _cell(real: float | None, ours: float | None, batch: int | None) -> str:
    def text(value: float | None) -> str:
        return "OOM" if value is None else f"{value:.0f}"

    return f"{text(real)} / {text(ours)}" + (f" ({batch})" if batch else "")


def main(table: Path) -> None:
    real, ours = measured(table), all_simulated()
    for gpu in DEVICES:
        print(f"\n{gpu}, output tokens/s: measured / simulated (batch)\n\n| mode | {' | '.join(MODELS)} |")
        print("|---|" + "---|" * len(MODELS))
        for mode in MODES:
            cells = []
            for model in MODELS:
                found = simulated(gpu, model, mode)
                key = (gpu, model, mode)
                cells.append(_cell(real[key], ours[key], found[1] if found else None))
            print(f"| {mode} | {' | '.join(cells)} |")
        ratios = [f"{ratio(real, gpu, model):.2f} / {ratio(ours, gpu, model):.2f}" for model in MODELS]
        print(f"| x best | {' | '.join(ratios)} |")
        print(f"\ngeometric mean: {geomean(real, gpu):.2f} / {geomean(ours, gpu):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
