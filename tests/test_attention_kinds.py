"""Each kind of attention: KV bytes by hand from published configs, and how time goes with window and context."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from apexsim.cost.analytic import AnalyticKernels
from apexsim.cost.graph import cut_of
from apexsim.cost.memory import stage_kv_token_bytes
from apexsim.cost.operators import AttentionOp
from apexsim.spec import catalog
from apexsim.spec.plan import Pool
from benchmarks.attention_tables import BATCH, step_s
from tests.cost_worlds import compiled

HAND = {
    # bytes of a token in 16 bits: layers x (key + value heads x width)
    "Llama-2-7B": 32 * 2 * 32 * 128 * 2,  # MHA
    "Gemma-2B": 18 * 2 * 1 * 256 * 2,  # MQA
    "Llama-3.1-8B": 32 * 2 * 8 * 128 * 2,  # GQA
    "DeepSeek-V3": 61 * (512 + 64) * 2,  # MLA: the latent and the rotary key
    "DeepSeek-V2-Lite": 27 * (512 + 64) * 2,
    "Mistral-7B-v0.1": 32 * 2 * 8 * 128 * 2,
    "Gemma-3-27B": 62 * 2 * 16 * 128 * 2,
    "gpt-oss-120b": 36 * 2 * 8 * 64 * 2,
    "Nemotron-H-8B": 4 * 2 * 8 * 128 * 2,  # four layers of attention
    "Qwen3-Next-80B-A3B": 12 * 2 * 2 * 256 * 2,
    "MiniMax-Text-01": 10 * 2 * 8 * 128 * 2,
}


@pytest.mark.parametrize("name", HAND)
def test_kv_bytes_of_a_token_by_hand(name: str) -> None:
    model = catalog.model(name)
    assert model.kv_bytes_per_token() == HAND[name]
    assert stage_kv_token_bytes(model, cut_of(model, Pool()), 0) == HAND[name]


@pytest.mark.parametrize(
    ("name", "shares"),
    [("Llama-2-7B", (2, 4, 8)), ("Gemma-2B", (1, 1, 1)), ("Llama-3.1-8B", (2, 4, 8)), ("DeepSeek-V3", (1, 1, 1)),
     ("Qwen3-Next-80B-A3B", (2, 2, 2))],
)  # fmt: skip
def test_what_tensor_parallel_ranks_divide(name: str, shares: tuple[int, ...]) -> None:
    """Whole KV heads, copied where there are fewer of them than ranks; the latent of MLA is on every rank."""
    model = catalog.model(name)
    found = [HAND[name] / stage_kv_token_bytes(model, cut_of(model, Pool(tp=tp)), 0) for tp in (2, 4, 8)]
    assert found == list(shares)


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "l40s"])
@pytest.mark.parametrize("heads", [(32, 8, 128), (64, 8, 64), (16, 8, 256)])
def test_attention_with_a_window_never_takes_longer_and_rises_with_it(device: str, heads: tuple[int, int, int]) -> None:
    """By the roofline. Kernels were measured with and without a window apart, and may cross."""
    kernels = AnalyticKernels(catalog.device(device))
    full = AttentionOp("attention", heads[0], heads[1], heads[2], heads[2], 0, "bf16", 1)
    tokens, batch = 2.0 ** np.arange(4, 18), 2.0 ** np.arange(9)[:, None]
    windows = [replace(full, window=window) for window in (128, 512, 1024, 4096, 32_768)] + [full]
    decode = [kernels.decode_attention(batch, tokens, op).seconds for op in windows]
    prefill = [kernels.prefill_attention(1.0, tokens, op).seconds for op in windows]
    for times in (decode, prefill):
        for narrower, wider in pairwise(times):
            assert (narrower <= wider * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", ["Gemma-3-12B", "gpt-oss-20b"])
def test_measured_windows_save_time_at_long_contexts(name: str) -> None:
    """On an H100: 32 sequences of 32,768 tokens take longer than those of 4,096 only by what full layers add."""
    pool = compiled(name, seqs=BATCH)
    windowed, full = (pool.tables.decode_attention_s[0, kind, BATCH, -3] for kind in (1, 0))
    assert windowed < full / 4


def test_the_step_of_each_kind_goes_with_its_context() -> None:
    """From 4,096 to 32,768 tokens: full attention most, a window not at all, a mix in between; MLA little."""
    grown = {
        name: step_s(pool, BATCH, 32_768) / step_s(pool, BATCH, 4_096)
        for name, pool in (
            (name, compiled(name, seqs=BATCH)) for name in ("Llama-3.1-8B", "Mistral-7B-v0.1", "DeepSeek-V2-Lite")
        )
    }
    assert grown["Mistral-7B-v0.1"] == pytest.approx(1.0, abs=1e-9)
    assert grown["Llama-3.1-8B"] > 3
    assert 1 < grown["DeepSeek-V2-Lite"] < 2.5
