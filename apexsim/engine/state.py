"""What the compiled engine holds while it runs: a few arrays, no object per request.

A *replica* owns the KV blocks and the waiting list. A *group* is one batch in flight: a replica has one group a
pipeline stage (pp batches in flight), so group ``g`` belongs to replica ``g // stages``. All arrays are changed in
place.

Columns that are touched together stand together in record arrays: an event reads a handful of fields of one
request and one group, and each further array argument would cost every compiled call more than the arithmetic in it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.adapter_state import Adapters
from apexsim.engine.jit import kernel
from apexsim.engine.result import IN_FLIGHT
from apexsim.engine.tier_state import Tiers
from apexsim.engine.visuals import Visuals

Rows = Any
"""A record array. NumPy cannot type the fields; the dtypes below name and explain them."""

OFFERED, WAITING, PREFILLING, DECODING, DONE, RESERVED, RECEIVED = 0, 1, 2, 3, 4, 5, 6
"""Phases of a request; the last two where its KV comes from another pool (``handover.py``)."""

IDLE, RUNNING, READY = 0, 1, 2
"""Phases of a group: nothing to do, an iteration (or a series) in flight, at a boundary and about to schedule."""

NONE = -1

LONGEST = 1 << 29
"""Tokens beyond which all prompts and outputs are alike: too long."""

MIXED, DECODE, SAMPLED, SCHEDULED = 0, 1, 2, 3
"""Rows of ``State.histograms``; see ``result.Counters``."""

FULLEST, ALL, REST = 4, 6, 8
"""More of them, each for mixed and for decode-only iterations, where ranks run in lockstep."""

DRAFTED = 10
"""And three of later passes of drafts: fullest, all and rest, where there are such."""

REQUEST = np.dtype(
    [
        ("arrival_s", "f8"),  # when the engine sees it
        ("start_s", "f8"),
        ("first_token_s", "f8"),
        ("finish_s", "f8"),
        ("last_token_s", "f8"),  # the last token before a preemption
        ("itl_max_s", "f8"),
        ("entry_step", "i8"),  # the group's step when decoding began
        ("finish_step", "i8"),  # the group's step at which the last token is out
        ("window_step", "i8"),  # the group's step at which a growing sequence fills the sliding window
        ("gap", "i8"),  # index of the first gap between tokens that this request sees
        ("prompt", "i4"),
        ("output", "i4"),
        ("generated", "i4"),  # tokens yielded when the request last began to decode or was preempted
        ("computed", "i4"),  # tokens in the KV cache: of the prefill so far, then at the start of decoding
        ("blocks", "i4"),  # KV blocks held while prefilling, or reserved for good
        ("group", "i4"),
        ("follower", "i4"),  # next in the waiting list, or of the open prompts
        ("older", "i4"),  # neighbours in the group's running list, by time of admission
        ("younger", "i4"),
        ("preemptions", "i4"),
        ("phase", "i1"), ("status", "i1"), ("reason", "i1"),
        ("late", "i1"),  # 1 from joining a batch, after its KV came, until its next token (``receiving.py``)
    ],
    align=True,
)
"""Two cache lines a request."""

NEW_REQUEST = np.zeros((), REQUEST)
for _name in ("group", "window_step", "follower", "older", "younger"):
    NEW_REQUEST[_name] = NONE
for _name in ("start_s", "first_token_s", "finish_s", "itl_max_s", "last_token_s"):
    NEW_REQUEST[_name] = np.nan
NEW_REQUEST["status"] = IN_FLIGHT

REPLICA = np.dtype(
    [
        ("waiting_head", "i8"),
        ("waiting_tail", "i8"),
        ("waiting", "i8"),
        ("running", "i8"),
        ("used_blocks", "i8"),
        ("peak_blocks", "i8"),
        ("cached_blocks", "i8"),  # computed and held by no running request: evicted where they are needed
        ("open_head", "i8"),  # prompts of a pipeline that no batch holds (``pipeline.py``), by ``follower``
        ("full", "i8"),  # 1 from a preemption in a pipeline until a request ends: nobody is admitted
        ("prompt_tokens", "i8"),  # of the unfinished requests: what the least-loaded router looks at
        ("ended", "i8"),  # requests completed or rejected
        ("changed_s", "f8"),  # when a request last came or left,
        ("present_s", "f8"),  # request-seconds up to then (``presence.py``),
        ("shed_s", "f8"),  # and how long those that were turned away while they waited had been there
        # Sums are kept per replica, so that the order in which replicas are advanced changes no byte.
        ("iterations", "i8"), ("prefill_tokens", "i8"), ("decode_tokens", "i8"),
        ("busy_s", "f8"), ("prefill_attention_s", "f8"), ("decode_attention_s", "f8"),
        ("slow", "f8"), ("slowed_s", "f8"),  # factor on its iterations; seconds of ``busy_s`` that are due to it
        ("prefill_pairs", "f8"), ("prefill_pairs_windowed", "f8"),
        ("decode_kv", "f8"),
        ("decode_kv_windowed", "f8"),
        # With a prefix cache only.
        ("oldest", "i8"),  # ends of the list of cached units: the next to be evicted,
        ("newest", "i8"),  # and the last,
        ("lost_last", "i8"),  # and cached blocks that nobody can find, to be evicted after it
        ("admissions", "i8"),
        ("evicted_blocks", "i8"),
        ("accepted_tokens", "i8"),  # drafts that were accepted and handed out
        # Of a rank in lockstep only.
        ("waited_s", "f8"),  # for the slowest rank of its iterations
        # With KV tiers or swapping only.
        ("copies", "i8"),  # 1 where the iteration being composed brings blocks back, or takes them away
        ("stall_s", "f8"),  # seconds of swaps that it waits for,
        ("beside_s", "f8"),  # and of those that run beside it
        ("swapped_blocks", "i8"),  # in the swap space now
        ("swaps", "i8"),  # requests swapped out so far
        ("copied_blocks", "i8"),  # by swaps, out and in
        ("copy_s", "f8"),  # device seconds that stages waited for copies
        # In other orders than first come first served only.
        ("incoming_head", "i8"), ("incoming_tail", "i8"),  # ends of the list of those that no boundary has seen
        ("clients", "i8"), ("last_client", "i8"),  # that have requests in the waiting list; the last that left it
        # Where KV comes from another pool: ends of the list of those whose KV is there, and that have not begun;
        ("received_head", "i8"), ("received_tail", "i8"),
        ("coming", "i8"),  # how many have blocks reserved, and have not begun either
    ]
)

GROUP = np.dtype(
    [
        ("phase", "i8"), ("begin_s", "f8"),
        ("end_s", "f8"),  # of what is in flight, or the boundary at which it schedules; inf when idle
        ("seen_s", "f8"),  # who arrived later is not known yet to the iteration that is scheduled next
        ("duration_s", "f8"),  # of the iteration in flight; NaN where a series was set off in closed form
        ("slow", "f8"),  # the replica's, when what is in flight was set off
        ("steps", "i8"),  # iterations in flight
        ("step", "i8"),  # iterations in which this group's sequences decoded, so far
        ("decoding", "i8"),  # sequences that decode
        ("late", "i8"),  # those of them whose last token was out before they joined
        ("decoded", "i8"),  # 1 where the iteration in flight includes them
        ("kv", "i8"),  # Σ tokens in the KV cache of the decoding sequences
        ("kv_windowed", "i8"),  # Σ min(tokens, window)
        ("growing", "i8"),  # decoding sequences shorter than the window
        ("youngest", "i8"),  # tail of the running list
        ("prefills", "i8"),  # prompts that were begun: length of the row of ``begun``
        ("finishes", "i8"),  # sizes of the heaps,
        ("windows", "i8"),
        ("cohorts", "i8"),  # of the cohorts
        ("stack", "i8"),  # and of the stack
        # Of a rank in lockstep only, for the iteration in flight.
        ("tokens", "i8"),  # that it computes; 0 in a dummy batch
        ("sampled", "i8"),  # sequences that yield one,
        ("scheduled", "i8"),  # and that run
        ("own_s", "f8"),  # seconds of the iteration if no rank were slower, without decode attention,
        ("line_s", "f8"),  # with that of the first iteration of a stretch (``lockstep.stretch``),
        ("rise_s", "f8"),  # and seconds more each time
        ("waited", "i8"),  # iterations without a prompt, of the first rank of a group (``balance.py``),
        ("batched", "i8"),  # those in which all ranks have one,
        ("counted", "i8"),  # and as which of them a series counts: 1, 2, or 0 for neither
    ]
)

PREFIX = np.dtype(
    [
        ("first", "i8"),  # index into ``Cache.ids`` of the prompt's first unit
        ("mark", "i8"),  # index into ``Cache.held``, likewise
        ("admitted", "i8"),  # number of the request's admission to its replica
        ("units", "i4"),  # that the prompt can share
        ("settled", "i4"),  # leading units that are computed, while the request runs
        ("settled_tokens", "i4"),  # tokens of those
        ("declared", "i4"),  # leading tokens that count as computed before; NONE where hashes tell
        ("hit", "i4"),  # tokens that its first admission found; NONE before
    ],
    align=True,
)
"""A request as the prefix cache sees it."""

UNIT = np.dtype(
    [
        ("lost_before", "i8"),  # cached blocks that nobody can find, to be evicted after ``older`` and before this one
        ("resident", "i4"),  # 1 where it is in the cache
        ("holders", "i4"),  # running requests; where there are none, the unit stands in the list of those to evict
        ("older", "i4"),  # its neighbours there, by time of release
        ("younger", "i4"),
    ],
    align=True,
)
"""A unit in the cache of one replica."""

DRAFT = np.dtype([("acceptance", "f8"), ("seed", "i8")])
"""A draft token of a step: how likely it is accepted where all before it were, and the seed of the draws."""
PLACE = np.dtype(
    [
        ("key", "f8"),  # the smallest is the first in the waiting list; ties go by index
        ("deadline_s", "f8"),  # seconds from the engine's arrival to the latest first token; inf where there is none
        ("client", "i8"),
    ]
)
"""What places a request in the waiting list, where that is not only its arrival."""

CLIENT = np.dtype(
    [
        ("counter", "i8"),  # weighted tokens it was served by the group, up to ``step``; the lifts are in the first
        ("decoding", "i8"), ("step", "i8"),  # its sequences that decode in the group; its step when that last changed
        # In the first group of a replica only.
        ("head", "i8"), ("tail", "i8"),  # ends of the list of its waiting requests
        ("key", "i8"),  # its counter when it was last looked at: never more than it is now
        ("queued", "i8"),  # row k: the client at place k of the heap by key
    ]
)
"""A client as fair scheduling sees it (``fair.py``)."""

CHUNK = np.dtype([("request", "i8"), ("tokens", "i8")])
DUE = np.dtype([("step", "i8"), ("request", "i8")])
COHORT = np.dtype([("last_s", "f8"), ("count", "i8"), ("gap", "i8")])
GAP = np.dtype([("gap", "i8"), ("seconds", "f8")])
ITL_RUN = np.dtype([("start_s", "f8"), ("slope_s", "f8"), ("count", "i8"), ("sequences", "i8")])
ITERATION = np.dtype(
    [
        ("begin_s", "f8"), ("end_s", "f8"), ("group", "i8"), ("steps", "i8"), ("decoding", "i8"),
        ("prefill_tokens", "i8"), ("requests", "i8"), ("kv_blocks", "i8"),
    ]
)  # fmt: skip


EVENT = np.dtype([("kind", "i8"), ("request", "i8"), ("tokens", "i8")])
"""What another pool has to know (``handover.py``)."""


class Limits(NamedTuple):
    """What the scheduler may do; numbers only. Presets are in ``schedulers.py``."""

    max_num_batched_tokens: int
    max_num_seqs: int  # requests that run in a replica
    max_batch_seqs: int  # and in one of its batches in flight
    follow: bool  # a pipeline: the next chunk of a prompt goes into the next batch
    mix: bool  # prefill and decode share an iteration
    chunked: bool  # a prompt may be cut at the token budget
    free_decodes: bool  # decoding sequences do not count against the token budget
    reserve: bool  # admit only where the whole length fits; then nothing is ever preempted
    ahead: bool  # each iteration is composed while the one before it runs
    prefix_caching: bool  # there is a ``State.cache`` to look into
    tiers: int  # KV tiers beyond the device's memory,
    own_tiers: int  # and those of them that other replicas do not share
    weigh: int  # tokens between the knots of Tiers.prefill_s; 0 = whatever is found in a tier is loaded
    swap_blocks: int  # of the swap space; 0 where preemption recomputes
    swap_group: int  # blocks copied by one call a tensor,
    swap_group_s: float  # and the seconds of that
    swap_async: bool  # copies run beside an iteration
    kv_blocks: int
    block_size: int
    max_model_len: int
    hybrid: bool  # layers of several kinds share the pool: what follows counts pages (``pages.py``)
    full_groups: int
    windowed_groups: int
    state_pages: int
    window_block: int
    window: int
    cycle: int  # iterations after which the pages that a sequence takes repeat; block_size where not hybrid
    order: int  # of the waiting list: ``order.ORDERS``
    input_weight: int  # of a prompt token in a client's counter
    output_weight: int
    max_waiting: int  # requests beyond which an arrival is rejected; 0 = any number may wait
    max_wait_s: float  # who has waited longer is rejected when its turn comes; inf = never
    longest_chunk: int  # tokens of a prompt in one iteration at most
    in_place: bool  # requests come with the KV of their prompt
    shed_late: bool  # so is who is past its deadline when its turn comes
    balance: bool  # ranks compute prompts together (``balance.py``)
    timeout_iters: int
    batching_wait_iters: int
    max_loras: int  # adapters of running requests; 0 without any
    max_cpu_loras: int  # in host memory
    prefetch_loras: bool  # fetched from their request's arrival on
    hands_over: bool = False  # what a request leaves behind goes to another pool, and stays until it is there
    receives: bool = False  # KV comes from another pool, once its blocks are reserved
    streams: bool = False  # chunks are told when they begin, so that their KV leaves layer by layer
    seat_first: bool = False  # whoever KV comes for has a seat from when its blocks are reserved on


class Order(NamedTuple):
    """What places n requests in the waiting lists; empty where they are served first come first served."""
    places: Rows  # PLACE [n]
    clients: Rows  # CLIENT [G, C], for C clients


class Cache(NamedTuple):
    """What the prompts of n requests share (``prefixes.py``), and what of it each of R replicas holds (``kvcache.py``).

    A *unit* is what is found or evicted as a whole: the KV blocks of one hash block. Equal ids are equal prefixes up to
    the unit's end. Without a prefix cache all arrays are empty.
    """

    prefixes: Rows  # PREFIX [n]
    units: Rows  # UNIT [R, U], by id
    ids: NDArray[np.int32]  # units of the prompts, one prompt after another; those of a session only once
    sizes: NDArray[np.int32]  # [U] KV blocks of a unit
    held: NDArray[np.uint8]  # by ``mark`` + place: the request holds the shared unit, it has no copy of its own


class State(NamedTuple):
    """n requests, R replicas, G = R · stages groups, M = max_batch_seqs."""

    requests: Rows  # REQUEST [n], in the order of the trace
    replicas: Rows  # REPLICA [R]
    groups: Rows  # GROUP [G]
    stage_free_s: NDArray[np.float64]  # [R, stages] when a pipeline stage is done with what it has
    begun: Rows  # CHUNK [G, M + 1] prompts that prefill, by admission, and their tokens in the iteration in flight
    finishes: Rows  # DUE [G, H] heap by finish_step; a pair is stale unless the request still ends there
    windows: Rows  # DUE [G, H] heap by window_step; stale likewise
    cohorts: Rows  # COHORT [G, M + 2] sequences whose last token came at the same instant, and their next gap
    stack: Rows  # GAP [G, D] decreasing maxima of the gaps so far
    blocks: NDArray[np.int64]  # [G, block_size] decoding sequences by (tokens − step) modulo it; hybrid: ``pages.py``
    histograms: NDArray[np.int64]  # [4, in lockstep 10 or 13, T] iterations by size: MIXED, DECODE, SAMPLED, …
    filled: NDArray[np.int64]  # [3] rows of ``itl``, ``timeline`` and ``outbox`` in use
    itl: Rows  # ITL_RUN [rows]
    timeline: Rows  # ITERATION [rows], or [0] where it is not wanted
    cache: Cache
    drafts: Rows  # DRAFT [k], by position in a step; [0] without speculative decoding
    tiers: Tiers
    order: Order
    adapters: Adapters
    outbox: Rows  # EVENT [rows], of the instant; [0] where no other pool takes part
    visuals: Visuals

    @property
    def stages(self) -> int:
        return int(self.stage_free_s.shape[1])


@kernel
def instant(now: float) -> float:
    """Seconds within which events at ``now`` are one instant: 1e-12 of the clock, at most a nanosecond."""
    return min(1e-12 * abs(now), 1e-9)


def rows(dtype: np.dtype[Any], *shape: int) -> Rows:
    """A zeroed record array whose fields are attributes, compiled or not."""
    return np.zeros(shape, dtype).view(np.recarray)


def new_drafts(acceptance: tuple[float, ...], seed: int) -> Rows:
    """The drafts of a step, by their acceptance."""
    drafts = rows(DRAFT, len(acceptance))
    drafts.acceptance, drafts.seed = acceptance, seed
    return drafts


def new_state(
    arrival_s: NDArray[np.float64], prompt: NDArray[np.int64], output: NDArray[np.int64], limits: Limits, *,
    replicas: int, stages: int, timeline: bool, cache: Cache, drafts: Rows, tiers: Tiers,
    order: Order, adapters: Adapters, visuals: Visuals, lockstep: bool = False,
) -> State:  # fmt: skip
    """An empty fleet of ``replicas`` (ranks, where they run in ``lockstep``) before the first arrival."""
    n, groups, seqs = len(arrival_s), replicas * stages, limits.max_batch_seqs
    requests, fleet, batches = np.full(n, NEW_REQUEST).view(np.recarray), rows(REPLICA, replicas), rows(GROUP, groups)
    # Clipped, a length that no context holds stays one, and the sum of two fits its type.
    requests.arrival_s, requests.prompt, requests.output = arrival_s, prompt.clip(max=LONGEST), output.clip(max=LONGEST)
    fleet.waiting_head = fleet.waiting_tail = fleet.open_head = fleet.oldest = fleet.newest = NONE
    fleet.incoming_head = fleet.incoming_tail = fleet.last_client = fleet.received_head = fleet.received_tail = NONE
    batches.end_s, batches.slow, fleet.slow = np.inf, 1.0, 1.0
    batches.youngest = NONE
    longest = limits.max_num_batched_tokens
    if not limits.chunked:
        longest = max(longest, min(limits.max_model_len, int((prompt + output).max())))
    sizes = (13 if len(drafts) > 1 else 10) if lockstep else 4
    room = min(16 * n, 5 * n + (1 << 22)) + 4 * seqs + 1024  # untouched rows cost nothing; more are made when asked
    return State(
        requests=requests, replicas=fleet, groups=batches, stage_free_s=np.full((replicas, stages), -np.inf),
        begun=rows(CHUNK, groups, seqs + 1), finishes=rows(DUE, groups, 2 * seqs + 64),
        windows=rows(DUE, groups, 2 * seqs + 64), cohorts=rows(COHORT, groups, seqs + 2), stack=rows(GAP, groups, 256),
        blocks=np.zeros((groups, limits.cycle * (2 if limits.hybrid else 1)), np.int64),
        histograms=np.zeros((sizes, longest + seqs * (len(drafts) + 1) + 2), np.int64),
        filled=np.zeros(3, np.int64),
        itl=rows(ITL_RUN, room), timeline=rows(ITERATION, room if timeline else 0), cache=cache,
        drafts=drafts, tiers=tiers, order=order, adapters=adapters, visuals=visuals,
        outbox=rows(EVENT, 2 * n + groups * (seqs + 1) if limits.hands_over or limits.receives else 0),
    )  # fmt: skip


def with_longer_records(state: State) -> State:
    """The same state with more than twice the rows for gaps and, where it is wanted, the timeline."""

    def longer(array: Rows) -> Rows:
        grown = rows(array.dtype, 2 * len(array) + 1024)
        grown[: len(array)] = array
        return grown

    timeline = longer(state.timeline) if len(state.timeline) else state.timeline
    return state._replace(itl=longer(state.itl), timeline=timeline)


def with_deeper_stack(state: State) -> State:
    """The same state with twice the depth of the stacks."""
    depth = state.stack.shape[1]
    stack = rows(GAP, len(state.groups), 2 * depth)
    stack[:, :depth] = state.stack
    return state._replace(stack=stack)
