"""A plan's id tells apart all that changes a result: every key of a pool and of what stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apexsim.spec import catalog
from apexsim.spec.attention_dp import AttentionDp
from apexsim.spec.base import Strict
from apexsim.spec.experts import Experts
from apexsim.spec.layer_precision import PrecisionRule
from apexsim.spec.lora import Lora, Popularity
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.spec.speculative import Speculative
from apexsim.spec.tiers import KvTier

CLUSTER = catalog.cluster("8xh100-sxm")

Change = dict[str, Any]
"""Keys with values that are not the default; the last one is what the change is about, the others let it be."""

POOL: list[Change] = [
    {"replicas": 2}, {"tp": 2}, {"pp": 2}, {"pp": 2, "pp_layers": (1, 2)}, {"dp": 2}, {"tp": 2, "ep": 2},
    {"tp": 2, "moe_tp": 2}, {"cp": 2}, {"device": "a10"}, {"weights": "fp8"}, {"activations": "fp8"},
    {"kv_cache": "fp8"}, {"gpu_memory_utilization": 0.8}, {"block_size": 32}, {"max_model_len": 999},
    {"disable_hybrid_kv_cache_manager": True}, {"disable_hybrid_kv_cache_manager": False}, {"clock_mhz": 1234.5678},
    {"clock_mhz": 1234.5679}, {"kv_load": "cheapest"}, {"role": "prefill"}, {"role": "decode"},
    {"vision": True}, {"encode_batch": 4}, {"irp": True},
]  # fmt: skip
SCHEDULER: list[Change] = [
    {"preset": "sglang"}, {"max_num_batched_tokens": 9}, {"max_num_seqs": 9}, {"async_scheduling": True},
    {"async_scheduling": False}, {"prefix_caching": True}, *({"policy": name} for name in ("priority", "fair")),
    {"policy": "shortest-first"}, {"policy": "deadline"}, {"policy": "fair", "input_weight": 2},
    {"policy": "fair", "output_weight": 1}, {"policy": "deadline", "deadline": 1.2345678},
    {"policy": "deadline", "deadline": 1.2345679}, {"shed_late": True}, {"max_waiting": 3}, {"max_wait": 0.1234567},
    {"max_wait": 0.1234568}, {"long_prefill_token_threshold": 7}, {"preemption": "swap"},
    {"preemption": "swap", "swap_space": 1e9}, {"preemption": "swap", "swap_group": 2},
    {"preemption": "swap", "swap_async": True},
    *(
        {"preset": "tensorrt-llm", "attention_dp_config": AttentionDp(enable_balance=True, **more)}
        for more in ({}, {"timeout_iters": 3}, {"batching_wait_iters": 3})
    ),
]  # fmt: skip
EXPERTS: list[Change] = [
    {"exchange": "deepep"}, {"overlap_shared": True}, {"overlap": "two-batch"}, {"routing": "balanced"},
    {"routing": {"zipf": 0.12345671}}, {"routing": {"zipf": 0.12345672}}, {"redundant_experts": 8},
    {"placement": "balanced"},
]  # fmt: skip
LORA: list[Change] = [
    {"rank": 8}, {"rank": (8, 16)}, {"max_loras": 4}, {"max_cpu_loras": 9}, {"targets": ("q",)},
    {"targets": "all-linear"}, {"popularity": Popularity(zipf=0.12345671)},
    {"popularity": Popularity(zipf=0.12345672)}, {"prefetch": True}, {"unified": True}, {"host_bandwidth": 1e9},
    {"load_latency": 1e-3}, {"source_bandwidth": 1e9}, {"source_latency": 1.0}, {"adapters": 11},
]  # fmt: skip
SPECULATIVE: list[Change] = [
    {"method": "ngram", "draft_model": None}, {"num_speculative_tokens": 3}, {"acceptance": 0.71234561},
    {"acceptance": 0.71234562}, {"acceptance": (0.7, 0.8)}, {"draft_model": "another"},
    {"draft_tensor_parallel_size": 1},
]  # fmt: skip
TIER: list[Change] = [
    {"tier": "nvme"}, {"capacity": 1.0001e9}, {"bandwidth": 1e9}, {"latency": 0.0}, {"latency": 1e-3}, {"write": "back"}
]  # fmt: skip
RULE: list[Change] = [
    {"layers": "0-3"}, {"part": "attention"}, {"weights": "int8"}, {"activations": "bf16"}, {"kv_cache": "fp8"}
]  # fmt: skip

INSIDE = {"scheduler", "experts", "lora", "speculative", "kv_tiers", "precision"}
REFUSED = {"max_num_partial_prefills", "max_long_partial_prefills"}  # one value is allowed
KINDS: tuple[tuple[type[Strict], list[Change], set[str]], ...] = (
    (Pool, POOL, INSIDE), (Scheduler, SCHEDULER, REFUSED), (Experts, EXPERTS, set()), (Lora, LORA, set()),
    (Speculative, SPECULATIVE, set()), (KvTier, TIER, set()), (PrecisionRule, RULE, set()),
)  # fmt: skip


def id_of(**pool: Any) -> str:
    return Plan(model="m", cluster=CLUSTER, pools=(Pool(**pool),)).id


def variants() -> list[Change]:
    lora = {"adapters": 10}
    drafts = {"method": "draft-model", "num_speculative_tokens": 2, "draft_model": "one"}
    tier = {"tier": "host", "capacity": 1e9}
    rule = {"weights": "fp8"}
    return [
        {}, *POOL, *({"scheduler": Scheduler(**change)} for change in SCHEDULER),
        *({"experts": Experts(**change)} for change in EXPERTS),
        *({"lora": Lora(**(lora | change))} for change in [{}, *LORA]),
        *({"speculative": Speculative(**(drafts | change))} for change in [{}, *SPECULATIVE]),
        *({"kv_tiers": (KvTier(**(tier | change)),)} for change in [{}, *TIER]),
        *({"precision": (PrecisionRule(**(rule | change)),)} for change in [{}, *RULE]),
    ]  # fmt: skip


def test_no_two_of_the_variants_have_one_id() -> None:
    seen: dict[str, Change] = {}
    for change in variants():
        other = seen.setdefault(id_of(**change), change)
        assert other is change, f"{change} and {other} are both {id_of(**change)}"


@pytest.mark.parametrize(("kind", "changes", "others"), KINDS, ids=lambda value: getattr(value, "__name__", None))
def test_every_key_has_a_variant(kind: type[Strict], changes: list[Change], others: set[str]) -> None:
    """A key that is added needs one here, and so a place in the id."""
    assert set(kind.model_fields) == others | {key for change in changes for key in change}


def test_files_of_popularity_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    files = [tmp_path / folder / "experts.csv" for folder in ("monday", "tuesday")]
    for file in files:
        file.parent.mkdir()
        file.write_text("1,1\n")
    assert len({id_of(experts=Experts(routing=str(file))) for file in files}) == 2
