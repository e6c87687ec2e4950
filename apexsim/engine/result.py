"""What a simulation leaves behind: columns per request, the gaps between tokens as runs, and counters.

Pure arrays. What they mean (TTFT, goodput, joules) is computed in ``apexsim.metrics``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

COMPLETED, REJECTED, FAILED, IN_FLIGHT = 0, 1, 2, 3
"""Codes of ``RequestColumns.status``. Every request of the trace has exactly one of them."""

NOT_REJECTED, REJECTED_CONTEXT, REJECTED_KV, REJECTED_QUEUE, REJECTED_WAIT, REJECTED_LATE = 0, 1, 2, 3, 4, 5
"""Codes of ``RequestColumns.reason``: longer than the context window, or than the replica's whole KV cache; and what
admission control rejects: too many waited, it waited too long, it could no longer keep its deadline."""

FAILED_REPLICA, FAILED_NOBODY = 6, 7
"""More of them, of requests that failed: its replica did, and it had no more retries; no replica was left."""


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """One row a request, in the order of the trace; NaN where an instant never came."""

    arrival_s: NDArray[np.float64]  # as offered (closed loop: when its predecessor ended)
    start_s: NDArray[np.float64]  # first scheduled
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]  # last token
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]  # asked for; a completed request has yielded exactly these
    status: NDArray[np.int8]
    reason: NDArray[np.int8]
    replica: NDArray[np.int32]  # -1 where none took it
    preemptions: NDArray[np.int32]
    cached_tokens: NDArray[np.int64]  # prompt tokens found in the prefix cache at the first admission
    itl_max_s: NDArray[np.float64]  # largest gap between two tokens; NaN for one output token
    adapter: NDArray[np.int64] | None = None  # that it asked for, -1 the base model; None where a pool has none
    attempts: NDArray[np.int64] | None = None  # how often it was offered to replicas; None where none ever goes


@dataclass(frozen=True, slots=True)
class ItlRuns:
    """Gaps between tokens, exact: run i stands for ``count[i]`` iterations of ``sequences[i]`` gaps each.

    The j-th iteration of a run (j = 0 … count − 1) gives gaps of ``start_s[i] + j · slope_s[i]`` seconds.
    """

    start_s: NDArray[np.float64]
    slope_s: NDArray[np.float64]
    count: NDArray[np.int64]
    sequences: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TierCounters:
    """What one KV tier of a pool did; sums over the replicas. A tier that all of them share counts once."""

    capacity_blocks: int  # of one replica, or of all where they share it
    peak_blocks: int  # the most in one replica's tier at once
    hit_tokens: int  # prompt tokens that first admissions found here
    loaded_blocks: int
    stored_blocks: int
    evicted_blocks: int


@dataclass(frozen=True, slots=True)
class AdapterCounters:
    """What LoRA adapters did in a pool; sums over the replicas."""

    uses: int  # admissions of requests with an adapter
    loads: int  # those that did not find it on the device
    fetches: int  # loads that did not find it in host memory
    load_s: float  # seconds of the links
    loaded_bytes: float
    most_in_use: int  # distinct adapters of one running batch


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums over all replicas of one pool, from which time, energy and work are accounted.

    ``mixed[T]``: iterations of T tokens that held prefill tokens; ``decode[n]``: iterations of n decoding sequences
    and no prefill; ``sampled[n]``/``scheduled[n]``: iterations in which n sequences yielded a token / ran.

    Of ranks in lockstep every rank counts each iteration, with the tokens that it computes, padding and dummy batches
    included, and all count it as mixed where one of them holds prefill. ``together`` counts it once a group, in pairs
    of rows, mixed and decode: [0:2, T] iterations whose fullest rank has T tokens; [2:4, m] those with m · ranks + rest
    tokens on all ranks, rest < ranks; [4:6, m] the sum of these rests. It has no rows without lockstep. With drafts,
    sizes of iterations without prefill are sequences; with several a step, [6:9, n] are the same three, once, of passes
    after the first, by sequences that yield a token.
    """

    mixed: NDArray[np.int64]
    decode: NDArray[np.int64]
    sampled: NDArray[np.int64]
    scheduled: NDArray[np.int64]
    iterations: int
    busy_s: float  # Σ iteration time, all replicas (pipeline, lockstep: the mean over its stages or ranks)
    prefill_attention_s: float  # device seconds, summed over pipeline stages
    decode_attention_s: float  # device seconds, summed over pipeline stages
    prefill_tokens: int  # prompt tokens computed, recomputation included
    decode_tokens: int  # Σ over iterations of the sequences that decode
    prefill_pairs: float  # query-key pairs of prefill, full attention kind
    decode_kv_tokens: float  # Σ over decode iterations of S, full attention kind
    prefill_pairs_windowed: float
    decode_kv_tokens_windowed: float
    preemptions: int
    kv_peak_blocks: int  # largest number of blocks in use on one replica
    kv_blocks: int  # blocks of one replica
    evicted_blocks: int = 0  # from the prefix caches
    accepted_tokens: int = 0  # drafts that were accepted and handed out, speculative decoding
    waited_s: float = 0.0  # of lockstep ranks for the slowest of them, the mean over the ranks of each replica
    together: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    copy_s: float = 0.0  # device seconds that iterations waited for copies of KV blocks, summed over pipeline stages
    swaps: int = 0  # preempted requests whose blocks went to the swap space
    copied_blocks: int = 0  # by swaps, out and in
    tiers: tuple[TierCounters, ...] = ()
    adapter_wait_s: float = 0.0  # that iterations waited for adapters
    adapters: AdapterCounters | None = None
    encode_s: float = 0.0  # of iterations, in which images were encoded,
    encode_alone_s: float = 0.0  # if each slice had been alone in its batch
    slices: int = 0  # of images


