"""Who holds which KV blocks, as naively as possible: the oracle's requests, batches and replicas.

Every block is asked for its owner anew: nothing is summed up, and what is cached is a list of names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apexsim.workload.trace import Trace
from tests.oracle_order import Line

if TYPE_CHECKING:
    from tests.oracle_adapters import Shelf
    from tests.oracle_swap import SwapSpace
    from tests.oracle_tiers import Below

Unit = tuple[tuple[object, ...], int]
"""What a prefix cache keeps or drops as a whole: a name, and its KV blocks."""

LOST: Unit = (("a full block that no prompt of the trace can find",), 1)


@dataclass(eq=False)
class Request:
    index: int
    arrival: float
    prompt: int
    output: int
    tokens: list[float] = field(default_factory=list)  # when each output token came
    start: float | None = None
    computed: int = 0  # tokens in the KV cache
    blocks: int = 0
    decoding: bool = False
    preemptions: int = 0
    rejected: bool = False
    reason: int = 0
    replica: int = -1
    units: list[Unit] = field(default_factory=list)  # of the prompt, from its beginning, that others may share
    declared: int | None = None  # tokens that count as computed, wherever the request runs
    settled: int = 0  # leading units that are computed
    held: list[Unit] = field(default_factory=list)  # those of them of which it has no copy of its own
    hit: int | None = None  # tokens that the first admission found
    priority: int = 0
    client: int = 0
    deadline: float = float("inf")  # seconds from the arrival in the engine
    saved: int = 0  # tokens in the swap space
    adapter: int = -1  # of those that it could ask for; -1: the base model

    @property
    def done(self) -> bool:
        return self.rejected or len(self.tokens) == self.output

    @property
    def to_prefill(self) -> int:
        return self.prompt + len(self.tokens)


@dataclass(eq=False)
class Slot:
    """One batch in flight of a replica."""

    running: list[Request] = field(default_factory=list)  # by time of admission
    end: float | None = None
    ready: bool = False
    begin: float = 0.0
    seen: float = 0.0  # who arrived later is not known to the next iteration, where it is composed ahead
    decodes: list[Request] = field(default_factory=list)
    chunks: list[tuple[Request, int]] = field(default_factory=list)


@dataclass(eq=False)
class Replica:
    kv_blocks: int
    block_size: int
    caching: bool
    slots: list[Slot]
    stage_free: list[float]
    below: Below
    swap: SwapSpace
    line: Line
    shelf: Shelf
    open: list[Request] = field(default_factory=list)  # prompts of a pipeline that no slot holds, by admission
    away: list[Request] = field(default_factory=list)  # hold blocks here without running: on their way to or from
    slow: float = 1.0  # factor on its iterations
    full: bool = False  # a pipeline that has preempted admits nobody until a request ends
    cached: list[Unit] = field(default_factory=list)  # held by nobody, the next to be evicted first
    evicted: list[Unit] = field(default_factory=list)
    prefill_s: Callable[[int], float] | None = None  # of the first tokens of a prompt, where loads are weighed

    @property
    def running(self) -> list[Request]:
        return [r for slot in self.slots for r in slot.running] + self.open

    @property
    def unfinished(self) -> list[Request]:
        return self.line.waiting + self.line.incoming + self.running

    @property
    def held(self) -> list[Unit]:
        """Units of running requests, each once."""
        return list(dict.fromkeys(unit for r in self.running + self.away for unit in r.held))

    @property
    def used(self) -> int:
        """KV blocks of running requests: their own, and those they share, once; and of their adapters."""
        adapters = self.shelf.blocks({r.adapter for r in self.running} - {-1})
        own = sum(r.blocks - blocks_of(r.held) for r in self.running + self.away)
        return own + blocks_of(self.held) + adapters

    @property
    def free(self) -> int:
        """Blocks that may be allocated: those that no running request holds, cached or not."""
        return self.kv_blocks - self.used

    def make_room(self) -> None:
        """What is cached gives way to what is used, the least recently released first."""
        while self.used + blocks_of(self.cached) > self.kv_blocks:
            self.evicted.append(self.cached.pop(0))

    def give_back(self, request: Request) -> None:
        """A request has left its slot: full blocks that nobody else holds stay as cached, its tail first to go."""
        self.shelf.leave(request, self.running)
        still = self.held
        if request.declared is None:
            self.below.use(request.units[: request.settled])
        if self.caching:
            self.cached += [LOST] * (request.computed // self.block_size - blocks_of(request.held))
        self.cached += [unit for unit in reversed(request.held) if unit not in still]
        request.blocks = request.settled = 0
        request.held = []

    def find(self, request: Request, most: int, *, declared: bool, shared: bool = True) -> list[Unit]:
        """The leading units that end by token ``most`` and are in the cache or below it, or are said to be."""
        tiers = [tier for tier in self.below.tiers if (shared or not tier.law.shared) and request.declared is None]
        if request.saved:
            tiers = []
        there = self.cached + self.held + [unit for tier in tiers for unit in tier.kept]
        found: list[Unit] = []
        for unit in request.units:
            if blocks_of([*found, unit]) * self.block_size > most or not (declared or unit in there):
                break
            found.append(unit)
        return found

    def hit(self, request: Request) -> tuple[list[Unit], int]:
        """Units that an admission takes over, and tokens that it need not compute; the last one it always does."""
        if request.saved:
            most = request.saved if request.declared is None else request.declared
            return self.find(request, most, declared=request.declared is not None), request.saved
        if request.declared is None:
            units = self.find(request, request.to_prefill - 1, declared=False)
            here = [unit for k, unit in enumerate(units) if all(u in self.cached + self.held for u in units[: k + 1])]
            ends = [blocks_of(some) * self.block_size for some in (here, units)]
            if self.prefill_s is not None and self.below.load_s(
                [unit for unit in units if unit not in self.cached + self.held]
            ) > self.prefill_s(ends[1]) - self.prefill_s(ends[0]):
                units = here
            return units, blocks_of(units) * self.block_size
        return self.find(request, request.declared, declared=True), request.declared

    def cached_prefix(self, request: Request) -> int:
        """Tokens of the prompt that no other replica has in this way; what a router looks at."""
        most = request.prompt - 1 if request.declared is None else request.declared
        return blocks_of(self.find(request, most, declared=False, shared=False)) * self.block_size

    def next(self) -> Request | None:
        """Whose turn it is of those that wait."""
        running = self.running
        return self.line.next(lambda request: self.shelf.may_run(request, running))

    def has_adapter(self, request: Request) -> bool:
        """On the device, or asked for by somebody who waits and has not run yet; the base model is everywhere."""
        waiting = self.line.waiting + self.line.incoming
        asked = {other.adapter for other in waiting if other.preemptions == 0}
        return self.shelf.law is not None and request.adapter in {-1, *asked, *self.shelf.device}

    def admit(self, slot: Slot, request: Request, units: list[Unit], found: int, blocks: int) -> None:
        """A request that waits begins to run, with ``found`` tokens computed, in ``blocks`` KV blocks."""
        self.line.begin(request)
        for unit in units:
            if request.declared is None and unit not in self.cached + self.held:
                self.below.load(unit, first_admission=request.hit is None)
        slot.running.append(request)
        request.held, request.settled = list(units), len(units)
        self.cached = [unit for unit in self.cached if unit not in units]
        request.blocks, request.computed = blocks, found
        request.hit = found if request.hit is None else request.hit
        self.make_room()
        if request.saved:
            self.swap.give_back(request.index, blocks_of(units))
            request.saved = 0
            self.settle(request)

    def settle(self, request: Request) -> None:
        """Units that are computed now are there for others, unless somebody else's copy is."""
        new: list[Unit] = []
        for unit in request.units[request.settled :]:
            if blocks_of(request.units[: request.settled + 1]) * self.block_size > request.computed:
                break
            request.settled += 1
            new.append(unit)
            if unit not in self.cached + self.held:
                request.held.append(unit)
        if request.declared is None:
            self.below.use(new)


def blocks_of(units: list[Unit]) -> int:
    return sum(blocks for _, blocks in units)


def prefix_of(trace: Trace, i: int, block_size: int) -> tuple[list[Unit], int | None]:
    """The units of prompt i, and the tokens that it declares as computed (None: what is in the cache decides)."""
    prompt = int(trace.input_tokens[i])
    hashes: list[int] = []
    if trace.hash_ids is not None and trace.hash_offsets is not None:
        hashes = [int(h) for h in trace.hash_ids[trace.hash_offsets[i] : trace.hash_offsets[i + 1]]]
    units: list[Unit] = []
    begin = 0
    for k, name in enumerate(hashes):
        end = min((k + 1) * trace.hash_block_tokens, prompt)
        blocks = (end - begin) // block_size
        if end % block_size == 0 or k == len(hashes) - 1:
            units += [(("hash", name, blocks), blocks)] if blocks else []
            begin = end
    if hashes or trace.shared_prefix_tokens is None:
        return units, None
    declared = min(int(trace.shared_prefix_tokens[i]), prompt - 1) // block_size * block_size
    if trace.session is not None and trace.session[i] >= 0:
        units = [(("session", int(trace.session[i]), k), 1) for k in range(prompt // block_size)]
    return units, declared
