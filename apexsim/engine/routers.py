"""Routers: which replica gets a request.

A router hands over *data*: the candidates of each request and the load by which the least loaded of them is
picked. The compiled pool loop applies it. A plug-in that needs more defines ``choose`` (see ``PlugInRouter``) and
is called by the SimPy fleet at each arrival. No router sees a request's output length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apexsim import registry
from apexsim.engine.pool import BY_LORA, BY_PLACE, BY_PREFIX, BY_PROMPT_TOKENS, BY_REQUESTS

Ints = NDArray[np.int64]


FRONT_ENDS = 10


class Offered(NamedTuple):
    """What a router may know of the requests: their order and sessions, not their lengths to come."""

    requests: int
    session: Ints  # [n], -1 where a request belongs to none


class Choice(NamedTuple):
    """``candidates`` [n or 1, c] replicas in order of preference, and what decides among them (``pool.BY_…``)."""

    candidates: Ints
    load: int


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What a plug-in router sees when a request arrives; arrays by replica, to be read only."""

    waiting: Ints  # requests in the waiting list
    running: Ints  # requests that run
    prompt_tokens: Ints  # of the unfinished requests
    used_blocks: Ints
    kv_blocks: int
    prefix_tokens: Ints  # leading tokens of the arriving prompt that are in the prefix cache


@dataclass(frozen=True, slots=True)
class RequestView:
    """The request that a plug-in router places."""

    index: int
    arrival_s: float  # at the engine, since the first request was offered
    input_tokens: int
    session: int  # -1: none


@runtime_checkable
class Router(Protocol):
    """A built-in router: data for the compiled loop."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice: ...


@runtime_checkable
class PlugInRouter(Protocol):
    """A router in plain Python, asked at every arrival. It must be deterministic for a given seed."""

    def start(self, offered: Offered, replicas: int, seed: int) -> None: ...

    def choose(self, request: RequestView, replicas: ReplicaView) -> int: ...


class RoundRobin:
    """Replica i mod R."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        return Choice((np.arange(offered.requests, dtype=np.int64) % replicas)[:, None], BY_PLACE)


class FrontEnds:
    """Requests go to ten front ends in turn, each of which hands its own to the replicas in turn.

    Each begins at a replica of its own, drawn once, so that even ten times as many requests as replicas may meet.
    """

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        begins = np.random.default_rng(seed).integers(replicas, size=FRONT_ENDS)
        rounds, front = np.divmod(np.arange(offered.requests, dtype=np.int64), FRONT_ENDS)
        return Choice(((begins[front] + rounds) % replicas)[:, None], BY_PLACE)


class Random:
    """Uniformly at random."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        draws = np.random.default_rng(seed).integers(replicas, size=(offered.requests, 1))
        return Choice(draws, BY_PLACE)


class JoinShortestQueue:
    """The replica with the fewest unfinished requests."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        return Choice(np.arange(replicas, dtype=np.int64)[None, :], BY_REQUESTS)


class LeastLoaded:
    """The replica whose unfinished requests have the fewest prompt tokens."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        return Choice(np.arange(replicas, dtype=np.int64)[None, :], BY_PROMPT_TOKENS)


class PowerOfTwo:
    """Two distinct replicas at random, the one of them with fewer unfinished requests (Mitzenmacher 2001)."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        if replicas == 1:
            return Choice(np.zeros((1, 1), np.int64), BY_PLACE)
        random = np.random.default_rng(seed)
        first = random.integers(replicas, size=offered.requests)
        other = (first + random.integers(1, replicas, size=offered.requests)) % replicas
        return Choice(np.stack([first, other], axis=1), BY_REQUESTS)


class SessionAffine:
    """The same replica for all requests of a session, by a hash; a request without one goes round-robin."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        mixed = (offered.session.astype(np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        hashed = ((mixed >> np.uint64(32)) % np.uint64(replicas)).astype(np.int64)
        turn = np.cumsum(offered.session < 0) % replicas
        return Choice(np.where(offered.session >= 0, hashed, turn)[:, None], BY_PLACE)


class PrefixAware:
    """The replica with the longest cached prefix of the prompt, unless it is overloaded (``pool.by_contents``)."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        return Choice(np.arange(replicas, dtype=np.int64)[None, :], BY_PREFIX)


class LoraAware:
    """A replica that has the request's LoRA adapter, unless it is overloaded (``pool.by_contents``)."""

    def candidates(self, offered: Offered, replicas: int, seed: int) -> Choice:
        return Choice(np.arange(replicas, dtype=np.int64)[None, :], BY_LORA)


def router(name: str) -> Router | PlugInRouter:
    """The router that a plan names.

    Raises:
        UsageError: nobody registered the name.
    """
    make: Callable[[], Router | PlugInRouter] = registry.load("routers", name)
    return make()
