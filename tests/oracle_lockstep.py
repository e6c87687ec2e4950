"""Ranks in lockstep once more, as naively as possible: every iteration by itself, of all ranks of a group."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracle import Oracle, line
from tests.oracle_law import one_instant
from tests.oracle_memory import Replica, Slot, blocks_of


class LockstepOracle(Oracle):
    """The oracle whose replicas are ranks; ``tables.group.ranks`` neighbours run each iteration together."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.without_prompts = [0] * len(self.replicas)  # iterations, by the first rank of a group
        self.with_prompts = [0] * len(self.replicas)
        self.held = False

    def group_of(self, r: int) -> range:
        ranks = self.tables.group.ranks
        return range(r // ranks * ranks, (r // ranks + 1) * ranks)

    def wake(self, replica: Replica) -> None:
        for r in self.group_of(self.replicas.index(replica)):
            slot = self.replicas[r].slots[0]
            if slot.end is None:
                slot.ready = True

    def schedule(self, r: int, s: int, now: float) -> None:
        assert r == self.group_of(r)[0], "the first rank schedules for all of its group"
        slots = [self.replicas[member].slots[0] for member in self.group_of(r)]
        self.held = self.policy.balance and self.hold_prompts(r)
        for member, slot in zip(self.group_of(r), slots, strict=True):
            assert slot.end is None
            self.compose(member, slot, now)
        if not any(slot.decodes or slot.chunks for slot in slots):
            return
        end = now + self.group_seconds(r)
        for member, slot in zip(self.group_of(r), slots, strict=True):
            self.replicas[member].below.loading = [[] for _ in self.replicas[member].below.tiers]
            self.replicas[member].swap.due = []
            slot.begin, slot.end = now, end
            prefill = sum(c for _, c in slot.chunks)
            self.iterations.append((now, end, member, len(slot.decodes), prefill))

    def schedule_chunks(self, replica: Replica, slot: Slot, budget: int, now: float) -> None:
        if not self.held:
            super().schedule_chunks(replica, slot, budget, now)

    def has_prompt(self, replica: Replica) -> bool:
        """Whether the rank could compute a chunk, before its decodes take their blocks."""
        slot, policy = replica.slots[0], self.policy
        decodes = sum(q.decoding for q in slot.running)
        budget = policy.max_num_batched_tokens - (0 if policy.free_decodes else decodes * self.each)
        ahead = policy.ahead and bool(slot.running)
        replica.line.see(slot.seen + one_instant(slot.seen) if ahead else np.inf)
        if budget <= 0 or decodes < len(slot.running):
            return budget > 0
        if not replica.line.waiting or len(slot.running) >= policy.max_num_seqs:
            return False
        request = replica.next()
        assert request is not None
        units, found = replica.hit(request)
        rest = request.to_prefill - found
        chunk = min(rest, budget, self.longest) if policy.chunked else rest
        whole = self.most_blocks(request.prompt + request.output - 1 + len(policy.acceptance))
        blocks = min(whole, self.limits.kv_blocks) if policy.reserve else self.blocks_for(found, found + chunk)
        return blocks - blocks_of([unit for unit in units if unit in replica.held]) <= replica.free

    def hold_prompts(self, r: int) -> bool:
        """TensorRT-LLM's rule, an iteration at a time."""
        policy, ranks = self.policy, [self.replicas[member] for member in self.group_of(r)]
        decodes = [sum(q.decoding for q in rank.slots[0].running) for rank in ranks]
        prompts = [self.has_prompt(rank) for rank in ranks]
        if all(prompts) and max(decodes) < policy.max_num_seqs:
            self.without_prompts[r] = 0
            if min(decodes) == 0:
                return False
            self.with_prompts[r] += 1
            if self.with_prompts[r] <= policy.batching_wait_iters:
                return True
            self.with_prompts[r] = 0
            return False
        self.without_prompts[r] += 1
        if self.without_prompts[r] >= policy.timeout_iters or min(decodes) == 0:
            self.without_prompts[r] = 0
            return False
        return True

    def group_seconds(self, r: int) -> float:
        t, group = self.tables, self.tables.group
        slots = [self.replicas[member].slots[0] for member in self.group_of(r)]
        mixed = any(slot.chunks for slot in slots)
        tokens = [len(slot.decodes) * self.each + sum(c for _, c in slot.chunks) or self.each for slot in slots]
        if not mixed:  # tables are by sequences
            tokens = [count // self.each for count in tokens]
        if max(tokens) <= (group.padded_mixed if mixed else group.padded_decode):
            tokens = [max(tokens)] * group.ranks
        own = []
        for slot, count in zip(slots, tokens, strict=True):
            seconds = self.by_tokens(t.mixed_s[0], count) if mixed else float(t.decode_s[0, count])
            own.append(seconds + self.attention(0, slot.decodes, slot.chunks) + float(t.head_s[sampled_of(slot)]))
        mean = sum(tokens) / group.ranks
        if mixed:
            together = self.by_tokens(group.exchange_mixed_s, max(tokens))
            together += line(mean, self.token_knots, list(group.experts_mixed_s))
        else:
            together = float(group.exchange_decode_s[max(tokens)])
            counts = [float(n) for n in range(len(group.experts_decode_s))]
            together += line(mean, counts, list(group.experts_decode_s))
        if self.each > 2:
            together += self.later_passes(slots)
        scheduled = max(len(slot.decodes) + len(slot.chunks) for slot in slots)
        for place, member in enumerate(self.group_of(r)):  # copies last as long beside what all run together
            replica, seconds = self.replicas[member], own[place] + together
            waited = replica.swap.end_of(0.0, replica.below.end_of(0.0, 0.0, seconds)) - seconds
            self.copy_s += waited
            own[place] += waited
        device = max(own) + together
        return max(device, float(t.host_floor_s[scheduled])) + float(t.host_serial_s[scheduled])

    def later_passes(self, slots: list[Slot]) -> float:
        """Passes 2 to k of a drafting layer: of every sequence that yields a token, one at least on each rank."""
        group, sampled = self.tables.group, [sampled_of(slot) for slot in slots]
        if max(sampled) == 0 or len(group.exchange_drafts_s) == 0:
            return 0.0
        counts = [float(n) for n in range(len(group.experts_drafts_s))]
        mean = sum(max(1, n) for n in sampled) / group.ranks
        return float(group.exchange_drafts_s[max(sampled)]) + line(mean, counts, list(group.experts_drafts_s))


def sampled_of(slot: Slot) -> int:
    """Sequences of a rank that yield a token."""
    return len(slot.decodes) + sum(q.computed + c == q.to_prefill for q, c in slot.chunks)
