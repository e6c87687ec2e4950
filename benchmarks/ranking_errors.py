"""Where the standard deviations of ``apexsim/search/doubt.py`` come from.

    apexsim validate ../shared/validation --json runs.json
    python benchmarks/ranking_errors.py runs.json ../shared/validation
    python benchmarks/ranking_errors.py            # of analytic prices only

Of the validation: errors of TPOT (else of the ITL), as ln(simulated ÷ measured). Pairs of plans that served one load
say what differs between plans: the median of |one error − the other| over 0.6745 √2 is the standard deviation of one of
the two, where errors are normal and independent. Of the analytic model: ln(analytic ÷ calibrated) of whole steps, on
the devices that have measured kernels.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from apexsim.cost.memory import DoesNotFit
from apexsim.cost.step import compile_pool
from apexsim.errors import ApexsimError
from apexsim.spec import catalog
from apexsim.spec.plan import Plan

NORMAL_MEDIAN = 0.6745
METRICS = ("tpot_mean_s", "itl_mean_s", "itl_p50_s")
MODELS = (
    ("Llama-3.1-8B", 1, "bf16"), ("Llama-3.1-70B", 4, "bf16"), ("Llama-3.1-70B", 4, "fp8"),
    ("Qwen3-30B-A3B", 2, "bf16"),
)  # fmt: skip
SEQUENCES, CONTEXT = (8, 64, 256), 2048


def pairs_of_plans(validated: Path, sets: Path) -> None:
    """Standard deviations of one plan's error beside another's, by what the two have in common."""
    data = json.loads(validated.read_text())
    errors = {(run["set"], run["run"]): _log_error(run["metrics"]) for run in data["runs"]}
    known = [abs(error) for error in errors.values() if error is not None]
    print(f"all runs: {len(known)}, median |error| {median(known):.1%}")
    rows = {}
    for name in {load["set"] for load in data["plan_order"]}:
        with (sets / name / "runs.csv").open() as file:
            rows |= {(name, row["run"]): row for row in csv.DictReader(file)}
    apart: dict[tuple[str, str], list[float]] = defaultdict(list)
    for load in data["plan_order"]:
        runs = [(load["set"], run) for run in load["runs"] if errors[load["set"], run] is not None]
        for one, other in itertools.combinations(runs, 2):
            alike = [word for word in ("engine", "weights") if rows[one].get(word) == rows[other].get(word)]
            apart[load["set"], " and ".join(alike) or "neither"].append(abs(errors[one] - errors[other]))
    for (name, alike), values in sorted(apart.items()):
        sd = median(values) / NORMAL_MEDIAN / 2**0.5
        print(f"{name}: {len(values)} pairs of equal {alike}: sd of one plan {sd:.1%}")


def _log_error(metrics: dict[str, dict[str, float | None]]) -> float | None:
    error = next((metrics[name]["error"] for name in METRICS if name in metrics), None)
    return None if error is None else float(np.log1p(error))


def analytic_prices() -> None:
    """Root mean square of ln(analytic ÷ calibrated) over steps."""
    found = []
    for device in catalog.device_names():
        if any(name.startswith("gemm") for name in catalog.device(device).kernels):
            found += [ratio for case in MODELS if (ratio := _log_ratio(device, *case)) is not None]
    ratios = np.array(found)
    rms = np.sqrt((ratios**2).mean())
    print(f"analytic: {len(ratios)} devices and models: rms of ln(analytic / calibrated) {rms:.2f}")


def _log_ratio(device: str, model: str, tp: int, weights: str) -> np.ndarray | None:
    """[steps]; None where the model does not run there."""
    steps = []
    try:
        pool = {"tp": tp, "weights": weights}
        plan = Plan.model_validate({"model": model, "cluster": f"8x{device}", "pools": [pool]})
        for costs in ("analytic", "calibrated"):
            made = compile_pool(
                catalog.model(model), catalog.device(device), plan.cluster, plan.pools[0], costs=costs,
                max_num_batched_tokens=8192, max_num_seqs=max(SEQUENCES),
            )  # fmt: skip
            if isinstance(made, DoesNotFit):
                return None
            tables = made.tables
            knot = int(np.searchsorted(tables.context_knots, CONTEXT))
            decode = [tables.decode_s[0, n] + tables.decode_attention_s[0, :, n, knot].sum() for n in SEQUENCES]
            steps.append(np.array([*decode, tables.mixed_s[0, -1]]))
    except (ApexsimError, ValueError):
        return None
    return np.asarray(np.log(steps[0] / steps[1]))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        pairs_of_plans(Path(sys.argv[1]), Path(sys.argv[2]))
    analytic_prices()
