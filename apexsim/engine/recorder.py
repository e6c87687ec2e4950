"""From the engine's state to the columns of a result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import AdapterCounters, Counters, ItlRuns, RequestColumns, TierCounters, Timeline
from apexsim.engine.state import DECODE, FULLEST, MIXED, SAMPLED, SCHEDULED, Limits, State
from apexsim.workload.trace import Trace


def request_columns(
    state: State, trace: Trace, *, closed_loop: bool, origin_s: float, entry_s: float, exit_s: float
) -> RequestColumns:
    """Columns per request, by the client's clock: the engine's begins at ``origin_s`` of it."""
    requests = state.requests
    arrival_s = requests.arrival_s - entry_s if closed_loop else trace.arrival_s
    return RequestColumns(
        arrival_s=arrival_s,
        start_s=np.maximum(requests.start_s + origin_s, arrival_s),  # moving the clock rounds
        first_token_s=requests.first_token_s + (origin_s + exit_s),
        finish_s=requests.finish_s + (origin_s + exit_s),
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        status=requests.status.copy(),
        reason=requests.reason.copy(),
        replica=requests.group // np.int32(state.stages),  # NONE stays: it is -1
        preemptions=requests.preemptions.copy(),
        cached_tokens=_cached_tokens(state),
        itl_max_s=requests.itl_max_s.copy(),
        adapter=_adapters_asked(state),
    )


def _cached_tokens(state: State) -> NDArray[np.int64]:
    """Prompt tokens that each request found in the prefix cache when it was first admitted."""
    prefixes = state.cache.prefixes
    if len(prefixes) == 0:
        return np.zeros(len(state.requests), np.int64)
    return np.asarray(prefixes.hit, np.int64).clip(min=0)  # NONE where it was never admitted


def itl_runs(state: State) -> ItlRuns:
    """The runs recorded so far."""
    itl = state.itl[: state.filled[0]]
    return ItlRuns(
        start_s=itl.start_s.copy(), slope_s=itl.slope_s.copy(), count=itl.count.copy(), sequences=itl.sequences.copy()
    )


def counters(state: State, limits: Limits, ranks: int = 1) -> Counters:
    """Sums over the replicas, in the order of their index; each of them is ``ranks`` ranks."""
    sums = state.replicas
    return Counters(
        mixed=state.histograms[MIXED].copy(),
        decode=state.histograms[DECODE].copy(),
        sampled=state.histograms[SAMPLED].copy(),
        scheduled=state.histograms[SCHEDULED].copy(),
        iterations=int(sums.iterations.sum()),
        busy_s=float(sums.busy_s.sum()) / ranks,
        prefill_attention_s=float(sums.prefill_attention_s.sum()),
        decode_attention_s=float(sums.decode_attention_s.sum()),
        prefill_tokens=int(sums.prefill_tokens.sum()),
        decode_tokens=int(sums.decode_tokens.sum()),
        prefill_pairs=float(sums.prefill_pairs.sum()),
        decode_kv_tokens=float(sums.decode_kv.sum()),
        prefill_pairs_windowed=float(sums.prefill_pairs_windowed.sum()),
        decode_kv_tokens_windowed=float(sums.decode_kv_windowed.sum()),
        preemptions=int(state.requests.preemptions.sum()),
        kv_peak_blocks=int(sums.peak_blocks.max()),
        kv_blocks=limits.kv_blocks,
        evicted_blocks=int(sums.evicted_blocks.sum()),
        waited_s=float(sums.waited_s.sum()) / ranks,
        together=state.histograms[FULLEST:].copy(),
        accepted_tokens=int(sums.accepted_tokens.sum()),
        copy_s=float(sums.copy_s.sum()),
        swaps=int(sums.swaps.sum()),
        copied_blocks=int(sums.copied_blocks.sum()),
        tiers=tuple(_tier(state, t) for t in range(limits.tiers)),
        adapter_wait_s=float(state.adapters.hubs.wait_s.sum()),
        adapters=_adapters(state),
        encode_s=float(state.visuals.replicas.busy_s.sum()),
        encode_alone_s=float(state.visuals.replicas.alone_s.sum()),
        slices=int(state.visuals.replicas.slices.sum()),
    )


def _adapters_asked(state: State) -> NDArray[np.int64] | None:
    """The adapter of each request, -1 for the base model; None without adapters."""
    if len(state.adapters.hubs) == 0:
        return None
    asked = state.adapters.asks.adapter.astype(np.int64)
    return np.where(asked == len(state.adapters.loads), -1, asked)


def _adapters(state: State) -> AdapterCounters | None:
    hubs = state.adapters.hubs
    if len(hubs) == 0:
        return None
    return AdapterCounters(
        uses=int(hubs.uses.sum()), loads=int(hubs.loads.sum()), fetches=int(hubs.fetches.sum()),
        load_s=float(hubs.load_s.sum()), loaded_bytes=float(hubs.loaded_bytes.sum()),
        most_in_use=int(hubs.most_in_use.max()),
    )  # fmt: skip


def _tier(state: State, t: int) -> TierCounters:
    """Contents stand in the row of the replica that owns them, what was read in every replica's."""
    column = state.tiers.stores[:, t]
    owners = column[np.unique(column.row)]
    return TierCounters(
        capacity_blocks=int(column.capacity[0]), peak_blocks=int(owners.peak.max()),
        hit_tokens=int(column.hit_tokens.sum()), loaded_blocks=int(column.loaded.sum()),
        stored_blocks=int(owners.stored.sum()), evicted_blocks=int(owners.evicted.sum()),
    )  # fmt: skip


def timeline(state: State, origin_s: float, pool: int = 0) -> Timeline:
    """The iterations recorded so far, in the order in which they were set off or closed."""
    rows = state.timeline[: state.filled[1]]
    return Timeline(
        begin_s=rows.begin_s + origin_s, end_s=rows.end_s + origin_s, replica=rows.group // state.stages,
        slot=rows.group % state.stages, steps=rows.steps.copy(), decoding=rows.decoding.copy(),
        prefill_tokens=rows.prefill_tokens.copy(), requests=rows.requests.copy(),
        kv_blocks=rows.kv_blocks.copy(), pool=np.full(len(rows), pool),
    )  # fmt: skip
