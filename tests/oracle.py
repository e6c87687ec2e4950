"""The engine's semantics once more, as naively as possible: one loop turn an iteration, lists of request objects.

Nothing here is shared with ``apexsim.engine`` but the declarations of its inputs: no macro-steps, no sums kept up
to date, no heaps, no Numba. Each iteration asks every sequence for its length and every block for its owner
(``oracle_memory.py``). Slow and plain on purpose.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from apexsim.cost.kvpages import uniform
from apexsim.cost.tables import FULL, WINDOWED, StepTables
from apexsim.engine.adapters_asked import adapters_asked
from apexsim.engine.result import REJECTED_CONTEXT, REJECTED_KV, REJECTED_QUEUE
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.workload.trace import Trace
from tests.oracle_adapters import Shelf, ask_for
from tests.oracle_law import line, one_instant
from tests.oracle_memory import Replica, Request, Slot, blocks_of, prefix_of
from tests.oracle_one_pool import OnePool, Run
from tests.oracle_order import Line, demand
from tests.oracle_pages import most, pages
from tests.oracle_speculation import tokens_of_a_step
from tests.oracle_swap import SwapSpace
from tests.oracle_tiers import new_below, prefill_alone

TIED = 1e-9

class Oracle(OnePool):
    def __init__(
        self, tables: StepTables, limits: ReplicaLimits, policy: Policy, replicas: int, *, caching: bool, seed: int = 0
    ) -> None:
        self.seed = seed
        self.tables, self.limits, self.policy = tables, limits, policy
        self.pages = limits.pages or uniform(limits.block_size)
        self.each = 1 + len(policy.acceptance)  # tokens that a decoding sequence computes in a step
        stages = tables.mixed_s.shape[0]
        below = new_below(limits.tiers if caching else (), replicas)
        self.replicas = [
            Replica(
                limits.kv_blocks, limits.block_size, caching, [Slot() for _ in range(stages)], [-np.inf] * stages,
                below[r], SwapSpace(limits.swap), Line(policy), Shelf(limits.adapters),
                prefill_s=partial(prefill_alone, self) if limits.weigh_loads and limits.tiers else None,
            )
            for r in range(replicas)
        ]  # fmt: skip
        knots = tables.mixed_s.shape[1]
        dense, stride = tables.token_dense, tables.token_stride
        self.token_knots = [float(i if i <= dense else dense + (i - dense) * stride) for i in range(knots)]
        self.iterations: list[tuple[float, float, int, int, int]] = []
        self.sizes: list[int] = []
        self.copy_s = 0.0  # that stages waited for copies
        self.tied = False
        self.follows = policy.follow and stages > 1
        self.longest = policy.long_prefill_token_threshold or 1 << 62
        most = policy.max_num_seqs
        self.in_replica = most * stages if policy.seqs_of == "batch" else most
        self.in_batch = max(1, most // stages) if policy.seqs_of == "share" else most

    # --- time -------------------------------------------------------------------------------------------------

    def by_tokens(self, table: np.ndarray, tokens: int) -> float:
        return line(tokens, self.token_knots, list(table))

    def decode_attention(self, stage: int, kind: int, lengths: list[int]) -> float:
        mean = sum(lengths) / len(lengths)
        row = self.tables.decode_attention_s[stage, kind, len(lengths)]
        return line(mean, list(self.tables.context_knots), list(row))

    def prefill_attention(self, stage: int, chunk: int, past: int) -> float:
        t = self.tables
        seconds = self.by_tokens(t.prefill_s[stage, FULL], chunk)
        seconds += past * self.by_tokens(t.prefill_past_s[stage, FULL], chunk)
        if t.window:
            with_past = sum(min(past + i, t.window) for i in range(1, chunk + 1))
            without = sum(min(i, t.window) for i in range(1, chunk + 1))
            seconds += self.by_tokens(t.prefill_s[stage, WINDOWED], chunk)
            seconds += (with_past - without) / chunk * self.by_tokens(t.prefill_past_s[stage, WINDOWED], chunk)
        return seconds

    def stage_seconds(
        self, stage: int, decodes: list[Request], chunks: list[tuple[Request, int]], replica: Replica, begin: float,
        start: float,
    ) -> float:  # fmt: skip
        """``begin`` of the iteration, since when blocks are on their way to all stages; ``start`` of this stage."""
        t = self.tables
        total = len(decodes) * self.each + sum(-(-c // t.cp) for _, c in chunks)
        sampled = len(decodes) + sum(r.computed + c == r.to_prefill for r, c in chunks)
        seconds = self.by_tokens(t.mixed_s[stage], total) if chunks else float(t.decode_s[stage, len(decodes)])
        seconds += self.attention(stage, decodes, chunks)
        if stage == len(t.mixed_s) - 1:
            seconds += float(t.head_s[sampled])
        waited = replica.swap.end_of(begin, replica.below.end_of(begin, start, seconds)) - (start + seconds)
        self.copy_s += waited
        seconds += waited
        if stage == 0:
            scheduled = len(decodes) + len(chunks)
            seconds = max(seconds, float(t.host_floor_s[scheduled])) + float(t.host_serial_s[scheduled])
            seconds += replica.shelf.wait(begin) + self.encode_s(chunks)
        return seconds

    def attention(self, stage: int, decodes: list[Request], chunks: list[tuple[Request, int]]) -> float:
        window, seconds = self.tables.window, 0.0
        if decodes:
            lengths = [r.computed + 1 for r in decodes]
            seconds += self.decode_attention(stage, FULL, lengths)
            if window:
                seconds += self.decode_attention(stage, WINDOWED, [min(n, window) for n in lengths])
        return seconds + sum(self.prefill_attention(stage, c, r.computed) for r, c in chunks)

    # --- blocks -----------------------------------------------------------------------------------------------

    def blocks_for(self, seen_by: int, tokens: int) -> int:
        return len(pages(self.pages, seen_by, tokens))

    def most_blocks(self, tokens: int) -> int:
        return most(self.pages, tokens, self.policy.max_num_batched_tokens if self.policy.chunked else tokens)

    def let_go(self, request: Request) -> None:
        """What the next token does not see; blocks that were taken for drafts stay."""
        drafts_only = self.each > 1 and self.pages == uniform(self.limits.block_size)
        if not self.policy.reserve and not drafts_only:
            request.blocks = self.blocks_for(request.computed, request.computed)

    def grow(self, replica: Replica, slot: Slot, request: Request, tokens: int) -> bool:
        """Blocks for ``tokens`` tokens, at the cost of the youngest or least urgent; False where that is itself."""
        blocks = request.blocks if self.policy.reserve else self.blocks_for(request.computed, tokens)
        blocks = min(blocks, replica.kv_blocks)  # drafts may need more than it will ever hold
        while blocks - request.blocks > replica.free:
            victim = replica.line.victim(slot.running)
            slot.running.remove(victim)
            replica.give_back(victim)
            replica.swap.take(victim, self.limits.block_size)
            victim.computed = 0
            victim.decoding = False
            victim.preemptions += 1
            replica.line.join(victim, again=True)
            self.preempted = True
            replica.full = len(replica.slots) > 1
            if victim in slot.decodes:
                slot.decodes.remove(victim)
            slot.chunks = [(r, c) for r, c in slot.chunks if r is not victim]
            if victim is request:
                return False
        request.blocks = blocks
        replica.make_room()
        return True

    # --- scheduling -------------------------------------------------------------------------------------------

    def schedule_decodes(self, replica: Replica, slot: Slot) -> None:
        slot.decodes = []
        for request in slot.running:
            if request.decoding:
                self.let_go(request)
        for request in list(slot.running):
            alive = request.decoding and request in slot.running
            if alive and self.grow(replica, slot, request, request.computed + self.each):
                slot.decodes.append(request)

    def schedule_chunks(self, replica: Replica, slot: Slot, budget: int, now: float) -> None:
        policy = self.policy
        for request in list(slot.running):
            if request in slot.running and not request.decoding and budget > 0:
                chunk = min(request.to_prefill - request.computed, budget, self.longest)
                self.let_go(request)
                if self.grow(replica, slot, request, request.computed + chunk):
                    slot.chunks.append((request, chunk))
                    budget -= chunk
        ahead = policy.ahead and len(replica.slots) == 1 and bool(slot.running)
        seen = slot.seen + one_instant(slot.seen) if ahead else np.inf
        replica.line.see(seen)
        shut = (self.preempted or replica.full) and not self.all_away(replica)
        budget = budget if shut else self.join_received(replica, slot, budget, seen, now)
        while not shut and replica.line.waiting and budget > 0:
            request, running = replica.next(), replica.running
            if request is None or len(running) >= self.in_replica or len(slot.running) >= self.in_batch:
                break
            self.tied |= abs(now - replica.line.last_start(request)) <= TIED * max(1.0, now)
            if replica.line.shed(request, now):
                continue
            if self.comes_from_elsewhere(request):
                if not self.reserve(replica, request, now):
                    break
                continue
            in_place = self.policy.role == "decode" and request.preemptions == 0
            units, found = ([], request.prompt - 1) if in_place else replica.hit(request)
            rest = request.to_prefill - found
            chunk = min(rest, budget, self.longest) if policy.chunked else rest
            first = not any(not r.decoding for r in slot.running)
            whole = self.most_blocks(request.prompt + request.output - 1 + len(policy.acceptance))
            blocks = min(whole, self.limits.kv_blocks) if policy.reserve else self.blocks_for(found, found + chunk)
            held = blocks_of([unit for unit in units if unit in replica.held])
            need = blocks - held + replica.shelf.missing(request, running)
            if (chunk > budget and not first) or need > replica.free:
                break
            replica.shelf.begin(request, running, now)
            replica.admit(slot, request, units, found, blocks)
            request.hit = 0 if in_place else request.hit
            request.start = now if request.start is None else request.start
            slot.chunks.append((request, chunk))
            budget -= chunk

    def compose(self, r: int, slot: Slot, now: float) -> None:
        """Who is in the next iteration of a slot."""
        replica, policy = self.replicas[r], self.policy
        slot.ready = False
        slot.decodes, slot.chunks, self.preempted = [], [], False
        while self.follows and replica.open and len(slot.running) < self.in_batch:
            slot.running.append(replica.open.pop(0))
        if policy.mix:
            self.schedule_decodes(replica, slot)
        budget = policy.max_num_batched_tokens
        if policy.mix and not policy.free_decodes:
            budget -= len(slot.decodes) * self.each
        self.schedule_chunks(replica, slot, budget, now)
        if not policy.mix and not slot.chunks:
            self.schedule_decodes(replica, slot)

    def schedule(self, r: int, s: int, now: float) -> None:
        slot = self.replicas[r].slots[s]
        self.compose(r, slot, now)
        if slot.decodes or slot.chunks:
            self.launch(r, slot, now)

    def launch(self, r: int, slot: Slot, now: float) -> None:
        replica, t = self.replicas[r], self.tables
        stages = len(t.mixed_s)
        chunks = sum(c for _, c in slot.chunks)
        total = len(slot.decodes) * self.each + sum(-(-c // t.cp) for _, c in slot.chunks)
        end = now
        for p in range(stages):
            end = max(end, replica.stage_free[p])
            end += replica.slow * self.stage_seconds(p, slot.decodes, slot.chunks, replica, now, end)
            replica.stage_free[p] = end
            if p < stages - 1:
                row = np.atleast_2d(t.transfer_s)[p if t.transfer_s.ndim > 1 else 0]
                end += replica.slow * self.by_tokens(row, total)
        replica.below.loading = [[] for _ in replica.below.tiers]
        replica.swap.due = []
        slot.begin, slot.end = now, end
        self.iterations.append((now, end, r, len(slot.decodes), chunks))
        self.sizes.append(len(slot.decodes) + len(slot.chunks))
        if self.follows:
            self.pass_on(replica, slot)

    def pass_on(self, replica: Replica, slot: Slot) -> None:
        """What is in flight counts as computed; a prompt that has tokens left is for whoever is scheduled next."""
        for request, chunk in slot.chunks:
            request.computed += chunk
            replica.settle(request)
        begun = [r for r in slot.running if not r.decoding and r.computed < r.to_prefill]
        slot.running = [r for r in slot.running if r not in begun]
        slot.chunks = [(r, 0) for r, _ in slot.chunks if r not in begun]
        replica.open = begun + replica.open
        if replica.open:
            self.wake(replica)

    def complete(self, replica: Replica, slot: Slot) -> None:
        now = slot.end
        assert now is not None
        slot.end, slot.ready, slot.seen = None, True, slot.begin
        for request in slot.decodes:
            for _ in range(tokens_of_a_step(self.seed, request, self.policy.acceptance)):
                request.computed += 1
                self.hand_out(replica, slot, request, now)
        for request, chunk in slot.chunks:
            request.computed += chunk
            replica.settle(request)
            if request.computed == request.to_prefill:
                request.decoding = True
                if not self.policy.reserve:  # what the last chunk saw goes at once
                    request.blocks = self.blocks_for(request.computed - 1, request.computed)
                self.hand_out(replica, slot, request, now)
        if replica.line or replica.open:
            self.wake(replica)

    def hand_out(self, replica: Replica, slot: Slot, request: Request, now: float) -> None:
        """A token; a request that has its last one leaves."""
        request.tokens.append(now)
        replica.line.serve(request)
        if request.done:
            slot.running.remove(request)
            replica.give_back(request)
            replica.full = False

    def wake(self, replica: Replica) -> None:
        for slot in replica.slots:
            if slot.end is None:
                slot.ready = True

    # --- arrivals ---------------------------------------------------------------------------------------------

    def offer(self, r: int, request: Request) -> None:
        request.replica = r
        total, line = request.prompt + request.output, self.replicas[r].line
        if total > self.limits.max_model_len:
            request.reason = REJECTED_CONTEXT
        elif self.most_blocks(total - 1) + self.replicas[r].shelf.missing(request, []) > self.limits.kv_blocks:
            request.reason = REJECTED_KV
        elif 0 < self.policy.max_waiting <= len(line):
            request.reason = REJECTED_QUEUE
        request.rejected = request.reason != 0
        if request.rejected:
            return
        line.incoming.append(request)
        self.wake(self.replicas[r])

    def choose(self, candidates: list[int], load: str, request: Request) -> int:
        unfinished = {r: self.replicas[r].unfinished for r in candidates}
        if load in ("prefix", "lora"):
            fewest = min(len(found) for found in unfinished.values())
            candidates = [r for r in candidates if len(unfinished[r]) <= 8 + 1.5 * fewest]

        def weight(r: int) -> tuple[int, ...]:
            requests, tokens = len(unfinished[r]), sum(q.prompt for q in unfinished[r])
            prefix = -self.replicas[r].cached_prefix(request)
            lora = 1 - self.replicas[r].has_adapter(request), requests
            return {
                "place": (0,), "requests": (requests,), "tokens": (tokens,), "prefix": (prefix, requests), "lora": lora,
            }[load]  # fmt: skip

        return min(candidates, key=lambda r: (weight(r), candidates.index(r)))

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(
        self, requests: list[Request], candidates: list[list[int]], load: str,
        concurrency: int | None = None, delay: float = 0.0,
    ) -> Run:  # fmt: skip
        offered = [] if concurrency else list(requests)
        later = list(requests) if concurrency else []
        first = requests[0].arrival
        while concurrency and later and len(offered) < concurrency:
            offered.append(later.pop(0))
            offered[-1].arrival = first
        ended: set[int] = set()
        slots = [(replica, slot) for replica in self.replicas for slot in replica.slots]

        def release(now: float) -> None:
            for q in requests:
                if q.done and q.index not in ended:
                    ended.add(q.index)
                    if later:
                        offered.append(later.pop(0))
                        offered[-1].arrival = now + delay

        while True:
            ends = [slot.end for _, slot in slots if slot.end is not None]
            instants = ends + [q.arrival for q in offered[:1]]
            if not instants:
                break
            now = min(instants)
            if offered and not (concurrency and delay == 0.0):
                gaps = [abs(offered[0].arrival - end) for end in ends]
                self.tied |= any(gap <= TIED * max(1.0, now) for gap in gaps)
            if any(law.shared for law in self.limits.tiers):  # what ends first decides who finds what
                self.tied |= any(one_instant(now) < end - now <= TIED * max(1.0, now) for end in ends)
            for replica, slot in slots:
                if slot.end is not None and slot.end <= now + one_instant(now):
                    self.complete(replica, slot)
            while True:
                release(now)
                if not offered or offered[0].arrival > now + one_instant(now):
                    break
                q = offered.pop(0)
                self.offer(self.choose(candidates[q.index % len(candidates)], load, q), q)
            for r, replica in enumerate(self.replicas):
                while any(slot.ready for slot in replica.slots):
                    self.schedule(r, [slot.ready for slot in replica.slots].index(True), now)
            release(now)  # in place of those that were turned away
        return Run(requests, self.iterations, self.tied, self.sizes, self.replicas, self.copy_s)


def simulate(
    trace: Trace, tables: StepTables, limits: ReplicaLimits, policy: Policy, *,
    replicas: int = 1, candidates: np.ndarray, load: str, concurrency: int | None = None,
    seed: int = 0, of: type[Oracle] = Oracle,
) -> Run:  # fmt: skip
    """Serve the trace; times are the engine's own: arrivals are there (entry is added here), tokens before the exit."""
    requests = []
    hashes = trace.hash_ids is not None and len(trace.hash_ids) > 0
    asked = adapters_asked(trace, limits.adapters, seed)
    caching = policy.prefix_caching and (hashes or trace.shared_prefix_tokens is not None)
    for i in range(len(trace)):
        arrival = limits.entry_s if concurrency else float(trace.arrival_s[i]) + limits.entry_s
        request = Request(i, arrival, int(trace.input_tokens[i]), int(trace.output_tokens[i]))
        demand(request, trace, policy, limits.entry_s + limits.exit_s)
        if caching:
            request.units, request.declared = prefix_of(trace, i, limits.block_size)
        if len(asked):
            ask_for(request, int(asked[i]))
        requests.append(request)
    oracle = of(tables, limits, policy, replicas, caching=caching, seed=seed)
    return oracle.run(requests, candidates.astype(int).tolist(), load, concurrency, limits.entry_s + limits.exit_s)
