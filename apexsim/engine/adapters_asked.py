"""Which request asks for which LoRA adapter, and the adapters of a pool before the first arrival."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.adapters import AdapterLaw
from apexsim.engine.adapter_state import ASK, END, HUB, IN_HOST, KEPT, LOAD, SLOT, Adapters
from apexsim.engine.state import NONE, rows
from apexsim.errors import InputError
from apexsim.workload.trace import Trace


def new_adapters(law: AdapterLaw | None, asked: NDArray[np.int64], replicas: int) -> Adapters:
    """Empty devices; host memory holds the first adapters, as many as it takes, the last of them the first to go.

    Args:
        asked: [n] as ``adapters_asked``.
    """
    if law is None:
        return Adapters(*(rows(dtype, 0, *more) for dtype, more in (
            (ASK, ()), (SLOT, (0,)), (KEPT, (2, 0)), (END, (2,)), (LOAD, ()), (HUB, ())
        )))  # fmt: skip
    count = law.adapters
    asks, slots = rows(ASK, len(asked)), rows(SLOT, replicas, count + 1)
    kept, ends = rows(KEPT, replicas, 2, count), rows(END, replicas, 2)
    loads, hubs = rows(LOAD, count), rows(HUB, replicas)
    asks.adapter = np.where(asked < 0, count, asked)
    slots.head = slots.tail = NONE
    ends.oldest = ends.newest = NONE
    hubs.first = hubs.last = NONE
    hubs.link_free_s = -np.inf
    # Repeated as often as it takes: adapters take the ranks in turn.
    loads.load_s, loads.fetch_s = np.resize(law.load_s, count), np.resize(law.fetch_s, count)
    loads.blocks, loads.bytes = np.resize(law.blocks, count), np.resize(law.load_bytes, count)
    warm = min(law.host_slots, count)
    host = kept[:, IN_HOST]
    host.there[:, :warm] = 1
    host.older[:, :warm] = [*range(1, warm), -1]
    host.younger[:, :warm] = np.arange(warm) - 1
    ends[:, IN_HOST].oldest, ends[:, IN_HOST].newest, ends[:, IN_HOST].count = warm - 1, 0, warm
    return Adapters(asks, slots, kept, ends, loads, hubs)


def adapters_asked(trace: Trace, law: AdapterLaw | None, seed: int) -> NDArray[np.int64]:
    """[n] the adapter of each request, -1 for the base model: by the trace, or drawn by popularity; [0] without any.

    The k-th name of the trace is adapter k. Of drawn ones the first n are the same however many follow.

    Raises:
        InputError: the trace asks for more adapters than there are.
    """
    if law is None:
        return np.zeros(0, np.int64)
    if trace.adapter_code is None:
        weight = np.arange(1, law.adapters + 1, dtype=np.float64) ** -law.zipf
        drawn = np.random.default_rng([seed, law.adapters]).random(len(trace))
        return np.searchsorted(np.cumsum(weight / weight.sum())[:-1], drawn, side="right").astype(np.int64)
    if len(trace.adapters) > law.adapters:
        raise InputError(
            f"{trace.source or trace.name}: column adapter names {len(trace.adapters)} adapters, "
            f"the plan has lora.adapters = {law.adapters} (allowed: at most as many)"
        )
    return trace.adapter_code


def apart_by_adapter(trace: Trace, asked: NDArray[np.int64]) -> Trace:
    """The trace with block hashes that are equal only under one adapter: its KV differs from that of another."""
    if len(asked) == 0 or trace.hash_ids is None or trace.hash_offsets is None or len(trace.hash_ids) == 0:
        return trace
    hashes = np.unique(trace.hash_ids, return_inverse=True)[1].astype(np.int64)
    names = int(asked.max()) + 2
    return trace.with_columns(hash_ids=hashes * names + 1 + np.repeat(asked, np.diff(trace.hash_offsets)))


def adapter_notes(law: AdapterLaw | None, trace: Trace) -> list[str]:
    """What the trace says of adapters and the plan does not serve, or the other way round."""
    if law is None:
        unread = "the trace has a column adapter, but the plan has no lora: the base model serves all requests"
        return [unread] if trace.adapter_code is not None else []
    if trace.adapter_code is None:
        return [f"lora: the trace has no column adapter: each request's is drawn, popularity zipf {law.zipf:g}"]
    return []
