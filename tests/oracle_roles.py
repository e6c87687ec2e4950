"""Pools that prefill and pools that decode, as naively as possible."""

from __future__ import annotations

from typing import Any

from tests.oracle import Oracle
from tests.oracle_lockstep import LockstepOracle
from tests.oracle_memory import Replica, Request, Slot


class Prefilling(Oracle):
    """A pool whose requests end with their first token, and leave their blocks behind."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.left: list[Request] = []
        self.begun: list[tuple[Request, int]] = []

    def hand_out(self, replica: Replica, slot: Slot, request: Request, now: float) -> None:
        request.tokens.append(now)
        replica.line.serve(request)
        slot.running.remove(request)
        replica.away.append(request)
        replica.full = False
        self.left.append(request)

    def compose(self, r: int, slot: Slot, now: float) -> None:
        super().compose(r, slot, now)
        self.begun += [(request, chunk) for request, chunk in slot.chunks if chunk]

    def let_go_of(self, request: Request) -> None:
        replica = self.replicas[request.replica]
        replica.away.remove(request)
        replica.give_back(request)
        replica.full = False
        self.wake(replica)


class Decoding(Oracle):
    """A pool whose requests come with their KV, once it has blocks for it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.taken: list[Request] = []
        self.lost = False  # somebody was preempted
        self.landed: dict[int, float] = {}
        self.received: dict[int, list[Request]] = {r: [] for r in range(len(self.replicas))}

    def comes_from_elsewhere(self, request: Request) -> bool:
        return request.preemptions == 0

    def blocks_to_receive(self, request: Request) -> int:
        if self.policy.reserve:
            whole = self.most_blocks(request.prompt + request.output - 1 + len(self.policy.acceptance))
            return min(whole, self.limits.kv_blocks)
        prompt = request.prompt
        if not self.policy.mix:
            return self.blocks_for(prompt - 1, prompt)
        return min(self.blocks_for(prompt, prompt + self.each), self.limits.kv_blocks)

    def reserve(self, replica: Replica, request: Request, now: float) -> bool:
        blocks = self.blocks_to_receive(request)
        seats = len(replica.running) + len(replica.away) if self.policy.seat_first else 0
        if blocks > replica.free or seats >= self.in_replica:
            return False
        replica.line.begin(request)
        request.blocks = blocks
        replica.away.append(request)
        self.taken.append(request)
        return True

    def receive(self, request: Request, token: float, now: float) -> None:
        request.tokens.append(token)
        self.landed[request.index] = now
        self.received[request.replica].append(request)
        self.wake(self.replicas[request.replica])

    def join_received(self, replica: Replica, slot: Slot, budget: int, seen: float, now: float) -> int:
        received = self.received[self.replicas.index(replica)]
        each = self.each if self.policy.mix and not self.policy.free_decodes else 0
        while received and budget >= max(each, 1):
            request = received[0]
            if len(replica.running) >= self.in_replica or len(slot.running) >= self.in_batch:
                break
            if self.landed[request.index] > seen:
                break
            received.pop(0)
            replica.away.remove(request)
            slot.running.append(request)
            request.decoding, request.computed, request.start = True, request.prompt, now
            if self.policy.mix:
                slot.decodes.append(request)
            budget -= each
        return budget

    def all_away(self, replica: Replica) -> bool:
        """Nobody runs, so that a preemption keeps nobody out."""
        return not replica.running

    def compose(self, r: int, slot: Slot, now: float) -> None:
        super().compose(r, slot, now)
        self.lost |= self.preempted

    def schedule(self, r: int, s: int, now: float) -> None:
        self.lost = False
        super().schedule(r, s, now)
        replica = self.replicas[r]
        if self.lost and replica.slots[s].end is None and not replica.running:
            replica.slots[s].ready = True


class LockstepPrefilling(Prefilling, LockstepOracle):
    pass


class LockstepDecoding(Decoding, LockstepOracle):
    def schedule(self, r: int, s: int, now: float) -> None:
        super().schedule(r, s, now)
        if self.replicas[r].slots[0].ready:
            self.wake(self.replicas[r])
