"""LoRA adapters of a replica, as naively as possible: sets of numbers, and one list of who was used when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apexsim.cost.adapters import AdapterLaw

if TYPE_CHECKING:
    from tests.oracle_memory import Request


@dataclass(eq=False)
class Shelf:
    law: AdapterLaw | None
    device: set[int] = field(default_factory=set)
    host: set[int] = field(default_factory=set)
    unused: list[int] = field(default_factory=list)  # wherever they are, the least recently used first
    link_free: float = float("-inf")
    uses: int = 0
    loads: int = 0
    fetches: int = 0
    waited: float = 0.0
    most: int = 0  # distinct adapters in use at once

    def __post_init__(self) -> None:
        if self.law is not None:
            self.unused = list(reversed(range(min(self.law.host_slots, self.law.adapters))))
            self.host = set(self.unused)

    def may_run(self, request: Request, running: list[Request]) -> bool:
        used = in_use(running)
        return self.law is None or request.adapter in {-1, *used} or len(used) < self.law.slots

    def blocks(self, adapters: set[int]) -> int:
        return 0 if self.law is None else sum(self.law.blocks[a % len(self.law.blocks)] for a in adapters)

    def missing(self, request: Request, running: list[Request]) -> int:
        return self.blocks({request.adapter} - in_use(running) - {-1})

    def begin(self, request: Request, running: list[Request], now: float) -> None:
        """The request joins those that run at the boundary ``now``."""
        a = request.adapter
        if self.law is None or a == -1:
            return
        self.uses += 1
        if a not in self.device:
            self.load(a, request, in_use(running), now)
        self.unused = [other for other in self.unused if other != a]
        self.most = max(self.most, len(in_use(running) | {a}))

    def load(self, a: int, request: Request, used: set[int], now: float) -> None:
        law = self.law
        assert law is not None
        seconds = law.load_s[a % len(law.load_s)]
        if a not in self.host:
            seconds += law.fetch_s[a % len(law.fetch_s)]
            self.fetches += 1
            self.host.add(a)
            if len(self.host) > law.host_slots:
                victim = next(other for other in self.unused if other in self.host - {a})
                self.host.discard(victim)
                self.device.discard(victim)
        self.device.add(a)
        self.loads += 1
        unified = any(law.blocks)
        if not unified and len(self.device) > law.slots:
            self.device.discard(next(other for other in self.unused if other in self.device - {a}))
        assert used <= self.device <= self.host
        start = min(now, request.arrival) if law.prefetch and request.preemptions == 0 else now
        self.link_free = max(start, self.link_free) + seconds

    def leave(self, request: Request, running: list[Request]) -> None:
        """The request has left those that run."""
        a = request.adapter
        if self.law is None or a in {-1, *in_use(running)}:
            return
        self.unused.append(a)
        if any(self.law.blocks):
            self.device.discard(a)

    def wait(self, now: float) -> float:
        seconds = max(0.0, self.link_free - now)
        self.waited += seconds
        return seconds


def in_use(running: list[Request]) -> set[int]:
    return {request.adapter for request in running} - {-1}


def ask_for(request: Request, adapter: int) -> None:
    """KV computed with an adapter is of no use to a request with another one."""
    request.adapter = adapter
    request.units = [((name, adapter) if "hash" in name else name, blocks) for name, blocks in request.units]
