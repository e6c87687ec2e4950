"""Transfers over shared links, as naively as possible: rates rise together until a link is full."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Flow:
    index: int
    path: tuple[int, ...]
    latency: float
    left: float = 0.0
    closed: bool = False
    rate: float = 0.0
    lands: float | None = None
    sent: float = 0.0
    shares: tuple[float, ...] = ()

    def share(self, link: int) -> float:
        """Of its bytes on a link; 0 where it does not go there."""
        if link not in self.path:
            return 0.0
        return self.shares[self.path.index(link)] if self.shares else 1.0


def fair_rates(flows: list[Flow], capacity: list[float]) -> None:
    """All rates rise together until a link is full; its flows stop rising, the others go on."""
    rising = [flow for flow in flows if flow.left > 0]
    for flow in flows:
        flow.rate = 0.0
    fixed: list[Flow] = []
    while rising:
        room = {
            link: (capacity[link] - sum(f.share(link) * f.rate for f in fixed))
            / sum(f.share(link) for f in rising)
            for flow in rising for link in flow.path
        }  # fmt: skip
        least = min(room.values(), default=float("inf"))
        tight = [link for link, share in room.items() if share <= least * (1 + 1e-12)]
        stopping = [f for f in rising if not f.path or any(link in tight for link in f.path)]
        for flow in stopping:
            flow.rate = least if flow.path else float("inf")
        fixed += stopping
        rising = [f for f in rising if f not in stopping]
