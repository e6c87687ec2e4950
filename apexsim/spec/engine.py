"""An engine profile: what a serving engine's own code costs beside its kernels, version by version.

Host terms are global: one value for all models, devices and loads of a version. The file says which of them were
fitted, on which measured runs, and which are estimates.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import Seconds

HostTerm = Literal["iteration", "sequence", "gap", "gap_sequence", "entry", "exit", "logit_bytes", "eager_kernel",
                   "prefill_kernels", "decode_kernels", "rank"]
"""Host terms that can be fitted on serving runs."""


class HostPreset(Strict):
    """Host terms of an engine from one version on."""

    since: str = Field(pattern=r"^\d+\.\d+$", description="first version that these terms hold for")
    iteration: Seconds = Field(ge=0, description="scheduling, input preparation and output handling of an iteration")
    sequence: Seconds = Field(ge=0, description="each scheduled sequence more")
    rank: Seconds = Field(0.0, ge=0, description="each device of the replica more, where the engine calls its workers")
    asynchronous: bool = Field(description="the next batch is composed while the device works on this one")
    gap: Seconds = Field(0.0, ge=0, description="device idle between iterations, whatever is composed ahead")
    gap_sequence: Seconds = Field(0.0, ge=0, description="each scheduled sequence more of that")
    entry: Seconds = Field(ge=0, description="from the client's request to the engine's queue: HTTP, tokeniser")
    exit: Seconds = Field(ge=0, description="from a token in the engine to the client: detokeniser, HTTP")
    logit_bytes: float = Field(ge=0, description="memory traffic of the sampler a logit; sorting moves hundreds")
    eager_kernel: Seconds = Field(ge=0, description="to launch one kernel where no CUDA graph is replayed")
    largest_graph: int = Field(ge=0, description="most tokens of a captured CUDA graph; 0 = none are used")
    prefill_kernels: float = Field(
        1.0, ge=1, description="device seconds of an iteration with prompts over those of the device's profile"
    )
    decode_kernels: float = Field(1.0, ge=1, description="the same of an iteration of decodes")
    graphs_with_prefill: bool = Field(description="iterations with prefill tokens are padded to a graph too")
    media: Seconds = Field(0.0, ge=0, description="of a request with images, before they are encoded: fetch, decode")
    media_slice: Seconds = Field(0.0, ge=0, description="each image slice more of that")
    encoder_efficiency: float = Field(
        1.0, gt=0, le=1, description="how fast the vision encoder runs, as a share of what its kernels price"
    )
    media_source: str = Field("", description="where these three come from")
    group: str = Field("", description="presets of one group share the terms that are fitted")
    fitted: tuple[HostTerm, ...] = Field((), strict=False, description="terms that were fitted on measured runs")
    sets: tuple[str, ...] = Field((), strict=False, description="validation sets that they were fitted on")
    source: str = Field(description="where the terms come from, fitted or not")

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.since.split(".")
        return int(major), int(minor)


class KvManager(Strict):
    """How an engine keeps the KV of layers of several kinds, from one version on."""

    since: str = Field(pattern=r"^\d+\.\d+$", description="first version that this holds for")
    frees: tuple[Literal["sliding", "chunked"], ...] = Field(
        (), strict=False, description="windows whose KV is freed as it leaves them, unless a plan says not"
    )
    source: str = Field(description="where this is known from")

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.since.split(".")
        return int(major), int(minor)


class EngineProfile(Strict):
    """All presets of one engine, oldest first."""

    engine: str = Field(description="name of the engine, as plans have it")
    presets: tuple[HostPreset, ...] = Field(min_length=1, strict=False, description="host terms, oldest version first")

    kv_managers: tuple[KvManager, ...] = Field(
        (), strict=False, description="how KV of several kinds of layers is kept, oldest version first"
    )

    def kv_manager_of(self, version: str | None) -> KvManager | None:
        """What holds for a version, the newest where None: the latest entry that is not newer."""
        if version is None:
            return self.kv_managers[-1] if self.kv_managers else None
        parts = [int(part) if part.isdigit() else 0 for part in version.lstrip("v").split(".")[:2]]
        return next((m for m in reversed(self.kv_managers) if m.version <= tuple(parts)), None)

    @field_validator("presets")
    @classmethod
    def _oldest_first(cls, presets: tuple[HostPreset, ...]) -> tuple[HostPreset, ...]:
        versions = [preset.version for preset in presets]
        if versions != sorted(set(versions)):
            raise ValueError("versions must rise from preset to preset")
        return presets
