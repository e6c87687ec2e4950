"""Speculative decoding as a plan says it: who drafts, how many tokens a step, and how often a draft is right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import format_number

Method = Literal["draft-model", "mtp", "eagle", "ngram"]


class Speculative(Strict):
    """Named as vLLM's ``--speculative-config``; ``acceptance`` is what an engine would measure and nobody can know."""

    method: Method = Field(
        description="who drafts: a small model, the model's own multi-token-prediction layer, an EAGLE head (a layer), "
        "or a search for the last tokens in the text so far"
    )
    num_speculative_tokens: int = Field(ge=0, le=64, description="drafts of a sequence in each step; 0 = off")
    acceptance: float | tuple[float, ...] = Field(
        0.7,
        description="probability that a draft is accepted where all before it were; one for all, or one for each of a "
        "step's drafts",
    )
    draft_model: str | None = Field(None, description="draft-model: a name in model_specs/, an alias, or a path")
    draft_tensor_parallel_size: int | None = Field(
        None, ge=1, description="draft-model: ranks that it runs on, 1 or the pool's tp, which it is where left out"
    )

    @field_validator("acceptance", mode="before")
    @classmethod
    def _a_list_is_a_tuple(cls, acceptance: object) -> object:
        return tuple(acceptance) if isinstance(acceptance, list) else acceptance

    @model_validator(mode="after")
    def _complete(self) -> Speculative:
        if not all(0 <= each <= 1 for each in self.probabilities):
            raise ValueError(f"acceptance must be probabilities, from 0 to 1, got {self.acceptance}")
        if isinstance(self.acceptance, tuple) and len(self.acceptance) != self.num_speculative_tokens:
            given, wanted = len(self.acceptance), self.num_speculative_tokens
            raise ValueError(f"acceptance must have one probability a draft, {wanted} of them, got {given}")
        if self.method == "draft-model" and self.draft_model is None:
            raise ValueError("method draft-model needs a draft_model")
        if self.method != "draft-model" and (self.draft_model or self.draft_tensor_parallel_size):
            raise ValueError(f"draft_model and draft_tensor_parallel_size are for draft-model, not for {self.method}")
        return self

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Of each draft of a step, in order; empty where off."""
        if isinstance(self.acceptance, tuple):
            return self.acceptance
        return (self.acceptance,) * self.num_speculative_tokens

    @property
    def id(self) -> str:
        """What tells pools apart: ``mtp2-a0.7``."""
        each = self.acceptance if isinstance(self.acceptance, tuple) else (self.acceptance,)
        parts = [self.draft_model or self.method, *([f"dtp{n}"] if (n := self.draft_tensor_parallel_size) else [])]
        return f"{'-'.join(parts)}-k{self.num_speculative_tokens}-a{'/'.join(map(format_number, each))}"
