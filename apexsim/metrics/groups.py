"""What requests of each priority class and of each client got; nothing where a trace has one of them only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED, REJECTED, RequestColumns
from apexsim.metrics.distribution import Distribution, distribution
from apexsim.metrics.latency import latencies

MOST_GROUPS = 100
"""More clients than this are not told apart: the largest are."""


class Senders(Protocol):
    """Who sent the requests of a run: a trace."""

    @property
    def priority(self) -> NDArray[np.int64] | None: ...

    @property
    def client_code(self) -> NDArray[np.int64] | None: ...

    @property
    def clients(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Nobody:
    """Nothing is known of them."""

    priority: NDArray[np.int64] | None = None
    client_code: NDArray[np.int64] | None = None
    clients: tuple[str, ...] = ()


NOBODY = Nobody()


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of one class or client. Latencies (s) of completed, counted ones; tokens of completed ones."""

    requests: int
    completed: int
    rejected: int
    input_tokens: int
    output_tokens: int
    ttft_s: Distribution
    e2e_s: Distribution
    queue_s: Distribution


def groups_of(
    requests: RequestColumns, senders: Senders, counted: NDArray[np.bool_]
) -> Mapping[str, Mapping[str, Group]]:
    """``by_priority`` and ``by_client``, each where there are two or more of them."""
    found = {
        "by_priority": by_group(requests, senders.priority, (), counted),
        "by_client": by_group(requests, senders.client_code, senders.clients, counted),
    }
    return {name: groups for name, groups in found.items() if groups is not None}


def by_group(
    requests: RequestColumns, code: NDArray[np.int64] | None, names: tuple[str, ...], counted: NDArray[np.bool_]
) -> Mapping[str, Group] | None:
    """The groups that ``code`` (int64[n]) tells apart, by ``names[code]``; the largest first, ties by code.

    None where there are fewer than two. Without names a group is called by its number.
    """
    if code is None:
        return None
    found, sizes = np.unique(code, return_counts=True)
    if len(found) < 2:
        return None
    largest = np.lexsort((found, -sizes))[:MOST_GROUPS] if names else np.arange(len(found))
    return {names[c] if names else str(c): _group(requests, code == c, counted) for c in found[largest].tolist()}


def _group(requests: RequestColumns, mine: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Group:
    per_request = latencies(requests)
    done = mine & (requests.status == COMPLETED)
    return Group(
        requests=int(mine.sum()),
        completed=int(done.sum()),
        rejected=int((mine & (requests.status == REJECTED)).sum()),
        input_tokens=int(requests.input_tokens[done].sum()),
        output_tokens=int(requests.output_tokens[done].sum()),
        ttft_s=distribution(per_request.ttft_s[mine & counted]),
        e2e_s=distribution(per_request.e2e_s[mine & counted]),
        queue_s=distribution(per_request.queue_s[mine & counted]),
    )
