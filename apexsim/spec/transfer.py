"""How KV goes from the replicas that prefill to those that decode."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import Seconds

Mode = Literal["pull", "push"]
FirstToken = Literal["prefill", "decode"]


class Transfer(Strict):
    """Between pools of one plan."""

    mode: Mode = Field(
        "pull",
        description="pull: KV blocks are reserved where it decodes when the prefill has ended (DistServe, vLLM's NIXL "
        "connector); push: before it begins (SGLang, Mooncake)",
    )
    layerwise: bool = Field(False, description="KV leaves layer by layer while it is computed; needs mode: push")
    first_token: FirstToken = Field(
        "decode", description="who hands the first token to the client: as the prefill ends, or when the KV has come"
    )
    latency: Seconds = Field(0.0, ge=0, description="of each transfer, beside its links: handshake, registration")

    @model_validator(mode="after")
    def _has_a_sink(self) -> Transfer:
        if self.layerwise and self.mode == "pull":
            raise ValueError("layerwise needs mode: push (KV that is pulled has nowhere to go before the prefill ends)")
        return self

    @property
    def id(self) -> str:
        """What tells it from the default one, for the plan's id."""
        words = ["push"] if self.mode == "push" else []
        words += ["layers"] if self.layerwise else []
        words += ["early"] if self.first_token == "prefill" else []
        words += [f"lat{self.latency!r}"] if self.latency else []
        return "-".join(words)
