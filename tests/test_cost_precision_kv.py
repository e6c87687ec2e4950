"""A KV cache of few bits: its bytes, what fits, and the vector units that expand it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.cost.low_bit_kv import REACHED, expand_s
from apexsim.cost.operators import AttentionOp
from apexsim.spec import catalog
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.kv_formats import KV_FORMATS, kv_bytes
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Pool
from tests.cost_worlds import compiled, table

A100 = catalog.device("a100-sxm-80gb")
INTEGERS: tuple[KvDtype, ...] = ("int8", "int4")


def attention(kv: KvDtype, heads: int = 32, kv_heads: int = 8, width: int = 128) -> AttentionOp:
    return AttentionOp("attention", heads, kv_heads, width, width, 0, kv, 1)


def test_bytes_hold_the_scales_of_each_head() -> None:
    """QServe: 0.53 of a byte an element with its scale and zero (techniques notes, section 6)."""
    assert kv_bytes("int4") == pytest.approx(0.53, abs=0.002)
    assert kv_bytes("int8") == pytest.approx(1.03, abs=0.002)
    assert kv_bytes("int4", 64) == 0.5 + 4 / 64
    assert attention("int4").kv_token_bytes == 2 * 8 * (64 + 4)
    assert [attention(kv).kv_token_bytes for kv in ("bf16", "fp8")] == [2 * 8 * 256, 2 * 8 * 128]


def test_fewer_bits_hold_more_tokens_in_proportion() -> None:
    tokens = {
        kv: compiled("Llama-3.1-8B", "a100-sxm-80gb", 2048, 64, kv_cache=kv).memory.kv_capacity_tokens
        for kv in ("bf16", "int8", "int4")
    }
    assert tokens["int8"] / tokens["bf16"] == pytest.approx(2 / kv_bytes("int8"), rel=1e-3)
    assert tokens["int4"] / tokens["bf16"] == pytest.approx(2 / kv_bytes("int4"), rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    device=st.sampled_from(("a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "a10", "mi300x", "rtx-4090")),
    kv=st.sampled_from(INTEGERS), kv_heads=st.sampled_from((1, 2, 8, 32)), group=st.sampled_from((1, 4, 8)),
    width=st.sampled_from((64, 128, 256)), sequences=st.integers(1, 512), context=st.integers(1, 131_072),
    window=st.sampled_from((0, 1024)), calibrated=st.booleans(),
)  # fmt: skip
def test_37_low_bit_kv_is_no_faster_than_its_bytes_nor_than_its_vector_work(
    device: str, kv: KvDtype, kv_heads: int, group: int, width: int, sequences: int, context: int, window: int,
    calibrated: bool,
) -> None:
    profile = catalog.device(device)
    op = replace(attention(kv, kv_heads * group, kv_heads, width), window=window)
    kernels = CalibratedKernels(profile) if calibrated else AnalyticKernels(profile)
    price = kernels.decode_attention(sequences, context, op)
    seen = min(context, window or context)
    moved = sequences * seen * op.kv_token_bytes
    flops = sequences * seen * op.decode_pair_flops
    assert profile.vector_flops is not None
    assert price.seconds >= 0.95 * moved / profile.memory_bandwidth
    assert price.seconds >= (1 - 1e-12) * flops * KV_FORMATS[kv].expand / (profile.vector_flops * REACHED)
    assert bool(price.extrapolated) == price.calibrated


def test_an_a100_is_bound_by_its_vector_units_where_an_l40s_is_by_its_memory() -> None:
    """QServe, section 5.3: a naive 4-bit attention is faster than an 8-bit one on L40S and slower on A100."""
    sequences, context = 64, 1024
    for device, bound in (("a100-sxm-80gb", True), ("l40s", False)):
        profile = catalog.device(device)
        op = attention("int4", 32, 32)
        price = CalibratedKernels(profile).decode_attention(sequences, context, op)
        vector = expand_s(profile, "int4", np.asarray(sequences * context * op.decode_pair_flops))
        assert (price.seconds == vector) == bound, device


def test_kv4_over_kv8_on_a100_is_what_qserve_measured() -> None:
    """1.29 to 1.51 times as fast over Llama-2-7B's heads (techniques notes, section 6)."""
    kernels = CalibratedKernels(A100)
    for context in (512, 1024, 1536):
        eight, four = (float(kernels.decode_attention(64, context, attention(kv, 32, 32)).seconds) for kv in INTEGERS)
        assert 1.25 < eight / four < 1.55, context


def test_floats_know_nothing_of_vector_units() -> None:
    bare = A100.model_copy(update={"vector_flops": None})
    for kv in ("bf16", "fp16"):
        ours, theirs = (CalibratedKernels(p).decode_attention(64, 4096, attention(kv)) for p in (A100, bare))
        assert (ours.seconds, ours.extrapolated) == (theirs.seconds, theirs.extrapolated)
    h100 = catalog.device("h100-sxm")
    measured = CalibratedKernels(h100).decode_attention(64, 4096, attention("fp8"))
    assert measured.calibrated
    assert not measured.extrapolated


def test_latents_are_not_kept_in_integers() -> None:
    reason = check_pool(catalog.model("DeepSeek-V3"), Pool(tp=8, kv_cache="int4"))
    assert reason == "kv_cache=int4: no MLA kernel reads the latent of DeepSeek-V3 from it (known: bf16, fp16, fp8)"


def test_vector_rates_are_the_fp32_figures_or_twice_them() -> None:
    for row in table("data/hardware_specs.csv"):
        rate = catalog.device(row["profile"]).vector_flops
        if rate is not None:
            assert rate / (float(row["fp32_tflops"]) * 1e12) in (pytest.approx(1), pytest.approx(2)), row["profile"]
