"""What a run of the oracle leaves, and what a pool does that no other hands requests to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tests.oracle_memory import Replica, Request, Slot


@dataclass
class Run:
    requests: list[Request]
    iterations: list[tuple[float, float, int, int, int]]  # begin, end, replica, decoding sequences, prefill tokens
    tied: bool  # an arrival fell on the end of an iteration
    sizes: list[int]  # requests of every iteration
    replicas: list[Replica]
    copy_s: float


@dataclass
class Picture:
    """The images of a request: slices, tokens of each in the prompt, seconds of each alone, and those encoded."""

    slices: int
    tokens: int
    slice_s: float
    seen: int = 0


class OnePool:
    """Nothing comes from elsewhere; ``oracle_pools.py`` has pools to which it does."""

    pictures: ClassVar[dict[int, Picture]] = {}  # of requests, where replicas encode their images
    batch: ClassVar[list[float]] = []  # seconds of a batch over the sum of those of its slices

    def encode_s(self, chunks: list[tuple[Request, int]]) -> float:
        """Slices that these chunks reach for the first time are encoded before them, as one batch."""
        alone = []
        for request, chunk in chunks:
            picture = self.pictures.get(request.index)
            while picture and chunk and picture.seen < picture.slices:
                if picture.seen * picture.tokens >= request.computed + chunk:
                    break
                picture.seen += 1
                alone.append(picture.slice_s)
        return sum(alone) * self.batch[min(len(alone), len(self.batch) - 1)] if alone else 0.0

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
