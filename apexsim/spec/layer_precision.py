"""Precision by layer: rules of a plan that give some parts of some layers number formats of their own."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.dtypes import ActivationDtype, KvDtype, WeightDtype
from apexsim.spec.formats import word_of

RulePart = Literal["attention", "mlp", "experts", "shared_experts", "lm_head", "all"]

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


class PrecisionRule(Strict):
    """What of a pool's precision some layers do not follow; of several rules for one part the last one holds."""

    layers: str = Field("all", description="layers from 0, first and last: `0-3,60`; `all`")
    part: RulePart = Field("all", description="matrices that it is about; `all` are those of a layer, not the LM head")
    weights: WeightDtype | None = Field(None, description="dtype of their weights; the pool's where left out")
    activations: ActivationDtype | None = Field(None, description="dtype that those weights are multiplied in")
    kv_cache: KvDtype | None = Field(None, description="dtype of the layers' KV cache; the pool's where left out")

    @field_validator("layers")
    @classmethod
    def _ranges(cls, text: str) -> str:
        if text != "all":
            _ranges(text)
        return text

    @model_validator(mode="after")
    def _says_something(self) -> PrecisionRule:
        if self.weights is None and self.kv_cache is None:
            raise ValueError("a rule needs weights or kv_cache")
        if self.weights is None and self.activations is not None:
            raise ValueError(f"activations = {self.activations} needs weights beside it")
        if self.kv_cache is not None and self.part not in ("attention", "all"):
            raise ValueError(f"kv_cache belongs to part attention (or all), not {self.part}")
        if self.part == "lm_head" and self.layers != "all":
            raise ValueError("the LM head belongs to no layer; leave layers out")
        return self

    def covers(self, layer: int) -> bool:
        """Whether the rule is about a layer; the first one is 0."""
        return self.layers == "all" or any(first <= layer <= last for first, last in _ranges(self.layers))

    @property
    def last_layer(self) -> int:
        """The highest index that it names; -1 for all layers."""
        return -1 if self.layers == "all" else max(last for _, last in _ranges(self.layers))

    @property
    def word(self) -> str | None:
        """The format of the weights that it names; None where it names none."""
        return None if self.weights is None else word_of(self.weights, self.activations)

    @property
    def id(self) -> str:
        """Short: what tells plans apart."""
        said = [self.weights or "", self.activations or "", f"kv{self.kv_cache}" if self.kv_cache else ""]
        return f"{self.part}@{self.layers.replace(' ', '')}={'/'.join(said).strip('/')}"


def _ranges(text: str) -> list[tuple[int, int]]:
    found = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece)
        if match is None:
            raise ValueError(f"{piece.strip()!r} is no layer and no range of layers (as in 0-3,60)")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise ValueError(f"{piece.strip()!r}: the first layer comes first")
        found.append((first, last))
    return found
