"""Fits of attention and GEMM on synthetic rows with a known truth: they find it, and its changes of kernel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from apexsim.calibration.families.attention import DECODE, PREFILL
from apexsim.calibration.families.gemm import GEMM
from apexsim.calibration.fit import fit_problem
from apexsim.calibration.rows import Rows
from apexsim.cost.coefficients import KernelFile, parse
from apexsim.cost.laws import DecodeLaw, GemmLaw, PrefillLaw
from apexsim.cost.shapes import decode_work, gemm_work, prefill_work, reached_tokens
from apexsim.spec import catalog

H100 = catalog.device("h100-sxm")
PEAK, BANDWIDTH = H100.peak_flops["bf16"], H100.memory_bandwidth
DECODING = DecodeLaw(0.5, 0.85, 4.0, 8e-6, 2e-6, 1e-10, 132)
PROMPTS = PrefillLaw(0.6, 0.7, 3.0, 1e-5, 0.5, 5e-9, 132)


def rows_of(**axes: list[float]) -> dict[str, np.ndarray]:
    """All combinations, sorted as tables are."""
    found = np.meshgrid(*axes.values(), indexing="ij")
    return dict(zip(axes, (axis.ravel() for axis in found), strict=True))


def decode_rows(window: float = 0.0, longer: float = 1.0) -> Rows:
    """``longer``: what a sequence past its window takes against one at its end."""
    sizes = rows_of(
        batch=[1, 4, 16, 64, 256], kv_tokens=[16, 64, 256, 1024, 4096, 16384], q_heads=[8, 16, 32], kv_heads=[1, 2, 8],
        head_dim=[128], window_tokens=[window],
    )  # fmt: skip
    read = reached_tokens(sizes["kv_tokens"], sizes["window_tokens"])
    kv_heads, heads = sizes["kv_heads"], sizes["q_heads"]
    work = decode_work(sizes["batch"], read, kv_heads, 4 * heads * 128, 2 * kv_heads * 128 * 2, 2 * heads * 128)
    seconds = DECODING.seconds(work, {}, PEAK, BANDWIDTH)
    return Rows(sizes, np.where(read < sizes["kv_tokens"], longer, 1.0) * seconds, "1.0")


def test_decode_attention_finds_its_law() -> None:
    (problem,) = DECODE.problems(DECODE.recipes[0], decode_rows(), H100)
    fit = fit_problem(DECODE, problem, H100)
    assert isinstance(fit.law, DecodeLaw)
    assert fit.law.memory == pytest.approx(DECODING.memory, rel=0.03)
    assert fit.law.latency_s == pytest.approx(DECODING.latency_s, rel=0.03)
    assert (fit.variant, fit.windowed) == (128, False)
    assert fit.held_out["p90"] < 0.02


def test_windowed_decoding_is_a_fit_of_its_own_by_the_tokens_in_reach() -> None:
    (problem,) = DECODE.problems(DECODE.recipes[0], decode_rows(256.0, longer=1.3), H100)
    assert problem.windowed
    assert problem.work.keys.max() == 256
    fit = fit_problem(DECODE, problem, H100)
    assert fit.held_out["median"] < 0.03
    past = problem.sizes["tokens"] > 256
    predicted = fit.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth)
    assert np.median(predicted[past] / problem.seconds[past]) == pytest.approx(1.0, abs=0.01)


def test_prefill_attention_finds_its_law() -> None:
    sizes = rows_of(
        batch=[1, 4, 16], prompt_tokens=[64, 256, 1024, 2048, 4096, 8192], q_heads=[8, 16, 32], kv_heads=[1, 8],
        head_dim=[128], window_tokens=[0],
    )  # fmt: skip
    work = prefill_work(sizes["batch"], sizes["prompt_tokens"], sizes["q_heads"], sizes["kv_heads"], np.array(256.0), 0)
    rows = Rows(sizes, PROMPTS.seconds(work, {}, PEAK, BANDWIDTH), "1.0")
    (problem,) = PREFILL.problems(PREFILL.recipes[0], rows, H100)
    fit = fit_problem(PREFILL, problem, H100)
    assert isinstance(fit.law, PrefillLaw)
    assert fit.law.compute == pytest.approx(PROMPTS.compute, rel=0.05)
    assert fit.held_out["p90"] < 0.03


def gemm_rows_with_a_step() -> Rows:
    """A library that takes a kernel twice as slow above m = 16, whatever the matrix."""
    law = GemmLaw(0.7, 0.8, 3.0, 4e-6, 0.4, 90.0, 64, 128, 132)
    widths = [256.0 * 2**i for i in range(7)]
    sizes = rows_of(m=[1, 4, 8, 15, 16, 17, 18, 24, 32, 33, 64, 128, 257, 512], n=widths, k=widths)
    work = gemm_work(sizes["m"], sizes["n"], sizes["k"], 2.0, 2.0)
    seconds = law.seconds(work, sizes, PEAK, BANDWIDTH)
    return Rows(sizes, np.where(sizes["m"] > 16, 2.0, 1.0) * seconds, "1.0")


def test_finer_grids_learn_a_change_of_kernel_from_other_matrices() -> None:
    """Whole matrices are held out, so the step at m = 17 is known from the others only."""
    (problem,) = GEMM.problems(GEMM.recipes[0], gemm_rows_with_a_step(), H100)
    held = problem.held_out()
    for pair in {(n, k) for n, k in zip(problem.sizes["n"], problem.sizes["k"], strict=True)}:
        mine = (problem.sizes["n"] == pair[0]) & (problem.sizes["k"] == pair[1])
        assert held[mine].all() or not held[mine].any()
    fine = fit_problem(GEMM, problem, H100)
    coarse = fit_problem(GEMM, replace(problem, finer=()), H100)
    assert fine.held_out["median"] < 0.03
    assert fine.held_out["worst"] <= coarse.held_out["worst"]


def test_two_fits_of_equal_rows_have_equal_bytes() -> None:
    texts = set()
    for _ in range(2):
        (problem,) = DECODE.problems(DECODE.recipes[0], decode_rows(), H100)
        fit = fit_problem(DECODE, problem, H100)
        texts.add(KernelFile("decode_attention", "bf16", "vllm", "1", "made", "2026-11-21", (fit,)).to_json())
    assert len(texts) == 1


def test_what_a_file_holds_is_what_was_fitted() -> None:
    """Packing rounds grids to 0.4 %, three of which multiply."""
    (problem,) = GEMM.problems(GEMM.recipes[0], gemm_rows_with_a_step(), H100)
    fit = fit_problem(GEMM, problem, H100)
    text = KernelFile("gemm", "bf16", "vllm", "1", "made", "2026-11-21", (fit,)).to_json()
    again = parse(json.loads(text)).fits[0]
    one, other = (f.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth) for f in (fit, again))
    np.testing.assert_allclose(other, one, rtol=0.007)
