"""DistServe's attainment curves (OSDI'24, figures 8 and 9) simulated: OPT on A100, against vLLM 0.2.3.

    python benchmarks/distserve.py            curves and knees, simulated and measured
    python benchmarks/distserve.py --fit      host terms of both engines, from the profile that its authors published

Neither is fitted to a curve. The lengths that were served are not published: they are drawn here, log-normal with the
means of the paper and fewer than 2,048 tokens in all. Measured curves are read from ../shared, where it is there.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from apexsim.cost.host import Kernels, host_model
from apexsim.cost.tables import StepTables, token_knots
from apexsim.metrics.attainment import attainment
from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.plan import Plan
from apexsim.spec.slo import SLO, parse_slo
from apexsim.workload.trace import Trace

MEASURED = Path(__file__).parents[2] / "shared/data/published/distserve_slo_attainment.csv"

LONGEST = 2047  # tokens of a prompt and its answer
SEEDS = range(1, 11)
TARGET = 0.9

LENGTHS = {"sharegpt": (755.5, 200.3), "humaneval": (171.3, 98.2), "longbench": (1738.3, 90.7)}
"""Mean prompt and answer of the requests of each figure (DistServe, figure 7)."""

SPREADS = {"sharegpt": (1.5, 1.1), "humaneval": (0.4, 0.6), "longbench": (0.1, 0.5)}
"""Sigma of prompt and answer. HumanEval's prompts are alike; LongBench's are cut where they would not fit."""


@dataclass(frozen=True)
class Figure:
    """One panel: model, requests and how many of them vLLM and DistServe were sent, SLO, and rates per device."""

    name: str
    model: str
    dataset: str
    requests: tuple[int, int]
    slo: str
    rates: tuple[float, ...]


FIGURES = (
    Figure("8a-upper", "OPT-13B", "sharegpt", (100, 300), "ttft=250ms,tpot=100ms",
           (0.25, 0.5, 1, 1.5, 2, 2.25, 2.5, 3)),
    Figure("8b-upper", "OPT-66B", "sharegpt", (100, 200), "ttft=2.5s,tpot=150ms",
           (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)),
    Figure("8c-upper", "OPT-175B", "sharegpt", (200, 525), "ttft=4s,tpot=200ms",
           (0.03125, 0.0625, 0.09375, 0.125, 0.15625, 0.1875, 0.21875, 0.25)),
    Figure("9a", "OPT-66B", "humaneval", (200, 400), "ttft=125ms,tpot=200ms",
           (0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875, 2.125)),
    Figure("9c", "OPT-66B", "longbench", (100, 200), "ttft=15s,tpot=150ms",
           (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.5625, 0.625)),
)  # fmt: skip

PREFILL = {"preset": "vllm-2023", "max_num_seqs": 128, "max_num_batched_tokens": 8192}
DECODE = {"preset": "vllm-2023", "max_num_seqs": 1024, "max_num_batched_tokens": 65536}
BASELINE = {"preset": "vllm-2023", "max_num_seqs": 1024, "max_num_batched_tokens": 16384}
TP = {"OPT-13B": 1, "OPT-66B": 4, "OPT-175B": 8}
APART = {"OPT-13B": ((2, 1), (1, 1)), "OPT-66B": ((4, 1), (2, 2)), "OPT-175B": ((3, 3), (4, 3))}
"""(tp, pp) of the worker that prefills, and of the one that decodes."""

PROFILES = {
    # prefill a + b · Σn + c · Σn² ms; decode a + b · Σcontext + c · batch ms, up to 95 sequences
    "distserve": {
        ("OPT-13B", 1): ((18.10, 0.10191, 7.12e-6), (19.93, 6.27e-4, 0.0385)),
        ("OPT-13B", 2): ((14.74, 0.06858, 2.45e-6), (13.29, 3.41e-4, 0.0630)),
        ("OPT-13B", 4): ((12.06, 0.03808, 5.2e-7), (10.26, 1.88e-4, 0.0327)),
        ("OPT-66B", 2): ((43.06, 0.2742, 2.25e-5), (48.29, 9.42e-4, 0.1276)),
        ("OPT-66B", 4): ((29.44, 0.15135, 8.3e-6), (30.76, 4.52e-4, 0.0633)),
        ("OPT-66B", 8): ((25.49, 0.10659, 3.4e-6), (23.16, 2.27e-4, 0.048)),
    },
    "vllm": {
        ("OPT-13B", 1): ((22.05, 0.14051, 8.1e-6), (23.48, 5.93e-4, 0.0607)),
        ("OPT-66B", 4): ((42.97, 0.21287, 4.6e-5), (39.58, 6.95e-4, 0.1358)),
    },
}  # fmt: skip
"""Measured on A100-80G by DistServe's authors (repository LLMServe/DistServe, its profile and time_estimator.py)."""

WORKER_S, WORKER_TOKEN_S = 2e-3, 1e-7
"""What the same repository adds to an iteration (worker.py)."""

