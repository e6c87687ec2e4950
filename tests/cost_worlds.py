"""Models, pools and shared measurements that the cost tests use."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apexsim.cost.memory import DoesNotFit
from apexsim.cost.step import CompiledPool, compile_pool
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Pool

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def shared(relative: str) -> Path:
    """A file or folder of the shared measurements; the test is skipped where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs ../shared/{relative}, which is not here")
    return path


def table(relative: str) -> list[dict[str, str]]:
    """The rows of a shared CSV file."""
    path = shared(relative)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file))


def same_bytes(one: Any, other: Any) -> bool:
    """Whether two values, tuples of arrays among them, agree to the last bit."""
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same_bytes, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return bool(one == other)


def compiled(
    model: str = "Llama-3.1-70B", device: str = "h100-sxm", tokens: int = 8192, seqs: int = 256,
    cluster: str | None = None, costs: str = "calibrated", engine_version: str | None = None, engine: str = "vllm",
    **pool: Any,
) -> CompiledPool:
    """A pool that fits, compiled."""
    found = attempt(model, device, tokens, seqs, cluster, costs, engine_version, engine, **pool)
    assert isinstance(found, CompiledPool), found
    return found


def attempt(
    model: str = "Llama-3.1-70B", device: str = "h100-sxm", tokens: int = 8192, seqs: int = 256,
    cluster: str | None = None, costs: str = "calibrated", engine_version: str | None = None, engine: str = "vllm",
    **pool: Any,
) -> CompiledPool | DoesNotFit:
    """The same, whether it fits or not."""
    return compile_pool(
        catalog.model(model), catalog.device(device), Cluster.model_validate(cluster or f"8x{device}"), Pool(**pool),
        max_num_batched_tokens=tokens, max_num_seqs=seqs, engine=engine,
        engine_version=engine_version, costs=costs,
    )


def device_s(pool: CompiledPool, sequences: float, context: float) -> float:
    """Device seconds of a decode iteration of ``sequences`` with a mean context, full attention, one stage."""
    t, n = pool.tables, max(1, round(sequences))
    attention = float(np.interp(context, t.context_knots, t.decode_attention_s[0, 0, n]))
    return float(t.decode_s[0, n]) + attention + float(t.head_s[n])
