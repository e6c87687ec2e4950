"""What a plan says of routed experts: how popular they are, which device holds which, how tokens travel to them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import format_number

Exchange = Literal["auto", "all-gather", "deepep", "deepep-normal", "deepep-low-latency", "nvlink", "unified-bus"]
"""Names of ``apexsim.cost.exchange.WAYS``, and ``auto``: what the engine does unless it is told."""


DIRECT: tuple[Exchange, ...] = ("deepep", "deepep-normal", "deepep-low-latency", "nvlink", "unified-bus")
"""Exchanges that send a token only to the ranks of its experts, each of which holds whole ones."""

OFFERED: dict[str, tuple[Exchange, ...]] = {
    "vllm": ("all-gather", "deepep-normal", "deepep-low-latency", "unified-bus"),
    "sglang": ("all-gather", "deepep", "deepep-normal", "deepep-low-latency", "unified-bus"),
    "tensorrt-llm": ("all-gather", "deepep-normal", "deepep-low-latency", "nvlink"),
}
"""Exchanges that an engine has. Only SGLang takes other kernels with prefill than without, in one deployment."""


Overlap = Literal["none", "two-batch"]
Placement = Literal["contiguous", "balanced"]

NAMED = ("serving-default", "balanced")
"""Popularities that have a name; any other word is a file."""


class Zipf(Strict):
    """Popularity that falls with the rank of an expert to this power."""

    zipf: float = Field(ge=0, le=10, description="the rank-th expert is chosen in proportion to rank^-zipf")


class Experts(Strict):
    """Routed experts of a pool."""

    exchange: Exchange = Field(
        "auto",
        description="how tokens reach the ranks of their experts where dp > 1: all-gather (and reduce-scatter), deepep "
        "(normal kernels in iterations with prefill, low-latency ones in decode; or only one kind), nvlink, "
        "unified-bus (Ascend)",
    )
    overlap_shared: bool = Field(
        False, description="shared experts run beside the exchange of tokens, as far as it lasts (dp > 1)"
    )
    overlap: Overlap = Field(
        "none", description="two-batch: a direct exchange of one half of a batch runs beside the other half's compute"
    )
    routing: str | Zipf = Field(
        "serving-default",
        description="popularity of the experts: serving-default, balanced (all alike), {zipf: 0.7}, or a file with the "
        "measured tokens of each expert, a line a layer",
    )
    redundant_experts: int = Field(0, ge=0, description="copies of experts in a layer, all ranks together")
    placement: Placement = Field(
        "contiguous", description="experts to ranks in their order, or balanced by their popularity (EPLB)"
    )

    @field_validator("routing")
    @classmethod
    def _is_a_name_or_a_file(cls, routing: str | Zipf) -> str | Zipf:
        if isinstance(routing, str) and routing not in NAMED and not Path(routing).is_file():
            near = difflib.get_close_matches(routing, NAMED, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"must be {', '.join(NAMED)}, {{zipf: 1.0}}, or a file that exists{meant}")
        return routing

    @property
    def id(self) -> str:
        """What tells pools apart, where it is not the default; "" where all is."""
        parts: list[str] = [] if self.exchange == "auto" else [self.exchange]
        if isinstance(self.routing, Zipf):
            parts.append(f"zipf{format_number(self.routing.zipf)}")
        elif self.routing != "serving-default":
            parts.append("evenly" if self.routing == "balanced" else self.routing)
        parts += [f"r{self.redundant_experts}"] if self.redundant_experts else []
        parts += ["beside"] if self.overlap_shared else []
        parts += ["halves"] if self.overlap == "two-batch" else []
        parts += ["eplb"] if self.placement == "balanced" else []
        return "-".join(parts)
