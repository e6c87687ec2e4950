"""How ranks with attention in data parallel wait for each other with their prompts, in TensorRT-LLM's words."""

from __future__ import annotations

from pydantic import Field

from apexsim.spec.base import Strict

PRESETS = ("tensorrt-llm", "tensorrt-llm-max-utilization")
"""Scheduler presets that have the rule."""


class AttentionDp(Strict):
    """TensorRT-LLM's ``attention_dp_config``, with its defaults."""

    enable_balance: bool = Field(False, description="ranks compute prompts only where every one of them has one")
    timeout_iters: int = Field(50, ge=0, description="iterations after which they compute those that there are")
    batching_wait_iters: int = Field(10, ge=0, description="iterations more that they wait where every one has one")

    @property
    def id(self) -> list[str]:
        """What tells it from the default one, for the plan's id."""
        return [f"balance{self.timeout_iters}:{self.batching_wait_iters}"] if self.enable_balance else []
