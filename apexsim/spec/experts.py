"""What a plan says of the experts of a mixture-of-experts model: how tokens travel to the ranks that hold them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apexsim.spec.base import Strict

Exchange = Literal["auto", "all-gather", "deepep", "deepep-normal", "deepep-low-latency", "nvlink"]
"""Names of ``apexsim.cost.exchange.WAYS``, and ``auto``: what the engine does unless it is told."""


DIRECT: tuple[Exchange, ...] = ("deepep", "deepep-normal", "deepep-low-latency", "nvlink")
"""Exchanges that send a token only to the ranks of its experts, each of which holds whole ones."""

OFFERED: dict[str, tuple[Exchange, ...]] = {
    "vllm": ("all-gather", "deepep-normal", "deepep-low-latency"),
    "sglang": ("all-gather", "deepep", "deepep-normal", "deepep-low-latency"),
    "tensorrt-llm": ("all-gather", "deepep-normal", "deepep-low-latency", "nvlink"),
}
"""Exchanges that an engine has. Only SGLang takes other kernels with prefill than without, in one deployment."""


class Experts(Strict):
    """Routed experts of a pool."""

    exchange: Exchange = Field(
        "auto",
        description="how tokens reach the ranks of their experts where dp > 1: all-gather (and reduce-scatter), deepep "
        "(normal kernels in iterations with prefill, low-latency ones in decode; or only one kind), nvlink",
    )

    @property
    def id(self) -> str:
        """What tells pools apart, where it is not the default; "" where all is."""
        return "" if self.exchange == "auto" else self.exchange