LEAST_HOST_S = {"vllm": 4.5e-3, "distserve": 0.0}
"""vLLM 0.2 has no less host time an iteration than 0.6.0 (engine_profiles/vllm.yaml)."""


# --- plans and requests -------------------------------------------------------------------------------------------


def plan_of(model: str, system: str) -> Plan:
    """What served ``model``: ``vllm`` or ``distserve``."""
    common = {"kv_cache": "fp16", "gpu_memory_utilization": 0.95}
    data: dict[str, object] = {"model": model}
    if system == "vllm":
        data |= {"cluster": f"{TP[model]}xa100-sxm-80gb", "engine": "vllm", "engine_version": "0.2.3"}
        pools = [{"tp": TP[model], "scheduler": BASELINE, **common}]
        return Plan.model_validate({**data, "pools": pools})
    pools = [
        {"role": role, "tp": tp, "pp": pp, "scheduler": scheduler, **common}
        for role, (tp, pp), scheduler in zip(("prefill", "decode"), APART[model], (PREFILL, DECODE), strict=True)
    ]
    devices = sum(pool["tp"] * pool["pp"] for pool in pools)  # type: ignore[operator]
    nodes = {"devices_per_node": 8, "nodes": 4 if devices > 8 else 1, "node_link": "3.125GB/s"}
    data |= {"cluster": {"device": "a100-sxm-80gb", **nodes}, "engine": "distserve"}
    return Plan.model_validate({**data, "pools": pools, "transfer": {"mode": "pull", "first_token": "prefill"}})


@cache
def ready(model: str, system: str) -> Prepared:
    prepared = prepare(plan_of(model, system))
    assert isinstance(prepared, Prepared), prepared
    return prepared


