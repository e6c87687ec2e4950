"""What a serving step pays for MLA: never less than physics, more for more work, and close to measured servers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.calibration.rows import SYSTEMS
from apexsim.cost.floor import FLOOR
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp
from apexsim.cost.precision import attention_compute
from apexsim.spec import catalog
from apexsim.spec.dtypes import KvDtype, WeightDtype
from tests.cost_worlds import compiled, device_s, table

LATENT = AttentionOp("attention", 16, 16, 192, 128, 0, "bf16", 1, 576, 512)
DEVICES = [device for device in SYSTEMS if device != "b60"]
ENGINES = ("vllm", "tensorrt-llm", "sglang")


@settings(max_examples=150, deadline=None)
@given(
    device=st.sampled_from(DEVICES), engine=st.sampled_from(ENGINES), heads=st.sampled_from([1, 8, 16, 64, 128]),
    kv=st.sampled_from(["bf16", "fp8"]), weights=st.sampled_from(["bf16", "fp8-block", "nvfp4"]),
    batch=st.integers(1, 2048), context=st.integers(1, 300_000),
)  # fmt: skip
def test_no_latent_attention_beats_the_roofline(
    device: str, engine: str, heads: int, kv: KvDtype, weights: WeightDtype, batch: int, context: int
) -> None:
    kernels = CalibratedKernels(catalog.device(device), engine)
    op = replace(LATENT, heads=heads, kv_heads=heads, kv_dtype=kv, weights=weights)
    peak = kernels.profile.peak_flops[attention_compute(kernels.profile, kv)]
    read = batch * context * op.kv_token_bytes / kernels.profile.memory_bandwidth
    least = FLOOR * max(batch * context * op.decode_pair_flops / peak, read)
    assert float(kernels.decode_attention(batch, context, op).seconds) >= least * (1 - 1e-12)
    tokens = min(context, 40_000)
    prefill = FLOOR * batch * tokens * (tokens + 1) / 2 * op.prefill_pair_flops / peak
    assert float(kernels.prefill_attention(batch, tokens, op).seconds) >= prefill * (1 - 1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_much_more_of_anything_never_costs_less(device: str, engine: str) -> None:
    kernels = CalibratedKernels(catalog.device(device), engine)
    size = 16.0 ** np.arange(5)
    for heads in (8, 128):
        op = replace(LATENT, heads=heads, kv_heads=heads)
        for price in (
            kernels.decode_attention(size, 1000, op), kernels.decode_attention(32, size, op),
            kernels.prefill_attention(size[:4], 512, op), kernels.prefill_attention(1, size, op),
        ):  # fmt: skip
            assert (price.seconds[1:] >= 0.8 * price.seconds[:-1]).all()  # launches scatter by some us


def test_outside_of_what_was_measured_the_law_goes_on_and_says_so() -> None:
    kernels = CalibratedKernels(catalog.device("h100-sxm"), "tensorrt-llm")
    assert not kernels.decode_attention(64, 8192, LATENT).extrapolated
    far, twice = (kernels.decode_attention(4096, context, LATENT) for context in (300_000, 600_000))
    assert far.extrapolated
    assert twice.seconds == pytest.approx(2 * far.seconds, rel=0.02)
    other = replace(LATENT, latent=320, latent_v=256)
    assert kernels.decode_attention(64, 8192, other).extrapolated
    assert kernels.decode_attention(64, 8192, other).calibrated


def test_engines_are_priced_by_what_was_measured_of_them() -> None:
    """vLLM's block holds its own glue; others run the kernel, which TensorRT-LLM's rows time by itself."""
    h200 = catalog.device("h200-sxm")
    prices = {engine: float(CalibratedKernels(h200, engine).decode_attention(1, 1024, LATENT).seconds)
              for engine in (*ENGINES, "lmdeploy")}  # fmt: skip
    assert prices["vllm"] > 2 * prices["tensorrt-llm"]
    assert prices["sglang"] == prices["lmdeploy"] == prices["tensorrt-llm"]
    a100 = catalog.device("a100-sxm-80gb")  # no blocks were measured there
    assert CalibratedKernels(a100, "vllm").decode_attention(1, 1024, LATENT).calibrated


def test_the_dtype_of_the_projections_picks_the_block_that_was_measured_with_them() -> None:
    kernels = CalibratedKernels(catalog.device("b200-sxm"), "vllm")
    prices = {weights: float(kernels.decode_attention(4, 1000, replace(LATENT, weights=weights)).seconds)
              for weights in ("bf16", "fp8-block", "nvfp4", "w4a16")}  # fmt: skip
    assert len({prices["bf16"], prices["fp8-block"], prices["nvfp4"]}) == 3
    assert prices["w4a16"] == prices["bf16"]  # nobody measured it: the first


def test_a_server_of_deepseek_decodes_as_fast_as_its_kernels_say() -> None:
    """DeepSeek-R1 under SGLang on eight H200, closed loop: mean TPOT at 4 and 8 in flight, prefills of others included.

    Nothing was fitted on these runs, but TensorRT-LLM's kernel was chosen for SGLang after looking at them: they are no
    independent evidence for that choice. Device time only; the rest of an iteration is the host's.
    """
    rows = [row for row in table("validation/closed-loop-grid/runs.csv")
            if (row["model"], row["engine"], row["device"]) == ("deepseek-ai/DeepSeek-R1", "sglang", "h200-sxm")
            and row["dp"] in ("", "1") and row["ep"] in ("", "1") and float(row["concurrency"]) <= 8]  # fmt: skip
    pool = compiled("DeepSeek-R1", "h200-sxm", tp=8, engine="sglang")
    ratios = [
        device_s(pool, float(row["concurrency"]), float(row["input_tokens"]) + float(row["output_tokens"]) / 2)
        / float(row["tpot_mean_s"]) for row in rows
    ]  # fmt: skip
    assert len(ratios) >= 6
    assert 0.85 < np.median(ratios) < 1.15, ratios
