"""MLA: what is left of a block, kernels by themselves, and what a report makes of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apexsim.calibration.families.mla import MLA_DECODE, MLA_PREFILL
from apexsim.calibration.fit import fit_problem
from apexsim.calibration.rows import Rows
from apexsim.cost.graph import Cut, attention_block
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.laws import DecodeLaw, PrefillLaw
from apexsim.cost.operators import AttentionOp, Elementwise, Gemm
from apexsim.spec import catalog
from apexsim.spec.dtypes import WeightDtype
from tests.kernel_tables import recipe_of, report, rows_of, timed

H100 = catalog.device("h100-sxm")
DECODE = DecodeLaw(0.5, 0.8, 2.0, 1.5e-5, 3e-6, 1e-10, 132)
PREFILL = PrefillLaw(0.55, 0.6, 2.0, 1.5e-5, 0.4, 1e-8, 132)
POWERS = [2.0**i for i in range(9)]


def kernel_rows() -> Rows:
    return rows_of({"batch": POWERS, "kv_tokens": [4.0**i for i in range(1, 9)], "q_heads": [8, 16, 64, 128]})


def test_a_fit_finds_the_law_of_the_decode_kernel() -> None:
    (problem,) = timed(recipe_of("mla_decode.bf16.tensorrt-llm"), kernel_rows(), H100, DECODE)
    fit = fit_problem(MLA_DECODE, problem, H100)
    assert isinstance(fit.law, DecodeLaw)
    assert fit.law.memory == pytest.approx(DECODE.memory, rel=0.03)
    assert fit.law.latency_s == pytest.approx(DECODE.latency_s, rel=0.03)
    assert (fit.variant, fit.label) == (576, "")
    assert fit.held_out["p90"] < 0.02


def test_a_fit_finds_the_law_of_the_prefill_kernel() -> None:
    rows = rows_of({"batch": POWERS[:5], "prompt_tokens": [2.0**i for i in range(4, 15)], "q_heads": [8, 16, 128]})
    (problem,) = timed(recipe_of("mla_prefill.bf16.tensorrt-llm"), rows, H100, PREFILL)
    fit = fit_problem(MLA_PREFILL, problem, H100)
    assert isinstance(fit.law, PrefillLaw)
    assert fit.law.compute == pytest.approx(PREFILL.compute, rel=0.03)
    assert fit.held_out["p90"] < 0.03


def around_s(tokens: float, heads: int, weights: WeightDtype) -> float:
    """Projections and small kernels of DeepSeek-V3's block, added up by hand."""
    model, kernels = catalog.model("DeepSeek-V3"), CalibratedKernels(H100)
    cut = Cut(128 // heads, 1, 1, weights, weights, weights, weights, "bf16", "bf16")
    total = 0.0
    for op in attention_block(model.groups[0].attention, model.hidden_size, cut):
        if isinstance(op, Gemm):
            total += float(kernels.gemm(tokens, op.n, op.k, op.weights).seconds)
        elif isinstance(op, Elementwise):
            total += float(kernels.memory_bound(tokens * op.token_bytes, op.kernels).seconds)
    return total


def block_rows() -> Rows:
    """Blocks whose attention takes what the law says, beside their projections."""
    axes = {"gemm_dtype": ["bfloat16", "fp8_block"], "batch": POWERS, "kv_tokens": [4.0**i for i in range(3, 9)],
            "q_heads": [8, 16, 64, 128]}  # fmt: skip
    rows = rows_of(axes)
    seconds = np.array([
        around_s(batch, int(heads), "bf16" if word == "bfloat16" else "fp8-block")
        for word, batch, heads in zip(rows.words["gemm_dtype"], rows.sizes["batch"], rows.sizes["q_heads"], strict=True)
    ])  # fmt: skip
    alone = rows_of({name: axis for name, axis in axes.items() if name != "gemm_dtype"})
    (problem,) = timed(recipe_of("mla_decode.bf16.tensorrt-llm"), alone, H100, DECODE)
    return replace(rows, seconds=seconds + np.tile(problem.seconds, 2))


def test_what_is_left_of_a_block_is_its_attention() -> None:
    """By dtype of the projections, since what their prices miss goes with it."""
    problems = list(MLA_DECODE.problems(recipe_of("mla_decode.bf16.vllm"), block_rows(), H100))
    assert [problem.label for problem in problems] == ["bf16", "fp8-block"]
    for problem in problems:
        truth = DECODE.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth)
        np.testing.assert_allclose(problem.seconds, truth, rtol=1e-6)
        assert (problem.around > 10e-6).all()
        assert fit_problem(MLA_DECODE, problem, H100).held_out["p90"] < 0.02


def test_a_block_that_its_projections_explain_alone_takes_no_part() -> None:
    rows = block_rows()
    quick = replace(rows, seconds=np.where(np.arange(rows.seconds.size) % 3 == 0, 1e-6, rows.seconds))
    kept = sum(problem.seconds.size for problem in
               MLA_DECODE.problems(recipe_of("mla_decode.bf16.vllm"), quick, H100))  # fmt: skip
    assert kept == int((quick.seconds > 1e-6).sum())


def test_projections_that_the_device_cannot_run_take_no_part() -> None:
    rows = block_rows()
    other = replace(rows, words={"gemm_dtype": np.where(rows.words["gemm_dtype"] == "bfloat16", "nvfp4", "fp8_block")})
    problems = MLA_DECODE.problems(recipe_of("mla_decode.bf16.vllm"), other, H100)
    assert [problem.label for problem in problems] == ["fp8-block"]


LATENT = AttentionOp("attention", 16, 16, 192, 128, 0, "bf16", 1, 576, 512)


def test_the_report_adds_a_block_up_as_a_step_does(tmp_path: Path) -> None:
    vllm = CalibratedKernels(H100, "vllm")
    right = around_s(8, 16, "bf16") + float(vllm.decode_attention(8, 4097, LATENT).seconds)
    columns = {
        "system": ["h100_sxm"] * 3, "model": ["deepseek-ai/DeepSeek-V3"] * 3, "attn_dtype": ["bfloat16"] * 3,
        "kv_dtype": ["bfloat16"] * 3, "gemm_dtype": ["bfloat16", "bfloat16", "nvfp4"], "batch": [8] * 3,
        "kv_tokens": [4097] * 3, "q_heads": [16] * 3, "latency_ms": [1e3 * right, 2e3 * right, 1.0],
    }  # fmt: skip
    lines = report(tmp_path, "mla_generation_module", columns)
    assert lines["bfloat16"].n == 2
    assert lines["bfloat16"].worst_abs_error == pytest.approx(0.5)
    assert lines["bfloat16"].median_abs_error == pytest.approx(0.25)
    assert (lines["nvfp4"].n, lines["nvfp4"].skipped) == (0, 1)


def test_the_report_prices_a_kernel_as_tensorrt_llm_runs_it(tmp_path: Path) -> None:
    prompt = replace(LATENT, kv_dtype="fp8")
    seconds = float(CalibratedKernels(H100, "tensorrt-llm").prefill_attention(2, 4096, prompt).seconds)
    columns = {
        "system": ["h100_sxm"], "attn_dtype": ["bfloat16"], "kv_dtype": ["fp8"], "batch": [2], "prompt_tokens": [4096],
        "q_heads": [16], "latency_ms": [1e3 * seconds],
    }  # fmt: skip
    line = report(tmp_path, "mla_context_kernel", columns)["fp8"]
    assert line.worst_abs_error == pytest.approx(0.0, abs=1e-9)
    assert line.calibrated