@dataclass(frozen=True, slots=True)
class Timeline:
    """Iterations as they ran, one row each; a row with ``steps`` > 1 is a series of decode iterations of one batch."""

    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    replica: NDArray[np.int64]
    slot: NDArray[np.int64]  # which of the pp batches in flight
    steps: NDArray[np.int64]
    decoding: NDArray[np.int64]
    prefill_tokens: NDArray[np.int64]
    requests: NDArray[np.int64]
    kv_blocks: NDArray[np.int64]  # in use on the replica when it began, those that it takes included
    pool: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Transfers:
    """KV on its way from the pools that prefill to those that decode, by request; NaN and -1 where it never went.

    Attributes:
        started, finished: transfers.
        released, carried: bytes that could go, and that have gone.
        busy_s: seconds in which at least one transfer moved.
    """

    left_s: NDArray[np.float64]  # the prefill had ended
    reserved_s: NDArray[np.float64]  # there were blocks for it where it decodes
    landed_s: NDArray[np.float64]  # it was there
    size_bytes: NDArray[np.float64]
    pool: NDArray[np.int64]  # that decoded it,
    replica: NDArray[np.int64]  # and the replica there
    started: int
    finished: int
    released: float
    carried: float
    busy_s: float


class FleetEvent(NamedTuple):
    """Something that happened to a replica; ``at_s`` on the trace's clock."""

    at_s: float
    kind: str  # ``life.py`` says which there are
    pool: int
    replica: int


@dataclass(frozen=True, slots=True)
class FleetLife:
    """What happened to replicas while they served. Spans are of one replica each, in seconds since the first arrival.

    Attributes:
        events: in the order of time.
        held: [k, 2] spans in which devices were there, and paid; inf where they still are,
        held_pool: [k] and of which pool.
        serving: [k, 2] spans in which a replica took requests, of
        serving_pool: [k].
        slowed_s: of each pool's busy time, what is due to stragglers.
        last_loss_s: when the last iteration ended that was lost with requests in it; 0 where none was.
        lost_transfers, lost_bytes: KV on its way from or to a replica that failed.
    """

    events: tuple[FleetEvent, ...]
    held: NDArray[np.float64]
    held_pool: NDArray[np.int64]
    serving: NDArray[np.float64]
    serving_pool: NDArray[np.int64]
    slowed_s: tuple[float, ...]
    last_loss_s: float
    lost_transfers: int
    lost_bytes: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """Images on their way to the prefill, by request; NaN where an instant never came.

    Attributes:
        units: that encode and do nothing else; the rest is of these, ``encoded_s`` and ``landed_s`` too.
        busy_s: seconds of their batches; ``alone_s`` if each slice had been alone in one.
    """

    images: NDArray[np.int64]  # slices
    prepared_s: NDArray[np.float64]  # fetched and preprocessed
    encoded_s: NDArray[np.float64]  # the last slice
    landed_s: NDArray[np.float64]  # its embeddings are where it is prefilled
    units: int
    busy_s: float
    alone_s: float
    batches: int
    slices: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters as they stood at a mark.

    Attributes:
        at_s: the end of the last iteration that was in flight at the mark, on the trace's clock.
    """

    at_s: float
    counters: Counters


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Everything that one run of the engine produced; equal inputs and seed give equal bytes."""

    requests: RequestColumns
    itl: ItlRuns
    pools: tuple[Counters, ...]  # in the order of the plan's pools
    replicas: tuple[float, ...]  # with which they begin
    seed: int
    notes: tuple[str, ...] = ()
    timeline: Timeline | None = None
    snapshots: tuple[Snapshot, ...] = ()  # one a mark, in the order of the marks
    transfers: Transfers | None = None  # where pools hand requests to each other
    units: tuple[int, ...] = ()  # of each pool: its replicas, or all ranks of those in lockstep
    fleet: FleetLife | None = None  # where replicas come and go
    encoded: Encoded | None = None  # where requests bring images

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last token, the drain included; 0 where nothing completed.

        Where replicas come and go, to the last request that was lost with one, if that is later.
        """
        finish = self.requests.finish_s
        lost_s = 0.0 if self.fleet is None else self.fleet.last_loss_s
        if not np.isfinite(finish).any():
            return lost_s
        return max(float(np.nanmax(finish) - self.requests.arrival_s[0]), lost_s)

    @property
    def fleet_events(self) -> tuple[FleetEvent, ...]:
        """What happened to replicas, in the order of time."""
        return () if self.fleet is None else self.fleet.events

    @property
    def lost_gaps(self) -> int:
        """Gaps between tokens of attempts that were lost with their replica."""
        if self.fleet is None:
            return 0
        completed = self.requests.status == COMPLETED
        return int((self.itl.count * self.itl.sequences).sum() - (self.requests.output_tokens[completed] - 1).sum())

    def same_bytes(self, other: SimulationResult) -> bool:
        """True where every column, run and counter is identical."""
        return all(_equal(a, b) for a, b in zip(_leaves(self), _leaves(other), strict=True))


def _leaves(value: Any) -> list[Any]:
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for name in value.__dataclass_fields__ for leaf in _leaves(getattr(value, name))]
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.tobytes() == b.tobytes()
    return bool(a == b)
