"""How many prefill and decode replicas of which shape, on which nodes: most goodput, or fewest devices.

Nodes of one kind are alike, so the program chooses how many of them hold each *pattern*, a set of replicas that fits
in a node (as in cutting stock; Gilmore & Gomory 1961). A replica larger than a node takes whole nodes.

    y[p]                 nodes with pattern p, whole
    local[p]             requests/s that are prefilled and decode in the same node
    out[p], in[p]        requests/s whose KV leaves the nodes with p, or comes to them

    Σ_p nodes[p] · y[p] ≤ nodes of the kind
    local[p] + out[p] ≤ prefill rate of p · y[p],   local[p] + in[p] ≤ decode rate of p · y[p]
    KV · out[p] ≤ network of p's prefill devices · y[p], and ≤ NIC of the node · y[p]; the same of in[p]
    Σ out = Σ in,   goodput = Σ local + Σ out

One sum of flows for all nodes with a pattern is exact: rows are linear, so what several nodes do together each can do
in equal parts, and what would leave a node for itself can stay. Ties: fewer devices (of goodput), more goodput (of
devices), then less KV over the network, then fewer replicas of the shapes that stand last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.search.ilp import TIME_LIMIT_S, Limit, Outcome, Program
from apexsim.search.pools import DECODE, PREFILL, Box, PoolsQuestion, Shape
from apexsim.search.shortfall import solved, told

MOST_PATTERNS = 20_000
"""More sets of replicas in one node than this are refused: nobody needs so many shapes at once."""


@dataclass(frozen=True)
class Pattern:
    """Replicas that share a node, or one replica and the nodes that it takes: ``count[shape]``."""

    box: Box
    nodes: int
    count: tuple[int, ...]
    shapes: tuple[Shape, ...]

    def devices(self, role: str | None = None) -> int:
        return sum(n * s.devices for n, s in zip(self.count, self.shapes, strict=True) if role in (None, s.role))

    def replicas(self, role: str) -> int:
        return sum(n for n, s in zip(self.count, self.shapes, strict=True) if s.role == role)

    def rate(self, role: str) -> float:
        """Requests/s whose phase the replicas of a role serve."""
        return sum(n * (s.rate or 0.0) for n, s in zip(self.count, self.shapes, strict=True) if s.role == role)

    def link(self, role: str) -> float:
        """B/s that the replicas of a role send or take over the network."""
        return min(self.box.link * self.devices(role), self.box.nic * self.nodes)

    def near(self) -> float:
        """B/s from the prefill to the decode replicas inside the node."""
        return self.box.near * min(self.devices(PREFILL), self.devices(DECODE))

    @property
    def name(self) -> str:
        """``2 x p-tp2 + d-tp4``."""
        parts = ((n, s.name) for n, s in zip(self.count, self.shapes, strict=True) if n)
        return " + ".join(name if n == 1 else f"{n} x {name}" for n, name in parts)


@dataclass(frozen=True)
class Placed:
    """Some nodes with one pattern, and requests/s of all of them together."""

    pattern: Pattern
    nodes: int
    local_rps: float
    out_rps: float
    in_rps: float


@dataclass(frozen=True)
class PoolsPlan:
    """What was found. ``value`` is that of the objective; goodput is in requests/s."""

    question: PoolsQuestion
    placed: tuple[Placed, ...]
    value: float
    bound: float
    gap: float
    timed_out: bool
    wall_s: float

    @property
    def goodput_rps(self) -> float:
        return sum(placed.local_rps + placed.out_rps for placed in self.placed)

    @property
    def crossing_rps(self) -> float:
        """Requests/s whose KV goes over the network."""
        return sum(placed.out_rps for placed in self.placed)

    @property
    def devices(self) -> int:
        return sum(placed.nodes * placed.pattern.devices() for placed in self.placed)

    def replicas(self, shape: Shape) -> int:
        place = self.question.problem.shapes.index(shape)
        return sum(placed.nodes * placed.pattern.count[place] for placed in self.placed)


def best_pools(question: PoolsQuestion, time_limit_s: float = TIME_LIMIT_S) -> PoolsPlan:
    """The placement of a question that ``read_pools`` resolved.

    Raises:
        NoFeasiblePlan: the rate cannot be served; the message says what would have to give way.
        InputError: so many shapes that a node has too many patterns.
    """
    model = _Model(question)
    outcome = model.program.solve(model.objectives, time_limit_s)
    if outcome.found and not outcome.timed_out and not outcome.objective:
        raise NoFeasiblePlan(_why_nothing(question, time_limit_s))
    what = f"{question.problem.rate:g} requests/s" if question.problem.rate else "the limits"
    refused, missing = f"no placement serves {what}", "no placement was found"
    return model.read(solved(model.program, outcome, time_limit_s, refused=refused, missing=missing))


def _why_nothing(question: PoolsQuestion, time_limit_s: float) -> str:
    """Why no request can be served at all: a limit, or that no prefill and decode replica can stand together."""
    asked = question.problem.model_copy(update={"objective": "devices", "rate": None})
    model = _Model(replace(question, problem=asked), least_rps=min(shape.rate or 0.0 for shape in asked.shapes) / 2)
    given = model.program.shortfalls(time_limit_s)
    none = "a replica of each role together do not fit into the cluster, or no link joins them"
    return f"no placement serves any request: {told(given) if given else none}"


def patterns(question: PoolsQuestion) -> Iterator[Pattern]:
    """Every set of replicas that fits in a node of each kind, and every replica that needs several."""
    shapes = question.problem.shapes
    for box in question.boxes:
        small = [shape.devices if question.fits(shape, box) and shape.devices <= box.devices else 0 for shape in shapes]
        for count in _sets(small, box.devices):
            if any(count):
                yield Pattern(box, 1, count, shapes)
        for place, shape in enumerate(shapes):
            if question.fits(shape, box) and shape.devices > box.devices:
                alone = tuple(int(other == place) for other in range(len(shapes)))
                yield Pattern(box, -(-shape.devices // box.devices), alone, shapes)


def _sets(sizes: list[int], room: int) -> Iterator[tuple[int, ...]]:
    """Every count of things of these sizes that fits; 0 stands for what may not be taken."""
    if not sizes:
        yield ()
        return
    for count in range(room // sizes[0] + 1 if sizes[0] else 1):
        for rest in _sets(sizes[1:], room - count * sizes[0]):
            yield (count, *rest)


class _Model:
    """``least_rps``: served whatever gives way."""

    def __init__(self, question: PoolsQuestion, least_rps: float = 0.0) -> None:
        self.question, self.program = question, Program()
        self._patterns = []
        for pattern in patterns(question):
            self._patterns.append(pattern)
            if len(self._patterns) > MOST_PATTERNS:
                raise InputError(f"shapes: a node holds them in more than {MOST_PATTERNS:,} ways; leave some out")
        add = self.program.variable
        self._nodes = [add(0, pattern.box.count // pattern.nodes, whole=True) for pattern in self._patterns]
        self._local, self._out, self._in = ([add() for _ in self._patterns] for _ in range(3))
        for box in question.boxes:
            held = [(float(p.nodes), y) for p, y in zip(self._patterns, self._nodes, strict=True) if p.box is box]
            self.program.at_most(held, box.count)
        for place, pattern in enumerate(self._patterns):
            self._flow(place, pattern)
        self.program.equal([*((1.0, v) for v in self._out), *((-1.0, v) for v in self._in)], 0.0)
        self._limits(least_rps)

    def _flow(self, place: int, pattern: Pattern) -> None:
        y, local, kv = self._nodes[place], self._local[place], self.question.kv_bytes
        for role, crossing in ((PREFILL, self._out[place]), (DECODE, self._in[place])):
            usable = (1 - self.question.problem.headroom) * pattern.rate(role)
            self.program.at_most([(1.0, local), (1.0, crossing), (-usable, y)], 0.0)
            if pattern.link(role) < inf:
                self.program.at_most([(1.0, crossing), (-pattern.link(role) / kv, y)], 0.0)
        self.program.at_most([(1.0, local), (-pattern.near() / kv, y)], 0.0)

    def _limits(self, least_rps: float) -> None:
        problem = self.question.problem
        rate, limits = problem.rate, problem.limits
        served = [(1.0, v) for v in (*self._local, *self._out)]
        if least_rps:
            self.program.at_least(served, least_rps)
        if rate is not None:
            self.program.at_least(served, rate, Limit("rate", "share", 1.0), give=rate)
        counted = (
            ("devices", limits.devices, [float(p.devices()) for p in self._patterns]),
            ("prefill", limits.prefill, [float(p.replicas(PREFILL)) for p in self._patterns]),
            ("decode", limits.decode, [float(p.replicas(DECODE)) for p in self._patterns]),
        )
        for name, most, each in counted:
            if most is not None:
                unit = "devices" if name == "devices" else "replicas"
                limit = Limit(f"limits.{name}", unit, float(most))
                self.program.at_most(list(zip(each, self._nodes, strict=True)), most, limit)

    @property
    def objectives(self) -> list[list[tuple[float, int]]]:
        """What is asked for, then what breaks ties."""
        goodput = [(-1.0, v) for v in (*self._local, *self._out)]
        devices = [(float(p.devices()), y) for p, y in zip(self._patterns, self._nodes, strict=True)]
        crossing = [(1.0, v) for v in self._out]
        place = [
            (float(sum(n * place for place, n in enumerate(p.count, start=1))), y)
            for p, y in zip(self._patterns, self._nodes, strict=True)
        ]
        first = [goodput, devices] if self.question.problem.objective == "goodput" else [devices, goodput]
        return [*first, crossing, place]

    def read(self, outcome: Outcome) -> PoolsPlan:
        sign = -1.0 if self.question.problem.objective == "goodput" else 1.0
        values = outcome.values
        placed = tuple(
            Placed(pattern, round(values[y]), values[local], values[out], values[into])
            for pattern, y, local, out, into in zip(
                self._patterns, self._nodes, self._local, self._out, self._in, strict=True
            )
            if round(values[y])
        )
        return PoolsPlan(
            self.question, placed, sign * outcome.objective, sign * outcome.bound, outcome.gap, outcome.timed_out,
            outcome.wall_s,
        )
