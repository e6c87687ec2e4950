"""Pools whose requests bring images, as naively as possible: a list of slices for each unit that encodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apexsim.engine.encoders import ImageSetup
from tests.oracle_law import one_instant
from tests.oracle_links import Flow
from tests.oracle_one_pool import Picture
from tests.oracle_pools import Pools


@dataclass
class Unit:
    queue: list[int] = field(default_factory=list)  # the request of each slice, in order
    running: list[int] = field(default_factory=list)
    end: float | None = None
    batches: int = 0

    @property
    def slices(self) -> list[int]:
        return self.running + self.queue


class EncodingPools(Pools):
    def __init__(self, *args: Any, images: ImageSetup, candidates: np.ndarray, load: str) -> None:
        super().__init__(*args)
        self.images, self.candidates, self.load = images, candidates, load
        trace = self.trace
        assert trace.images is not None
        assert trace.visual_tokens is not None
        self.slices = [int(n) for n in trace.images]
        self.preparing: list[tuple[float, int]] = []
        self.prepared: dict[int, float] = {}
        self.encoded: dict[int, float] = {}
        self.came: dict[int, float] = {}
        self.encoders = [Unit() for _ in range(images.units)]
        self.where: dict[int, dict[int, int]] = {}  # slices of a request by unit, in the order of their first
        self.flow_of: dict[int, int] = {}  # flow -> request; those of one instant land in the order of being dealt
        self.numbers: dict[tuple[int, int], int] = {}  # of the flow of a request from a unit
        self.slice_s = images.encoder.slice_s(trace.visual_tokens) if images.encoder else np.zeros(len(trace))
        for pool, oracle in zip(self.setups, self.pools, strict=True):
            encoder = pool.limits.encoder
            if encoder is not None:
                alone = encoder.slice_s(trace.visual_tokens)
                tokens = [int(t) for t in trace.visual_tokens]
                oracle.pictures = {
                    i: Picture(n, tokens[i], float(alone[i])) for i, n in enumerate(self.slices) if n
                }
                oracle.batch = list(encoder.batch)

    def encode_events(self) -> list[float]:
        return [at for at, _ in self.preparing] + [unit.end for unit in self.encoders if unit.end is not None]

    def arrive(self, i: int, now: float) -> None:
        if self.slices[i]:
            self.preparing.append((now + float(self.images.host_s[i]), i))
        else:
            super().arrive(i, now)

    def prepare(self, now: float) -> None:
        due = sorted(row for row in self.preparing if row[0] <= now + one_instant(now))
        for row in due:
            self.preparing.remove(row)
            i = row[1]
            self.prepared[i] = now
            if not self.encoders:
                self.offer("enter", i, now)
                continue
            self.where[i] = {}
            whole = None if self.images.irp else self.unit_for(i)
            for _ in range(self.slices[i]):
                u = whole
                if u is None:
                    u = min(range(len(self.encoders)), key=lambda u: (len(self.encoders[u].slices), u))
                if u not in self.where[i]:
                    self.flow_of[len(self.trace) + len(self.flow_of)] = i
                    self.numbers[i, u] = len(self.trace) + len(self.flow_of) - 1
                self.where[i][u] = self.where[i].get(u, 0) + 1
                self.encoders[u].queue.append(i)

    def unit_for(self, i: int) -> int:
        row = [int(u) for u in self.candidates[i % len(self.candidates)]]
        if self.load == "place":
            return row[0]

        def weight(u: int) -> int:
            slices = self.encoders[u].slices
            return len(set(slices)) if self.load == "requests" else len(slices)

        return min(row, key=lambda u: (weight(u), row.index(u)))

    def begin_encoding(self, now: float) -> None:
        for unit in self.encoders:
            if unit.end is None and unit.queue:
                unit.running, unit.queue = unit.queue[: self.images.most], unit.queue[self.images.most :]
                assert self.images.encoder is not None
                batch = list(self.images.encoder.batch)
                alone = sum(float(self.slice_s[i]) for i in unit.running)
                unit.end = now + alone * batch[min(len(unit.running), len(batch) - 1)]
                unit.batches += 1

    def end_encoding(self, now: float) -> None:
        for unit in self.encoders:
            if unit.end is None or unit.end > now + one_instant(now):
                continue
            done, unit.running, unit.end = unit.running, [], None
            for i in dict.fromkeys(done):
                if not any(i in other.slices for other in self.encoders):
                    self.encoded[i] = now
        for i in [i for i, at in self.encoded.items() if at == now and self.ways[i].source is None]:
            self.embed(i)

    def embed(self, i: int) -> None:
        unit = self.choose("enter", i)
        self.ways[i].source = unit
        assert self.images.slice_bytes is not None
        for u, slices in self.where[i].items():
            ways = self.links.ways[len(self.units) + u, unit]
            word = (i * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
            word = ((word ^ (word >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
            path = int(ways[(word ^ (word >> 16)) % len(ways)])
            shares = self.links.shares[path] if self.links.shares else ()
            latency = float(self.links.latency_s[path])
            flow = Flow(self.numbers[i, u], self.links.paths[path], latency, shares=shares)
            flow.left, flow.closed = slices * float(self.images.slice_bytes[i]), True
            self.flows.append(flow)

    def land_embeddings(self, flow: Flow, now: float) -> None:
        i = self.flow_of[flow.index]
        if any(self.flow_of.get(other.index) == i for other in self.flows):
            return
        self.came[i] = now
        way = self.ways[i]
        assert way.source is not None
        ahead = self.handover.push and self.more(i)
        if ahead and self.setups[self.units[way.source][0]].policy.role == "prefill":
            self.offer("decode", i, now)
        else:
            self.offer("enter", i, now)
