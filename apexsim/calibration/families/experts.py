"""The routed experts of a mixture-of-experts layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np

from apexsim.calibration.families.family import Family
from apexsim.calibration.problem import Problem, device_problem, even_knots
from apexsim.calibration.rows import Recipe, Rows
from apexsim.cost.precision import compute_dtype
from apexsim.cost.shapes import expert_sizes, expert_work
from apexsim.spec.dtypes import WeightDtype, weight_bytes
from apexsim.spec.hardware import HardwareProfile

SIZES = (
    "tokens", "hidden_size", "moe_intermediate_size", "experts", "experts_per_token", "moe_tp", "moe_ep",
)  # fmt: skip

KNOTS = {"rows": 12, "experts": 6, "width": 14, "per_token": 4}


def _problems(recipe: Recipe, rows: Rows, profile: HardwareProfile) -> Iterator[Problem]:
    """Balanced rows deal the tokens to the experts in turn, and so touch as many experts as they can."""
    weights = next(word for word in get_args(WeightDtype) if word == recipe.dtype)
    if not profile.supports(weights):
        return
    compute = compute_dtype(profile, weights)
    tokens, hidden, intermediate, experts, per_token, tp, ep = (rows.sizes[name] for name in SIZES)
    width, local, pairs = intermediate / tp, experts / ep, tokens * per_token
    touched = np.minimum(experts, pairs) / ep
    work = expert_work(tokens, pairs / ep, touched, hidden, width, 3, weight_bytes(weights))
    sizes = expert_sizes(tokens, hidden, width, experts, local, per_token)
    knots = {name: even_knots(sizes[name], count) for name, count in KNOTS.items()}
    yield device_problem(profile, compute, work, sizes, rows.seconds, knots)


EXPERTS = Family(
    operator="grouped_gemm",
    recipes=tuple(
        # vLLM's per-tensor fp8 rows (FlashInfer CUTLASS for ModelOpt checkpoints) take 3 to 6 x the time to read the
        # weights, slower than bf16; Llama-4-Scout-FP8 under vLLM 0.15.1 runs like the fp8-block rows.
        Recipe("grouped_gemm", dtype, "vllm", "moe", SIZES, {"dtype": word, "routing": "balanced"})
        for dtype, word in (
            ("bf16", "bfloat16"), ("fp8", "fp8_block"), ("fp8-block", "fp8_block"), ("w4a16", "int4_wo"),
            ("mxfp4", "w4a16_mxfp4"),
        )
    ),
    problems=_problems,
    search={
        "compute": (0.5, 0.02, 1.1), "memory": (0.8, 0.1, 1.2), "sharpness": (2, 0.7, 20),
        "latency_s": (2e-5, 1e-6, 3e-4), "expert_s": (1e-8, 1e-12, 1e-5), "token_s": (1e-8, 1e-12, 1e-6),
    },
    smoothness=0.05,  # kernels are tuned by shape
)  # fmt: skip
