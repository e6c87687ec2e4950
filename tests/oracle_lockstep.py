"""Ranks in lockstep once more, as naively as possible: every iteration by itself, of all ranks of a group."""

from __future__ import annotations

from tests.oracle import Oracle, line
from tests.oracle_memory import Replica


class LockstepOracle(Oracle):
    """The oracle whose replicas are ranks; ``tables.group.ranks`` neighbours run each iteration together."""

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
        for member, slot in zip(self.group_of(r), slots, strict=True):
            assert slot.end is None
            self.compose(member, slot, now)
        if not any(slot.decodes or slot.chunks for slot in slots):
            return
        end = now + self.group_seconds(r)
        for member, slot in zip(self.group_of(r), slots, strict=True):
            slot.begin, slot.end = now, end
            prefill = sum(c for _, c in slot.chunks)
            self.iterations.append((now, end, member, len(slot.decodes), prefill))

    def group_seconds(self, r: int) -> float:
        t, group = self.tables, self.tables.group
        slots = [self.replicas[member].slots[0] for member in self.group_of(r)]
        mixed = any(slot.chunks for slot in slots)
        tokens = [max(1, len(slot.decodes) + sum(c for _, c in slot.chunks)) for slot in slots]
        if max(tokens) <= (group.padded_mixed if mixed else group.padded_decode):
            tokens = [max(tokens)] * group.ranks
        own = []
        for slot, count in zip(slots, tokens, strict=True):
            seconds = self.by_tokens(t.mixed_s[0], count) if mixed else float(t.decode_s[0, count])
            sampled = len(slot.decodes) + sum(q.computed + c == q.to_prefill for q, c in slot.chunks)
            own.append(seconds + self.attention(0, slot.decodes, slot.chunks) + float(t.head_s[sampled]))
        mean = sum(tokens) / group.ranks
        if mixed:
            together = self.by_tokens(group.exchange_mixed_s, max(tokens))
            together += line(mean, self.token_knots, list(group.experts_mixed_s))
        else:
            together = float(group.exchange_decode_s[max(tokens)])
            counts = [float(n) for n in range(len(group.experts_decode_s))]
            together += line(mean, counts, list(group.experts_decode_s))
        scheduled = max(len(slot.decodes) + len(slot.chunks) for slot in slots)
        device = max(own) + together
        return max(device, float(t.host_floor_s[scheduled])) + float(t.host_serial_s[scheduled])
