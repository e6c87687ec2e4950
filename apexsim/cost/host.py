"""Host time: what the serving engine's own code adds to an iteration and to a request.

The work of an iteration of n scheduled sequences (scheduling, input preparation, output handling) takes
``iteration_s + n · sequence_s``. A synchronous engine does it while the device waits, and the iteration lasts
``device + host``; one that schedules asynchronously does it beside the device: ``max(device, host)``.
One that replays no CUDA graph also lasts no less than the launches of its kernels.
A request pays ``entry_s`` before the engine sees it (API, tokeniser) and ``exit_s`` after its last iteration.

Each preset says where its numbers come from. They are global terms by engine version, never per model or run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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

    @property
    def graphs(self) -> Graphs:
        """The part of a preset that device prices depend on."""
        return Graphs(self.largest_graph, self.graphs_with_prefill)

    def serial(self, max_num_seqs: int) -> Floats:
        """[max_num_seqs + 1] seconds that no device work hides, by scheduled sequences."""
        return self._work(max_num_seqs) * (not self.asynchronous)

    def floor(self, max_num_seqs: int) -> Floats:
        """[max_num_seqs + 1] seconds that run beside the device, by scheduled sequences."""
        return self._work(max_num_seqs) * self.asynchronous

    def _work(self, count: int) -> Floats:
        seconds = self.iteration_s + self.sequence_s * np.arange(count + 1, dtype=np.float64)
        seconds[0] = 0.0
        return seconds


# Where the numbers come from.
# vLLM from 0.8: serial terms and logit_bytes were fitted together on the mean TPOT of vllm-h100-open-loop (0.15.1, 36
# runs) and the median ITL of mlenergy-h100-dense (0.11.1, 65 runs of up to 192 sequences, without Gemma): median error
# 2.4 % and 3.0 %. The fit left asynchronous scheduling (0.14) no serial time: it does the same work beside the device,
# hence the same terms as a floor.
# vLLM before 0.8: fitted on the mean ITL of apex-h100-llama70b (0.6.0, 30 light runs; what lies above the device is
# 4.2 to 8.7 ms at 1 to 14 sequences, whatever the TP). Its launch time is what TTFT of the short prompts leaves at
# TP8, 960 kernels in 30 ms; that of the other presets is a guess.
# entry + exit = 3.5 ms is what TTFT = 2.8 TPOT + 3.5 ms leaves in vllm-h100-open-loop; the split is a guess.
# TensorRT-LLM samples greedily in its benchmarks; its host terms are vLLM's.
HOSTS: tuple[HostModel, ...] = (
    HostModel(
        "vllm", (0, 0), iteration_s=4.1e-3, sequence_s=0.25e-3, asynchronous=False,
        entry_s=2.5e-3, exit_s=1.0e-3, logit_bytes=570.0, largest_graph=256, graphs_with_prefill=False,
        eager_kernel_s=31e-6, source="fitted on apex-h100-llama70b",
    ),
    HostModel(
        "vllm", (0, 8), iteration_s=0.46e-3, sequence_s=14e-6, asynchronous=False,
        entry_s=2.5e-3, exit_s=1.0e-3, logit_bytes=570.0, largest_graph=512, graphs_with_prefill=True,
        eager_kernel_s=10e-6, source="fitted on mlenergy-h100-dense and vllm-h100-open-loop",
    ),
    HostModel(
        "vllm", (0, 14), iteration_s=0.46e-3, sequence_s=14e-6, asynchronous=True,
        entry_s=2.5e-3, exit_s=1.0e-3, logit_bytes=570.0, largest_graph=512, graphs_with_prefill=True,
        eager_kernel_s=10e-6, source="fitted on mlenergy-h100-dense and vllm-h100-open-loop",
    ),
    HostModel(
        "tensorrt-llm", (0, 0), iteration_s=0.46e-3, sequence_s=14e-6, asynchronous=True,
        entry_s=2.5e-3, exit_s=1.0e-3, logit_bytes=12.0, largest_graph=512, graphs_with_prefill=False,
        eager_kernel_s=10e-6, source="estimated from vLLM's",
    ),
)


def host_model(engine: str, version: str | None) -> HostModel:
    """The preset of an engine version: the latest one that is not newer; the newest where no version is given.

    Engines without a preset of their own take vLLM's newest, and ``source`` of the result says whose it is.
    """
    presets = sorted((h for h in HOSTS if h.engine == engine), key=lambda h: h.since)
    if not presets:
        presets = sorted((h for h in HOSTS if h.engine == "vllm"), key=lambda h: h.since)
        version = None
    if version is None:
        return presets[-1]
    wanted = _major_minor(version)
    return next((h for h in reversed(presets) if h.since <= wanted), presets[0])


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
