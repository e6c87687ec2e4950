"""Experts: the fit finds the law behind the rows, tells kernels apart, and the report prices what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apexsim.calibration.families.experts import EXPERTS, MIN_ROWS
from apexsim.calibration.fit import fit_problem
from apexsim.calibration.rows import Rows
from apexsim.cost.coefficients import KernelFile
from apexsim.cost.experts import grouped_work
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.laws import ExpertLaw
from apexsim.cost.operators import GroupedGemm
from apexsim.spec import catalog
from tests.kernel_tables import recipe_of, report, rows_of, timed

H100 = catalog.device("h100-sxm")
RECIPE = recipe_of("grouped_gemm.bf16.vllm")
TRUE = ExpertLaw(0.6, 0.8, 2.5, 3e-5, 2e-8, 1e-8, 3.0, 0.5, 5.0, 1e-12, 64)
MIXTRAL = GroupedGemm("experts", 4096, 7168, 8, 8, 2, True, "bf16", 1)


def measured(kernel: str = "triton", ep: tuple[int, ...] = (1, 4)) -> Rows:
    """Mixtral-like layers of two widths and depths with 8 and 64 experts, whole or spread over ranks."""
    return rows_of({
        "routing": ["balanced", "power_law_1.2"], "kernel": [kernel], "tokens": [4.0**i for i in range(8)],
        "hidden_size": [2048, 4096], "moe_intermediate_size": [1024, 4096], "experts": [8, 64],
        "experts_per_token": [2], "moe_tp": [1], "moe_ep": list(ep),
    })  # fmt: skip


def test_a_fit_finds_the_law_that_made_the_rows() -> None:
    (problem,) = timed(RECIPE, measured(), H100, TRUE)
    fit = fit_problem(EXPERTS, problem, H100)
    assert isinstance(fit.law, ExpertLaw)
    assert fit.law.tile == TRUE.tile
    for name, close in (("compute", 0.05), ("memory", 0.05), ("latency_s", 0.1), ("token_s", 0.5)):
        assert getattr(fit.law, name) == pytest.approx(getattr(TRUE, name), rel=close), name
    assert fit.held_out["p90"] < 0.02  # of splits that were held out whole


def test_rows_that_beat_the_roofline_take_no_part_and_are_counted() -> None:
    (problem,) = timed(RECIPE, measured(), H100, TRUE)
    seconds = problem.seconds.copy()
    seconds[::40] *= 0.01
    fit = fit_problem(EXPERTS, replace(problem, seconds=seconds), H100)
    assert fit.beyond_roofline == int((seconds < problem.floor).sum()) > 0
    assert fit.held_out["p90"] < 0.05


def test_kernels_are_fitted_apart_and_know_the_models_that_ran_them() -> None:
    """Whole layers run one kernel here, spread ones another, as fp8 with block scales does on Hopper."""
    whole, spread = measured("triton", (1,)), measured("cutlass", (4,))
    rows = Rows(
        {name: np.concatenate([whole.sizes[name], spread.sizes[name]]) for name in whole.sizes},
        np.concatenate([whole.seconds, spread.seconds]), "1.0",
        {name: np.concatenate([whole.words[name], spread.words[name]]) for name in whole.words},
    )  # fmt: skip
    by_kernel = {problem.label: problem for problem in timed(RECIPE, rows, H100, TRUE)}
    assert set(by_kernel) == {"triton", "cutlass"}
    assert {run[-1] for run in by_kernel["triton"].runs} == {0}
    assert {run[-1] for run in by_kernel["cutlass"].runs} == {1}
    assert (4096, 8, 2, 0) in by_kernel["triton"].runs


def test_a_kernel_of_few_rows_is_not_fitted() -> None:
    few = measured().take(np.arange(measured().seconds.size) < MIN_ROWS - 1)
    assert timed(RECIPE, few, H100, TRUE) == []


def served(monkeypatch: pytest.MonkeyPatch, slow: float) -> CalibratedKernels:
    """A device with two kernels of experts: cutlass takes ``slow`` times what triton does."""
    fits = []
    for kernel, ep in (("triton", (1,)), ("cutlass", (4,))):
        (problem,) = timed(RECIPE, measured(kernel, ep), H100, TRUE)
        fit = fit_problem(EXPERTS, problem, H100)
        factor = slow if kernel == "cutlass" else 1.0
        fits.append(replace(fit, grid=replace(fit.grid, values=fit.grid.values + np.log(factor))))
    file = KernelFile("grouped_gemm", "bf16", "vllm", "1.0", "here", "2026-11-21", tuple(fits))
    kernels = CalibratedKernels(H100)
    monkeypatch.setattr(kernels, "files", lambda operator, dtype: iter([file] if dtype == "bf16" else []))
    return kernels


def test_a_step_is_priced_by_the_kernel_that_ran_its_model_else_by_what_most_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = served(monkeypatch, slow=3.0)
    known = replace(MIXTRAL, intermediate_size=4096)
    spread, stranger = replace(known, local_experts=2), replace(known, experts_per_token=3, local_experts=4)
    for op, factor in ((known, 1.0), (spread, 3.0), (stranger, 3.0)):
        work, sizes = grouped_work(np.array([512.0]), op)
        expected = factor * TRUE.seconds(work, sizes, H100.peak_flops["bf16"], H100.memory_bandwidth)
        assert kernels.grouped_gemm([512.0], op).seconds == pytest.approx(expected, rel=0.05)


def test_skew_costs_what_it_loads() -> None:
    """A spread layer waits for its fullest rank; a whole one reads fewer experts under skew, not more."""
    kernels = CalibratedKernels(H100)
    layer = GroupedGemm("experts", 4096, 1536, 128, 16, 8, True, "bf16", 1)
    even, skewed = (float(kernels.grouped_gemm(8192, replace(layer, routing=routing)).seconds)
                    for routing in ("balanced", "power_law_1.2"))  # fmt: skip
    assert 1.1 * even < skewed < 4 * even


def test_time_does_not_fall_as_one_over_the_ranks() -> None:
    """8,192 tokens of DeepSeek-V3, dealt in turn, on the first of 2 and of 64 ranks of an H200: 9.95 and 4.71 ms."""
    kernels = CalibratedKernels(catalog.device("h200-sxm"))
    layer = GroupedGemm("experts", 7168, 2048, 256, 128, 8, True, "fp8-block", 1, "balanced:8/4")
    half, spread = (float(kernels.grouped_gemm(8192, replace(layer, local_experts=count)).seconds)
                    for count in (128, 4))  # fmt: skip
    assert half == pytest.approx(9.95e-3, rel=0.1)
    assert spread == pytest.approx(4.71e-3, rel=0.1)


def test_per_tensor_experts_on_hopper_are_served_by_blocks_and_reported_by_themselves(tmp_path: Path) -> None:
    kernels, apart = CalibratedKernels(H100), CalibratedKernels(H100, "vllm+modelopt")
    layer = GroupedGemm("experts", 4096, 1536, 128, 128, 8, True, "fp8", 1, "balanced")
    served = float(kernels.grouped_gemm(64, layer).seconds)
    assert served == pytest.approx(kernels.grouped_gemm(64, replace(layer, weights="fp8-block")).seconds, rel=1e-3)
    own = float(apart.grouped_gemm(64, layer).seconds)
    assert own > 1.5 * served
    lines = report(tmp_path, "moe", table(["fp8"], [own]))
    assert lines["fp8"].worst_abs_error == pytest.approx(0.0, abs=1e-9)


def table(words: list[str], seconds: list[float], **changes: object) -> dict[str, object]:
    count = len(words)
    columns: dict[str, object] = {
        "system": ["h100_sxm"] * count, "backend_version": ["0.24.0"] * count, "dtype": words, "tokens": [64] * count,
        "hidden_size": [4096] * count, "moe_intermediate_size": [1536] * count, "experts": [128] * count,
        "experts_per_token": [8] * count, "moe_tp": [1] * count, "moe_ep": [1] * count,
        "routing": ["balanced"] * count, "latency_ms": [1e3 * value for value in seconds],
    }
    return columns | changes


def test_the_report_prices_rows_and_counts_what_the_device_cannot_run(tmp_path: Path) -> None:
    right = float(CalibratedKernels(H100).grouped_gemm(
        64, GroupedGemm("experts", 4096, 1536, 128, 128, 8, True, "bf16", 1, "balanced")).seconds)  # fmt: skip
    lines = report(tmp_path, "moe", table(["bfloat16", "bfloat16", "nvfp4"], [right, right / 1.25, 1.0]))
    assert lines["bfloat16"].n == 2
    assert lines["bfloat16"].worst_abs_error == pytest.approx(0.25)
    assert (lines["nvfp4"].n, lines["nvfp4"].skipped) == (0, 1)
    assert "nvfp4" in lines["nvfp4"].reasons[0][0]
