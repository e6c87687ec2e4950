"""The swap space of a replica, as naively as possible: who is in it, and the copies of the next iteration."""

from __future__ import annotations

from dataclasses import dataclass, field

from apexsim.cost.swap import SwapLaw
from tests.oracle_memory import Request


@dataclass(eq=False)
class SwapSpace:
    law: SwapLaw | None
    inside: dict[int, int] = field(default_factory=dict)  # request -> its KV blocks
    due: list[int] = field(default_factory=list)  # blocks of each copy that the next iteration makes
    swaps: int = 0
    copied: int = 0

    def take(self, request: Request, block_size: int) -> None:
        """What a preempted request has computed is kept where there is room."""
        blocks = -(-request.computed // block_size)
        if self.law is None or blocks == 0 or sum(self.inside.values()) + blocks > self.law.blocks:
            return
        request.saved = request.computed
        self.inside[request.index] = blocks
        self.swaps += 1
        self.copy(blocks)

    def give_back(self, request: int, on_device: int) -> None:
        self.copy(max(0, self.inside.pop(request) - on_device))

    def copy(self, blocks: int) -> None:
        self.due.append(blocks)
        self.copied += blocks

    def end_of(self, begin: float, end: float) -> float:
        """When a stage is done that would be at ``end``, in an iteration that began at ``begin``."""
        if self.law is None or not self.due:
            return end
        seconds = 0.0
        for blocks in self.due:
            while blocks > 0:
                blocks -= self.law.group_blocks
                seconds += self.law.group_s
        return max(end, begin + seconds) if self.law.asynchronous else end + seconds
