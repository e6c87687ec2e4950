"""The engine's own time: what an iteration lasts beyond what the device's kernels are priced at.

Batches of n equal requests decode side by side; the median gap between their tokens, less the simulated gap of the
same batch under an engine that takes no time, is the engine's time for n sequences. A straight line through them
gives ``iteration_s + n · sequence_s``. Prompts and answers have lengths that the compared runs do not have. Each batch
is served several times, far apart, and the fastest counts: whatever else the machine does only adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import nnls

from apexsim import scenario
from apexsim.calibration.closed_loop.engine import ServingEngine
from apexsim.calibration.closed_loop.plan import no_host, with_times
from apexsim.calibration.closed_loop.served import Served
from apexsim.cost.host import HostModel
from apexsim.scenario import Prepared
from apexsim.spec.files import write_atomically
from apexsim.spec.units import format_seconds
from apexsim.workload.trace import Trace

Floats = NDArray[np.float64]

BATCHES = (1, 2, 4, 8, 12, 16)
PROMPTS = (20, 28)
"""Tokens of the prompts; a batch of the largest size fits one iteration."""
ANSWER = 24
"""Tokens of the answers."""


@dataclass(frozen=True)
class HostPoint:
    """One batch: seconds of an iteration, measured, and simulated without an engine's own time."""

    sequences: int
    prompt_tokens: int
    measured_s: float
    device_s: float


@dataclass(frozen=True)
class HostTime:
    """What was measured of an engine's own time, and the terms that were fitted on it."""

    points: tuple[HostPoint, ...]
    entry_s: float
    model: HostModel


def measure_host(engine: ServingEngine, prepared: Prepared, rounds: int = 3, seed: int = 1000) -> HostTime:
    """Serve the batches in a random order, ``rounds`` times, and fit the host terms.

    Args:
        prepared: the engine's plan with ``no_host``.
    """
    order = [(count, prompt) for count in BATCHES for prompt in PROMPTS] * rounds
    np.random.default_rng(seed).shuffle(order)
    points, entries = [], []
    for number, (count, prompt) in enumerate(order):
        trace = Trace("batch", np.zeros(count), np.full(count, prompt), np.full(count, ANSWER))
        served = engine.serve(trace, seed + number)
        device_s = decode_gap_s(prepared, trace)
        points.append(HostPoint(count, prompt, steady_gap_s(served), device_s))
        if count == 1:
            entries.append(float(served.start_s[0] - served.arrival_s[0]))
    iteration_s, sequence_s = fit_line(fastest(points))
    entry_s = min(entries)
    source = f"measured on this machine: batches of {BATCHES} equal requests with prompts of {PROMPTS} tokens"
    model = with_times(no_host(engine.name), iteration_s, sequence_s, entry_s, source)
    return HostTime(tuple(points), entry_s, model)


def fastest(points: Sequence[HostPoint]) -> list[HostPoint]:
    """Of each batch the round that took least."""
    least: dict[tuple[int, int], HostPoint] = {}
    for point in points:
        key = (point.sequences, point.prompt_tokens)
        if key not in least or point.measured_s < least[key].measured_s:
            least[key] = point
    return list(least.values())


def steady_gap_s(served: Served) -> float:
    """Median gap between tokens while all requests decode."""
    begin = max(tokens[0] for tokens in served.token_s)
    end = min(tokens[-1] for tokens in served.token_s)
    inside = [tokens[(tokens >= begin) & (tokens <= end)] for tokens in served.token_s]
    return float(np.median(np.concatenate([np.diff(tokens) for tokens in inside])))


def decode_gap_s(prepared: Prepared, trace: Trace) -> float:
    """Mean simulated gap between tokens of a batch that starts at once."""
    requests = scenario.replay(prepared, trace).requests
    return float(np.mean((requests.finish_s - requests.first_token_s) / (trace.output_tokens - 1)))


def fit_line(points: Sequence[HostPoint]) -> tuple[float, float]:
    """(seconds of an iteration, seconds a sequence more), both at least 0: least squares of the relative error."""
    counts = np.array([point.sequences for point in points], dtype=np.float64)
    measured = np.array([point.measured_s for point in points])
    left = measured - np.array([point.device_s for point in points])
    design = np.column_stack([np.ones_like(counts), counts]) / measured[:, None]
    (iteration_s, sequence_s), _ = nnls(design, left / measured)
    return float(iteration_s), float(sequence_s)


def write_host(host: HostModel, version: str, path: Path) -> None:
    """The terms as an engine profile, in the format of ``engine_profiles/``."""
    major, minor = version.split(".")[:2]
    preset = {
        "since": f"{major}.{minor}", "iteration": format_seconds(host.iteration_s, 4),
        "sequence": format_seconds(host.sequence_s, 4), "asynchronous": host.asynchronous,
        "entry": format_seconds(host.entry_s, 4), "exit": format_seconds(host.exit_s, 4),
        "logit_bytes": host.logit_bytes, "eager_kernel": "0s", "largest_graph": 0, "graphs_with_prefill": False,
        "source": host.source,
    }  # fmt: skip
    write_atomically(path, yaml.safe_dump({"engine": host.engine, "presets": [preset]}, sort_keys=False, width=120))