def lengths(dataset: str, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompts and answers: log-normal, drawn anew where they are too long together, with the means of the paper."""
    means, spreads = LENGTHS[dataset], SPREADS[dataset]
    centres = list(means)
    for _ in range(20):  # the cut shortens the means: lengthen what it is made of until they are those of the paper
        drawn = _cut(centres, spreads, 20_000, 0)
        centres = [c * mean / float(column.mean()) for c, mean, column in zip(centres, means, drawn, strict=True)]
    return _cut(centres, spreads, count, seed)


def _cut(
    centres: list[float], spreads: tuple[float, float], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    random, kept = np.random.default_rng(seed), np.zeros((2, 0))
    while kept.shape[1] < count:
        drawn = np.exp(np.log(centres)[:, None] + np.array(spreads)[:, None] * random.standard_normal((2, 4 * count)))
        drawn = np.maximum(np.rint(drawn), [[4], [1]])
        kept = np.concatenate([kept, drawn[:, drawn.sum(axis=0) <= LONGEST]], axis=1)
    prompts, answers = kept[:, :count].astype(np.int64)
    return prompts, answers


def requests(dataset: str, rate_rps: float, seed: int, count: int) -> Trace:
    """Poisson arrivals; the same lengths at every rate."""
    prompts, answers = lengths(dataset, count, seed)
    gaps = np.random.default_rng(seed + 1000).standard_exponential(count)
    return Trace(f"{dataset} {rate_rps:g}/s", np.cumsum(gaps) / rate_rps, prompts, answers)


# --- curves ---------------------------------------------------------------------------------------------------------


def attained(figure: Figure, system: str, per_device_rps: float, seeds: Iterable[int] = SEEDS) -> float:
    """Share of requests within the SLO, the mean over the seeds. A run is as short as the one that was measured."""
    prepared, slo = ready(figure.model, system), slo_of(figure)
    rate, count = per_device_rps * prepared.plan.devices, figure.requests[system == "distserve"]
    shares = [
        attainment(replay(prepared, requests(figure.dataset, rate, seed, count)), slo).attainment for seed in seeds
    ]
    return float(np.mean([share or 0.0 for share in shares]))


def slo_of(figure: Figure) -> SLO:
    return parse_slo(figure.slo)


def knee(rates: list[float], shares: list[float]) -> float | None:
    """The rate at which a curve last falls through the target, straight between its points; None where it does not."""
    for i in range(len(rates) - 1, 0, -1):
        high, low = shares[i - 1], shares[i]
        if high >= TARGET > low:
            return rates[i - 1] + (high - TARGET) / (high - low) * (rates[i] - rates[i - 1])
    return None


def measured(figure: Figure, system: str) -> dict[float, float]:
    """Rate per device -> share, without points that are hidden in the figure; empty without the file."""
    if not MEASURED.is_file():
        return {}
    with MEASURED.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["fig"] == figure.name]
    name = {"vllm": "vLLM", "distserve": "DistServe"}[system]
    return {
        float(row["x"]): float(row["attainment_pct_snapped"]) / 100
        for row in rows if row["system"] == name and not row["confidence"].startswith("low")
    }  # fmt: skip


def curves(figure: Figure) -> Iterator[tuple[str, list[float], dict[float, float]]]:
    for system in ("vllm", "distserve"):
        yield system, [attained(figure, system, rate) for rate in figure.rates], measured(figure, system)


def show() -> None:
    rows = []
    for figure in FIGURES:
        print(f"\n{figure.name}: {figure.model}, {figure.dataset}, {figure.slo}\n")
        print("| rate per device | " + " | ".join(f"{rate:g}" for rate in figure.rates) + " |")
        print("|---" * (len(figure.rates) + 1) + "|")
        for system, shares, real in curves(figure):
            print(f"| {system}, simulated | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
            print(f"| {system}, measured | " + " | ".join(_share(real.get(rate)) for rate in figure.rates) + " |")
            ours, theirs = knee(list(figure.rates), shares), knee(sorted(real), [real[x] for x in sorted(real)])
            errors = [abs(share - real[rate]) for rate, share in zip(figure.rates, shares, strict=True) if rate in real]
            rows.append((figure, system, ours, theirs, float(np.mean(errors)) if errors else None))
    print("\n| figure | system | knee, simulated | measured | off by | mean difference of attainment |")
    print("|---" * 6 + "|")
    for figure, system, ours, theirs, error in rows:
        off = "–" if ours is None or theirs is None else f"{ours / theirs - 1:+.0%}"
        numbers = " | ".join("–" if x is None else f"{x:.3g}" for x in (ours, theirs))
        print(f"| {figure.name} | {system} | {numbers} | {off} | {_share(error)} |")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


# --- host terms ---------------------------------------------------------------------------------------------------


def fit(engine: str) -> tuple[NDArray[np.float64], float]:
    """(factors with prompts and without, host seconds of an iteration, a sequence and a device more; rms error)."""
    rows, right = [], 1.0
    for (model, tp), (prefill, decode) in PROFILES[engine].items():
        tables = _bare(model, tp)
        for tokens in (128, 256, 512, 1024, 1536, 2000):
            real = (prefill[0] + prefill[1] * tokens + prefill[2] * tokens**2) * 1e-3
            real += WORKER_S + WORKER_TOKEN_S * tokens
            rows.append(np.array([_prompt_s(tables, tokens), 0.0, 1.0, 1.0, tp - 1.0]) / real)
        for prompts in (4, 8, 16):  # of 512 tokens
            real = (prefill[0] + prefill[1] * 512 * prompts + prefill[2] * 512**2 * prompts) * 1e-3
            real += WORKER_S + WORKER_TOKEN_S * 512 * prompts
            rows.append(np.array([_prompt_s(tables, 512, prompts), 0.0, 1.0, prompts, tp - 1.0]) / real)
        for batch in (1, 4, 8, 16, 32, 64, 90):
            for context in (400, 800):
                real = (decode[0] + decode[1] * batch * context + decode[2] * batch) * 1e-3
                real += WORKER_S + WORKER_TOKEN_S * batch
                rows.append(np.array([0.0, _decode_s(tables, batch, context), 1.0, batch, tp - 1.0]) / real)
    least = [1.0, 1.0, LEAST_HOST_S[engine], 0.0, 0.0]
    found = lsq_linear(np.array(rows), np.full(len(rows), right), bounds=(least, np.inf)).x
    return found, float(np.sqrt(np.mean((np.array(rows) @ found - right) ** 2)))


@cache
def _bare(model: str, tp: int) -> StepTables:
    """Step tables without any host."""
    data = {
        "model": model, "cluster": "8xa100-sxm-80gb", "engine": "distserve",
        "pools": [{"tp": tp, "kv_cache": "fp16", "gpu_memory_utilization": 0.95, "scheduler": BASELINE}],
    }  # fmt: skip
    none = replace(host_model("distserve", None), iteration_s=0.0, sequence_s=0.0, rank_s=0.0, kernels=Kernels())
    prepared = prepare(Plan.model_validate(data), host=none)
    assert isinstance(prepared, Prepared), prepared
    return prepared.compiled.tables


def _prompt_s(tables: StepTables, tokens: int, prompts: int = 1) -> float:
    knots = token_knots(BASELINE["max_num_batched_tokens"])  # type: ignore[arg-type]
    attention = prompts * np.interp(tokens, knots, tables.prefill_s[0, 0])
    return float(np.interp(tokens * prompts, knots, tables.mixed_s[0]) + attention + tables.head_s[prompts])


def _decode_s(tables: StepTables, batch: int, context: int) -> float:
    attention = np.interp(context, tables.context_knots, tables.decode_attention_s[0, 0, batch])
    return float(tables.decode_s[0, batch] + attention + tables.head_s[batch])


def main(arguments: list[str]) -> None:
    if arguments == ["--fit"]:
        for engine in PROFILES:
            terms, error = fit(engine)
            words = f"prefill kernels x {terms[0]:.2f}, decode kernels x {terms[1]:.2f}"
            words += f", {terms[2] * 1e3:.1f} ms an iteration, {terms[3] * 1e6:.0f} us a sequence"
            print(f"{engine}: {words}, {terms[4] * 1e3:.1f} ms a device more; rms {error:.1%}")
        return
    show()


if __name__ == "__main__":
    main(sys.argv[1:])
