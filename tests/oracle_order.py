"""The waiting list of a replica, as naively as possible: a list that is searched anew for whose turn it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apexsim.engine.result import REJECTED_LATE, REJECTED_WAIT
from apexsim.engine.schedulers import Policy
from apexsim.workload.trace import Trace

if TYPE_CHECKING:
    from tests.oracle_memory import Request


@dataclass(eq=False)
class Line:
    policy: Policy
    incoming: list[Request] = field(default_factory=list)  # arrived, and not yet known to the scheduler
    waiting: list[Request] = field(default_factory=list)  # by arrival, but who was preempted is at the head
    counters: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # weighted tokens a client got
    last_client: int | None = None

    def __len__(self) -> int:
        return len(self.incoming) + len(self.waiting)

    def see(self, seen: float) -> None:
        """Who arrived by ``seen`` joins the waiting list."""
        while self.incoming and self.incoming[0].arrival <= seen:
            self.join(self.incoming.pop(0), again=False)

    def join(self, request: Request, *, again: bool) -> None:
        others = {other.client for other in self.waiting}
        if request.client not in others:
            least = [self.counters[client] for client in others]
            if not others and self.last_client is not None:
                least = [self.counters[self.last_client]]
            self.counters[request.client] = max(self.counters[request.client], min(least, default=0))
        self.waiting.insert(0 if again else len(self.waiting), request)

    def next(self, may_run: Callable[[Request], bool]) -> Request | None:
        """Whose turn it is; who may not run is passed over where it is first come, first served."""
        order = self.policy.order
        if order == "fcfs":
            return next((request for request in self.waiting if may_run(request)), None)
        if order == "fair":
            client = min({r.client for r in self.waiting}, key=lambda c: (self.counters[c], c))
            return next(r for r in self.waiting if r.client == client)
        return min(self.waiting, key=self.rank)

    def rank(self, request: Request) -> tuple[float, int]:
        keys = {
            "priority": request.priority, "shortest-first": request.prompt,
            "deadline": request.arrival + request.deadline,
        }  # fmt: skip
        return keys[self.policy.order], request.index

    def leave(self, request: Request) -> None:
        self.waiting.remove(request)
        if all(other.client != request.client for other in self.waiting):
            self.last_client = request.client

    def begin(self, request: Request) -> None:
        """Its prompt is charged once."""
        self.leave(request)
        if request.preemptions == 0:
            self.counters[request.client] += self.policy.input_weight * request.prompt

    def serve(self, request: Request) -> None:
        self.counters[request.client] += self.policy.output_weight

    def last_start(self, request: Request) -> float:
        """When the time of a request that waits is up."""
        if request.start is not None:
            return float("inf")
        limits = [self.policy.max_wait_s] + [request.deadline] * self.policy.shed_late
        return request.arrival + min(limits)

    def shed(self, request: Request, now: float) -> bool:
        """True where the request's time was up, and it is turned away."""
        if now <= self.last_start(request):
            return False
        self.leave(request)
        request.rejected = True
        request.reason = REJECTED_WAIT if now > request.arrival + self.policy.max_wait_s else REJECTED_LATE
        return True

    def victim(self, running: list[Request]) -> Request:
        return max(running, key=self.rank) if self.policy.order == "priority" else running[-1]


def demand(request: Request, trace: Trace, policy: Policy, outside: float) -> None:
    """What the trace asks for a request; its deadline by the engine's clock is earlier by the way to the client."""
    i = request.index
    request.output = 1 if policy.role == "prefill" else request.output
    request.priority = 0 if trace.priority is None else int(trace.priority[i])
    request.client = 0 if trace.client_code is None else int(trace.client_code[i])
    own = float("inf") if trace.deadline_s is None else float(trace.deadline_s[i])
    request.deadline = (policy.deadline_s if own == float("inf") else own) - outside
