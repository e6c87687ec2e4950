"""LoRA adapters as a plan says them: how many, of which rank, on which matrices, how popular."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.model import Attention, DenseMlp, ModelSpec

Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
LARGEST_RANK = 512  # vLLM's


class Popularity(Strict):
    """Popularity that falls with the rank of an adapter to this power."""

    zipf: float = Field(ge=0, le=10, description="the j-th adapter is chosen in proportion to j^-zipf; 0 = all alike")


class Lora(Strict):
    """Adapters that stand in the device's memory together; every request asks for one of them."""

    adapters: int = Field(ge=0, description="adapters that requests ask for; 0 = off")
    rank: int | tuple[int, ...] = Field(16, description="their rank: one for all, or ranks that they take in turn")
    max_loras: int = Field(8, ge=1, description="slots in the device's memory, each as large as the largest rank")
    targets: Literal["all-linear"] | tuple[Target, ...] = Field(
        ("q", "k", "v", "o"), description="matrices that are adapted: a list, or all-linear"
    )
    popularity: Popularity = Field(Popularity(zipf=1.0), description="how often each adapter is asked for")

    @field_validator("rank", "targets", mode="before")
    @classmethod
    def _a_list_is_a_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> Lora:
        if not self.ranks or not all(1 <= rank <= LARGEST_RANK for rank in self.ranks):
            raise ValueError(f"rank must be 1 to {LARGEST_RANK}, or a list of such, got {self.rank}")
        if not self.matrices or len(set(self.matrices)) < len(self.matrices):
            raise ValueError(f"targets must be some matrices, each once, got {list(self.matrices)}")
        return self

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.rank if isinstance(self.rank, tuple) else (self.rank,)

    @property
    def mean_rank(self) -> float:
        """Over all adapters, whatever their popularity."""
        return sum(self.ranks) / len(self.ranks)

    @property
    def matrices(self) -> tuple[Target, ...]:
        if self.targets == "all-linear":
            return ("q", "k", "v", "o", "gate", "up", "down")
        return self.targets

    @property
    def id(self) -> str:
        """What tells pools apart: ``lora100-r16-s8-qkvo-z1``."""
        targets = "all" if self.targets == "all-linear" else "".join(part[0] for part in self.matrices)
        ranks = "/".join(map(str, self.ranks))
        return f"lora{self.adapters}-r{ranks}-s{self.max_loras}-{targets}-z{self.popularity.zipf:g}"


def check_lora(model: ModelSpec, lora: Lora | None, *, pp: int, dp: int, cp: int, drafts: int) -> str | None:
    """Why a pool cannot serve its adapters, or None."""
    if lora is None or lora.adapters == 0:
        return None
    if lora.adapters > lora.max_loras:
        return (
            f"lora: {lora.adapters} adapters on {lora.max_loras} slots: adapters that take turns in memory "
            f"are not simulated in this release (set max_loras to {lora.adapters})"
        )
    others = {f"pp={pp}": pp > 1, f"dp={dp}": dp > 1, f"cp={cp}": cp > 1, "speculative decoding": drafts > 0}
    other = next((name for name, there in others.items() if there), None)
    if other is not None:
        return f"lora with {other} is not simulated in this release"
    for group in model.groups:
        if not isinstance(group.attention, Attention) or group.attention.kind == "mla":
            return f"lora: {model.name} has no q, k and v projections of its own in every layer"
        if not isinstance(group.mlp, DenseMlp) and set(lora.matrices) & {"gate", "up", "down"}:
            return f"lora: adapters on the experts of {model.name} are not simulated (targets: [q, k, v, o])"
    return None
