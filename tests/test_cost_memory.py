"""Memory as vLLM computes it: by hand, against capacities that engines reported, and what grows with what."""

from __future__ import annotations

from math import floor

import numpy as np
import pytest

from apexsim.cost.graph import cut_of
from apexsim.cost.memory import (
    COMMUNICATION_BYTES,
    CONTEXT_BYTES,
    activation_bytes,
    stage_weight_bytes,
    windowed_kv_excess,
)
from apexsim.errors import UsageError
from apexsim.spec import catalog
from apexsim.spec.plan import Pool
from tests.cost_worlds import attempt, compiled, table


def test_blocks_by_hand() -> None:
    """Llama-3.1-8B on one H100: what is left of 0.9 × the driver's bytes, in blocks of 16 tokens of 128 KiB."""
    model, profile = catalog.model("Llama-3.1-8B"), catalog.device("h100-sxm")
    memory = compiled("Llama-3.1-8B", tokens=2048, seqs=128).memory
    cut = cut_of(model, Pool())
    peak = activation_bytes(model, cut, 0, 2048, 128)
    left = 0.9 * profile.memory_bytes - stage_weight_bytes(model, cut, 0) - peak - CONTEXT_BYTES
    assert memory.kv_bytes_per_token_per_device == 2 * 32 * 8 * 128 * 2
    assert memory.kv_blocks == floor(left / (16 * 131_072))
    assert memory.kv_capacity_tokens == 16 * memory.kv_blocks


def test_partners_cost_communication_buffers() -> None:
    one, two = (compiled("Llama-3.1-8B", tp=tp).memory for tp in (1, 2))
    assert two.engine_bytes - one.engine_bytes == COMMUNICATION_BYTES


def test_the_driver_reports_more_than_the_sales_figure() -> None:
    """81,559 MiB (shared/data/README.md, trap 6)."""
    assert catalog.device("h100-sxm").memory_bytes == pytest.approx(81_559 * 2**20, rel=1e-3)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"tp": 4}, {"tp": 8}),
        ({"tp": 4}, {"tp": 4, "weights": "fp8"}),
        ({"tp": 4}, {"tp": 4, "kv_cache": "fp8"}),
        ({"tp": 4}, {"tp": 4, "gpu_memory_utilization": 0.95}),
        ({"tp": 4}, {"tp": 4, "pp": 2}),
        ({"tp": 4, "tokens": 16384}, {"tp": 4, "tokens": 2048}),
        ({"tp": 4, "seqs": 512}, {"tp": 4, "seqs": 64}),
    ],
)
def test_what_makes_room_for_the_kv_cache(less: dict[str, object], more: dict[str, object]) -> None:
    assert compiled(**less).memory.kv_capacity_tokens < compiled(**more).memory.kv_capacity_tokens


def test_the_context_limit_is_the_pools_or_the_models() -> None:
    assert compiled(tp=8).memory.max_model_len == 131_072
    assert compiled(tp=8, max_model_len=4096).memory.max_model_len == 4096


def test_tensorrt_llm_takes_a_share_of_what_is_free() -> None:
    """70B in fp8 on one H100: 71 GB of weights leave vLLM's 0.9 of the memory little; 0.9 of the rest is 10 GB."""
    narrow = {"tp": 1, "weights": "fp8", "kv_cache": "fp8", "tokens": 2048, "seqs": 64}
    vllm, trtllm = (compiled("Llama-3.3-70B", engine=engine, **narrow) for engine in ("vllm", "tensorrt-llm"))
    assert 0 < 2 * vllm.memory.kv_capacity_tokens < trtllm.memory.kv_capacity_tokens < 80_000
    wide = {"tp": 8, "tokens": 2048, "seqs": 64}
    vllm, trtllm = (compiled("Llama-3.3-70B", engine=engine, **wide) for engine in ("vllm", "tensorrt-llm"))
    assert trtllm.memory.kv_capacity_tokens == pytest.approx(vllm.memory.kv_capacity_tokens, rel=0.1)


@pytest.mark.parametrize(
    ("model", "length", "factor"),
    [("Gemma-3-27B", 1024, 1.0), ("Gemma-3-27B", 131_072, 62 / (10 + 52 / 128)), ("gpt-oss-120b", 131_072, 2.0),
     ("Llama-3.1-8B", 131_072, 1.0)],
)  # fmt: skip
def test_kv_that_windows_would_free(model: str, length: int, factor: float) -> None:
    """gpt-oss: every other layer holds 128 tokens."""
    assert windowed_kv_excess(catalog.model(model), length) == pytest.approx(factor, rel=2e-3)


def test_no_capacity_where_utilisation_is_tiny() -> None:
    found = attempt("Llama-3.1-8B", gpu_memory_utilization=0.05)
    assert found.resource == "memory"
    assert found.needed_bytes > found.available_bytes


def test_capacities_that_vllm_reported() -> None:
    """vllm-h100-open-loop. Llama-4-Scout is left out: its vision tower and image profile take 5 GB of it."""
    errors = {}
    for row in table("validation/vllm-h100-open-loop/runs.csv"):
        if not row["kv_capacity_tokens"] or "Scout" in row["model"]:
            continue
        found = compiled(
            row["model"], tp=int(row["tp"]), tokens=int(row["max_num_batched_tokens"]), seqs=int(row["max_num_seqs"]),
            engine_version=row["engine_version"],
        )
        key = (row["model"], row["tp"], row["max_num_batched_tokens"])
        errors[key] = found.memory.kv_capacity_tokens / float(row["kv_capacity_tokens"]) - 1
    sizes = np.abs(list(errors.values()))
    assert len(sizes) >= 9
    assert np.median(sizes) < 0.005, errors
    assert sizes.max() < 0.01, errors


def test_an_unknown_cost_model_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="analytic"):
        compiled("Llama-3.1-8B", costs="analitic")
