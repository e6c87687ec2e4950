"""One command for each known release of an engine, to the letter, and what lies beside it."""

from __future__ import annotations

import shlex

import pytest
import yaml

from apexsim.report.launch.deploy import deploy
from apexsim.report.launch.table import engines, releases
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan

PLAN = """
model: DeepSeek-V3
cluster: 8xh200-sxm
pools:
  - {tp: 1, dp: 8, ep: 8, kv_cache: bf16, max_model_len: 32768,
     speculative: {method: mtp, num_speculative_tokens: 2, acceptance: 0.7},
     experts: {exchange: deepep-low-latency},
     scheduler: {preset: PRESET, max_num_batched_tokens: 4096, max_num_seqs: 64, prefix_caching: true,
                 async_scheduling: true, policy: priority, max_waiting: 100}}
"""
PRESET = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "tensorrt-llm"}
END = "--host 0.0.0.0 --port 8000"
VLLM = "vllm serve deepseek-ai/DeepSeek-V3 --data-parallel-size 8 --enable-expert-parallel"
LIMITS = "--max-num-batched-tokens 4096 --max-num-seqs 64"
SGLANG = "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp-size 8"
RANKS = "--dp-size 8 --enable-dp-attention --ep-size 8"
PRIORITY = "--enable-priority-scheduling --schedule-low-priority-values-first"
DRAFTS = "--speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3"
CHUNKS = "--chunked-prefill-size 32768 --max-prefill-tokens 4096 --max-running-requests 512"
MTP = """--speculative-config '{"method": "mtp", "num_speculative_tokens": 2}'"""

GOLDEN = {
    ("vllm", "0.8.5"): f"{VLLM} --gpu-memory-utilization 0.9 --block-size 16 --max-model-len 32768 "
    f"--enable-chunked-prefill {LIMITS} --enable-prefix-caching --scheduling-policy priority {END}",
    ("vllm", "0.11.0"): f"VLLM_ALL2ALL_BACKEND=deepep_low_latency {VLLM} --gpu-memory-utilization 0.9 --block-size 16 "
    f"--max-model-len 32768 --enable-chunked-prefill {LIMITS} --async-scheduling --enable-prefix-caching "
    f"--scheduling-policy priority {MTP} {END}",
    ("vllm", "0.15.1"): f"{VLLM} --all2all-backend deepep_low_latency --gpu-memory-utilization 0.9 --block-size 16 "
    f"--max-model-len 32768 --enable-chunked-prefill {LIMITS} --async-scheduling --enable-prefix-caching "
    f"--scheduling-policy priority {MTP} {END}",
    ("vllm", "0.33.0"): f"{VLLM} --all2all-backend deepep_low_latency --gpu-memory-utilization 0.9 --block-size 16 "
    f"--max-model-len 32768 --enable-chunked-prefill {LIMITS} --async-scheduling --enable-prefix-caching "
    f"--scheduling-policy priority --max-num-queued-reqs 1312 {MTP} {END}",
    ("sglang", "0.4.6"): f"{SGLANG} {RANKS} --enable-deepep-moe --deepep-mode low_latency --mem-fraction-static 0.9 "
    f"--page-size 16 --context-length 32768 --speculative-algorithm NEXTN {DRAFTS} {CHUNKS} {END}",
    ("sglang", "0.5.4"): f"{SGLANG} {RANKS} --moe-a2a-backend deepep --deepep-mode low_latency "
    f"--mem-fraction-static 0.9 --page-size 16 --context-length 32768 --speculative-algorithm NEXTN {DRAFTS} {CHUNKS} "
    f"{PRIORITY} --max-queued-requests 100 {END}",
    ("sglang", "0.5.23"): f"{SGLANG} --attn-dp-size 8 --ep-size 8 --moe-a2a-backend deepep --deepep-mode low_latency "
    f"--mem-fraction-static 0.9 --page-size 16 --context-length 32768 --speculative-algorithm NEXTN {DRAFTS} {CHUNKS} "
    f"{PRIORITY} --max-queued-requests 100 {END}",
    ("tensorrt-llm", "1.2.1"): "trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 8 --ep_size 8 "
    "--kv_cache_free_gpu_memory_fraction 0.9 --max_seq_len 32768 --max_num_tokens 4096 --max_batch_size 64 "
    f"--extra_llm_api_options serve-options.yaml {END}",
}  # fmt: skip


def found(engine: str, version: str):
    plan = parse(Plan, yaml.safe_load(PLAN.replace("PRESET", PRESET[engine])), source="test")
    return deploy(plan, engine=engine, version=version)


def test_every_known_release_has_a_golden_command():
    assert {(engine, release.version) for engine in engines() for release in releases(engine)} == set(GOLDEN)


@pytest.mark.parametrize(("engine", "version"), GOLDEN)
def test_the_command_to_the_letter(engine, version):
    lines = [line for line in found(engine, version).text().splitlines() if line and not line.startswith("#")]
    words = shlex.split(" ".join(lines).replace("\\ ", " "))
    assert words == ["CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7", *shlex.split(GOLDEN[engine, version])]


def test_what_a_release_lacks_is_said():
    said = " ".join(found("vllm", "0.8.5").cannot)
    asked = ("speculative.method=mtp", "experts.exchange=deepep-low-latency", "scheduler.async_scheduling=true",
             "scheduler.max_waiting=100")  # fmt: skip
    for key in asked:
        assert f"vllm cannot: {key}" in said, key
    assert "max_waiting" in " ".join(found("vllm", "0.15.1").cannot)
    assert "max_waiting" not in " ".join(found("vllm", "0.33.0").cannot)


def test_options_of_tensorrt_llm_to_the_letter():
    (options,) = (text for name, text in found("tensorrt-llm", "1.2.1").files("command").items() if "options" in name)
    assert yaml.safe_load(options) == {
        "enable_attention_dp": True,
        "kv_cache_config": {"tokens_per_block": 16, "enable_block_reuse": True},
        "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 2},
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "enable_chunked_prefill": True,
    }
