"""Host time: what the serving engine's own code adds to an iteration and to a request.

The work of an iteration of n scheduled sequences (scheduling, input preparation, output handling) takes
``iteration_s + n · sequence_s``. A synchronous engine does it while the device waits, and the iteration lasts
``device + host``; one that schedules asynchronously does it beside the device: ``max(device, host) + gap``.
One that replays no CUDA graph also lasts no less than the launches of its kernels.
A request pays ``entry_s`` before the engine sees it (API, tokeniser) and ``exit_s`` after its last iteration.

The presets are data, ``engine_profiles/<engine>.yaml``, and say where their numbers come from. They are global terms
by engine version, never per model or run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.spec import catalog
from apexsim.spec.engine import HostPreset

Floats = NDArray[np.float64]


class Kernels(NamedTuple):
    """Device seconds of an engine's kernels over those that the device's profile was calibrated on."""

    prefill: float = 1.0  # of iterations with prompts,
    decode: float = 1.0  # and of those without


AS_MEASURED = Kernels()


class Graphs(NamedTuple):
    """Which iterations replay a CUDA graph."""

    largest: int  # most tokens of a captured graph; 0 = none are used
    with_prefill: bool  # whether iterations that hold prefill tokens are padded to a graph too


@dataclass(frozen=True, slots=True)
class HostModel:
    """Host seconds of one engine from one version on."""

    engine: str
    since: tuple[int, int]
    iteration_s: float
    sequence_s: float  # each scheduled sequence more
    asynchronous: bool  # whether the next batch is decided while the device works on this one, unless a plan says so
    entry_s: float
    exit_s: float
    logit_bytes: float  # memory traffic of the sampler, bytes a logit: sorting for top-p moves hundreds
    largest_graph: int  # most tokens of a captured CUDA graph; 0 = none are used
    graphs_with_prefill: bool  # whether iterations that hold prefill tokens are padded to a graph too
    eager_kernel_s: float  # host seconds to launch one kernel where no graph is replayed
    source: str
    gap_s: float = 0.0  # device idle between iterations, whatever is composed ahead
    gap_sequence_s: float = 0.0  # each scheduled sequence more of that
    media_s: float = 0.0  # of a request with images, before they are encoded
    media_slice_s: float = 0.0  # each image slice more of that
    encoder_efficiency: float = 1.0  # of the vision encoder, as a share of what its kernels price
    media_source: str = ""
    kernels: Kernels = AS_MEASURED
    rank_s: float = 0.0  # of an iteration, for each device of the replica after the first

    def of(self, devices: int) -> HostModel:
        """The terms of a replica of so many devices."""
        return replace(self, iteration_s=self.iteration_s + self.rank_s * (devices - 1), rank_s=0.0)

    @property
    def graphs(self) -> Graphs:
        """The part of a preset that device prices depend on."""
        return Graphs(self.largest_graph, self.graphs_with_prefill)

    def serial(self, max_num_seqs: int) -> Floats:
        """[max_num_seqs + 1] seconds that no device work hides, by scheduled sequences."""
        seconds = self._work(max_num_seqs) * (not self.asynchronous)
        seconds[1:] += self.gap_s + self.gap_sequence_s * np.arange(1, max_num_seqs + 1)
        return seconds

    def floor(self, max_num_seqs: int) -> Floats:
        """[max_num_seqs + 1] seconds that run beside the device, by scheduled sequences."""
        return self._work(max_num_seqs) * self.asynchronous

    def _work(self, count: int) -> Floats:
        seconds = self.iteration_s + self.sequence_s * np.arange(count + 1, dtype=np.float64)
        seconds[0] = 0.0
        return seconds


@cache
def hosts(folder: Path | None = None) -> tuple[HostModel, ...]:
    """Every preset of a folder of engine profiles, ``engine_profiles/`` where None."""
    return tuple(
        HostModel(
            engine=profile.engine, since=preset.version, iteration_s=preset.iteration, sequence_s=preset.sequence,
            asynchronous=preset.asynchronous, entry_s=preset.entry, exit_s=preset.exit, logit_bytes=preset.logit_bytes,
            largest_graph=preset.largest_graph, graphs_with_prefill=preset.graphs_with_prefill,
            eager_kernel_s=preset.eager_kernel, source=_source(preset),
            gap_s=preset.gap, gap_sequence_s=preset.gap_sequence, media_s=preset.media,
            media_slice_s=preset.media_slice, encoder_efficiency=preset.encoder_efficiency,
            media_source=preset.media_source,
            kernels=Kernels(preset.prefill_kernels, preset.decode_kernels), rank_s=preset.rank,
        )
        for profile in catalog.engine_profiles(folder) for preset in profile.presets
    )  # fmt: skip


def _source(preset: HostPreset) -> str:
    if not preset.fitted:
        return preset.source
    return f"{', '.join(preset.fitted)} fitted on {', '.join(preset.sets)}; {preset.source}"


def host_model(engine: str, version: str | None, device: Path | None = None) -> HostModel:
    """The preset of an engine version: the latest one that is not newer; the newest where no version is given.

    A device's folder may hold ``engines/<engine>.yaml``, measured on its own host: that goes before. Engines without a
    preset of their own take vLLM's newest, and ``source`` of the result says whose it is.
    """
    own = hosts(device / "engines") if device is not None else ()
    presets = _presets(own, engine) or _presets(hosts(), engine)
    if not presets:
        presets = _presets(hosts(), "vllm")
        version = None
    if version is None:
        return presets[-1]
    wanted = _major_minor(version)
    return next((h for h in reversed(presets) if h.since <= wanted), presets[0])


def _presets(known: Iterable[HostModel], engine: str) -> list[HostModel]:
    return sorted((host for host in known if host.engine == engine), key=lambda host: host.since)


def _major_minor(version: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in version.lstrip("v").split(".")[:2]]
    return parts[0], parts[1] if len(parts) > 1 else 0


def graph_sizes(graphs: Graphs, max_num_seqs: int) -> NDArray[np.int64]:
    """Batch sizes of the captured CUDA graphs: 1, 2, 4, multiples of 8 to 256, then of 16.

    Source: vLLM's default ``cudagraph_capture_sizes``; the largest is twice ``max_num_seqs``, at most the preset's.
    """
    largest = min(2 * max_num_seqs, graphs.largest)
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, graphs.largest + 1, 16)]
    return np.array([size for size in sizes if size <= largest], dtype=np.int64)


def padded(tokens: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens as executed: the next graph size; unchanged (eager) above the largest. 0 stays 0."""
    if sizes.size == 0:
        return tokens
    index = np.minimum(np.searchsorted(sizes, tokens), sizes.size - 1)
    return np.where((tokens > 0) & (tokens <= sizes[-1]), sizes[index], tokens)
