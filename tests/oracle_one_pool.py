"""What a run of the oracle leaves, and what a pool does that no other hands requests to."""

from __future__ import annotations

from dataclasses import dataclass

from tests.oracle_memory import Replica, Request, Slot


@dataclass
class Run:
    requests: list[Request]
    iterations: list[tuple[float, float, int, int, int]]  # begin, end, replica, decoding sequences, prefill tokens
    tied: bool  # an arrival fell on the end of an iteration
    sizes: list[int]  # requests of every iteration
    replicas: list[Replica]
    copy_s: float


class OnePool:
    """Nothing comes from elsewhere; ``oracle_pools.py`` has pools to which it does."""

    def join_received(self, replica: Replica, slot: Slot, budget: int, seen: float, now: float) -> int:
        """Those whose KV has come join before all that wait; returns the budget left."""
        return budget

    def comes_from_elsewhere(self, request: Request) -> bool:
        return False

    def all_away(self, replica: Replica) -> bool:
        """Nobody runs, though others have blocks here."""
        return False

    def reserve(self, replica: Replica, request: Request, now: float) -> bool:
        """Blocks for KV that is to come; False where there are too few."""
        return False
