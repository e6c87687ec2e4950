"""What a trace and a policy say about the places of requests in the waiting list, as the arrays of the engine."""

from __future__ import annotations

import numpy as np

from apexsim.engine.order import FCFS, ORDERS, PRIORITY, SHORTEST
from apexsim.engine.schedulers import Policy
from apexsim.engine.state import CLIENT, NONE, PLACE, Order, rows
from apexsim.workload.trace import Trace


def new_order(trace: Trace, policy: Policy, replicas: int, stages: int, outside_s: float) -> Order:
    """Places before the first arrival; empty where neither the order nor a deadline needs them.

    Args:
        outside_s: seconds of a first token's way that pass outside the engine: a deadline is the client's.
    """
    order = ORDERS[policy.order]
    if order == FCFS and not policy.shed_late:
        return Order(rows(PLACE, 0), rows(CLIENT, replicas * stages, 0))
    places = rows(PLACE, len(trace))
    places.deadline_s = policy.deadline_s if trace.deadline_s is None else _deadlines(trace, policy)
    places.deadline_s -= outside_s
    if order == PRIORITY and trace.priority is not None:
        places.key = trace.priority
    if order == SHORTEST:
        places.key = trace.input_tokens
    clients = 0
    if policy.order == "fair":
        clients = 1
        if trace.client_code is not None:
            places.client = trace.client_code
            clients = int(trace.client_code.max()) + 1
    counters = rows(CLIENT, replicas * stages, clients)
    if clients:
        counters[::stages].head = NONE
    return Order(places, counters)


def _deadlines(trace: Trace, policy: Policy) -> np.ndarray:
    """The trace's own, and the policy's where it has none."""
    assert trace.deadline_s is not None
    return np.where(np.isfinite(trace.deadline_s), trace.deadline_s, policy.deadline_s)


def order_notes(policy: Policy, trace: Trace) -> list[str]:
    """What the policy asks for and the trace does not say."""
    missing = {
        "priority": (trace.priority is None, "priority", "one class"),
        "fair": (trace.client_code is None, "client", "one client"),
        "deadline": (trace.deadline_s is None and policy.deadline_s == np.inf, "deadline_s", "no deadline"),
    }  # fmt: skip
    lacks, column, so = missing.get(policy.order, (False, "", ""))
    served = f"policy is {policy.order}, but the trace has no column {column}"
    found = [f"{served}: {so}, so requests are served first come first served"] if lacks else []
    if policy.shed_late and trace.deadline_s is None and policy.deadline_s == np.inf:
        found.append("shed_late is set, but neither the trace (deadline_s) nor the plan has deadlines: nobody is late")
    return found
