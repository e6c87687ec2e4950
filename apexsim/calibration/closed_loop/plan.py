"""The model that both sides run, its requests, and the plan that stands for the real engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from apexsim import scenario
from apexsim.calibration.closed_loop.engine import EngineLimits
from apexsim.cost.host import HostModel
from apexsim.cost.memory import DoesNotFit
from apexsim.errors import NoFeasiblePlan
from apexsim.scenario import Prepared
from apexsim.spec.base import parse
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan


def llama_config(hidden_size: int, layers: int, vocab_size: int = 8192, max_context: int = 4096) -> dict[str, Any]:
    """The config.json of a small Llama: heads of 64, four query heads a KV head, a feed-forward 2.75 times as wide."""
    heads = hidden_size // 64
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden_size, "intermediate_size": 11 * hidden_size // 4, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": max(heads // 4, 1), "head_dim": 64,
        "vocab_size": vocab_size, "max_position_embeddings": max_context, "tie_word_embeddings": False,
    }  # fmt: skip


def prepare(
    model: ModelSpec, profile: HardwareProfile, limits: EngineLimits, engine: str, host: HostModel
) -> Prepared:
    """The plan of the real engine, compiled: one device, the same limits, the given host terms.

    Raises:
        NoFeasiblePlan: the model does not fit the device.
    """
    prepared = scenario.prepare(
        parse(Plan, plan_of(model.name, profile.name, limits, engine), source="closed loop"), source="closed loop",
        model=model, profile=profile, host=host,
    )
    if isinstance(prepared, DoesNotFit):
        raise NoFeasiblePlan(f"closed loop: {prepared.reason}")
    return prepared


def plan_of(model: str | Path, device: str | Path, limits: EngineLimits, engine: str) -> Mapping[str, Any]:
    """The plan as a user would write it."""
    return {
        "model": str(model), "cluster": {"device": str(device), "devices_per_node": 1}, "engine": engine,
        "pools": [{
            "weights": "bf16", "kv_cache": "bf16", "block_size": limits.block_size,
            "scheduler": {
                "preset": "vllm", "max_num_batched_tokens": limits.max_num_batched_tokens,
                "max_num_seqs": limits.max_num_seqs,
            },
        }],
    }  # fmt: skip


def no_host(engine: str) -> HostModel:
    """An engine whose own code takes no time: what is left is the device's. Its sampler reads each logit as 32 bits."""
    return HostModel(
        engine, (0, 0), iteration_s=0.0, sequence_s=0.0, asynchronous=False, entry_s=0.0, exit_s=0.0, logit_bytes=12.0,
        largest_graph=0, graphs_with_prefill=False, eager_kernel_s=0.0, source="none",
    )


def with_times(host: HostModel, iteration_s: float, sequence_s: float, entry_s: float, source: str) -> HostModel:
    """The same with an engine's own time."""
    return replace(host, iteration_s=iteration_s, sequence_s=sequence_s, entry_s=entry_s, source=source)
