"""LoRA adapters as a plan says them: how many, of which rank, on which matrices, how popular."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import Bandwidth, Seconds, format_bytes, format_number, format_seconds

Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
LARGEST_RANK = 512  # vLLM's


class Popularity(Strict):
    """Popularity that falls with the rank of an adapter to this power."""

    zipf: float = Field(ge=0, le=10, description="the j-th adapter is chosen in proportion to j^-zipf; 0 = all alike")


class Lora(Strict):
    """Adapters that requests ask for, and where they are kept: slots of the device, host memory, what is behind it."""

    adapters: int = Field(ge=0, description="adapters that requests ask for; 0 = off")
    rank: int | tuple[int, ...] = Field(16, description="their rank: one for all, or ranks that they take in turn")
    max_loras: int = Field(
        8, ge=1, description="slots in the device's memory, each as large as the largest rank; most in one batch"
    )
    max_cpu_loras: int | None = Field(
        None, ge=1, description="adapters in host memory, those on the device among them; all of them where left out"
    )
    targets: Literal["all-linear"] | tuple[Target, ...] = Field(
        ("q", "k", "v", "o"), description="matrices that are adapted: a list, or all-linear"
    )
    popularity: Popularity = Field(
        Popularity(zipf=1.0), description="how often each adapter is asked for, where the trace has no column adapter"
    )
    prefetch: bool = Field(
        False, description="an adapter is fetched from its request's arrival on; else when the request is admitted"
    )
    unified: bool = Field(
        False, description="adapters take pages of the KV cache while a request runs with them, no slots (S-LoRA)"
    )
    host_bandwidth: Bandwidth | None = Field(
        None, gt=0, description="from host memory to one device; 0.78 of its PCIe where left out"
    )
    load_latency: Seconds | None = Field(
        None, ge=0, description="of a load beyond its bytes; 8us for each tensor of the adapter where left out"
    )
    source_bandwidth: Bandwidth = Field(
        4.8e9, gt=0, description="from where adapters come that are not in host memory, as in 4.8GB/s"
    )
    source_latency: Seconds = Field(0.05, ge=0, description="of such a fetch beyond its bytes, as in 50ms")

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
    def in_host_memory(self) -> int:
        """Adapters that host memory holds at once."""
        return self.adapters if self.max_cpu_loras is None else self.max_cpu_loras

    @property
    def take_turns(self) -> bool:
        """True where not all adapters can be on the device together, so that requests may have to wait for others'."""
        return self.adapters > self.max_loras

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
        name = f"lora{self.adapters}-r{ranks}-s{self.max_loras}-{targets}-z{format_number(self.popularity.zipf)}"
        return "-".join([name, *self._residency_id()])

    def _residency_id(self) -> list[str]:
        parts = [] if self.max_cpu_loras is None else [f"c{self.max_cpu_loras}"]
        parts += ["prefetch"] * self.prefetch + ["unified"] * self.unified
        parts += [] if self.host_bandwidth is None else [f"host{format_bytes(self.host_bandwidth)}"]
        parts += [] if self.load_latency is None else [f"load{format_seconds(self.load_latency)}"]
        fetch = self.source_bandwidth, self.source_latency
        return parts if fetch == (4.8e9, 0.05) else [*parts, f"src{format_bytes(fetch[0])}+{format_seconds(fetch[1])}"]

