"""Where the time of one iteration goes, operator by operator, and how far each is from the device's roofline.

The seconds are those of the step tables, taken apart: an operator's share is what ``step.py`` added up for it, so the
rows, the launches that nothing hides and the host's time give the iteration's duration again.

Roofline position (Williams, Waterman & Patterson, CACM 2009): an operator that must do F FLOP and move B bytes needs at
least max(F / peak, B / bandwidth). ``reached`` is that time over the priced one. A short run that reaches less than
half is held up by neither, but by latency: its launch, its synchronisation, its last wave. Decode attention that takes
as long as the vector units need to expand a cache of few bits (``low_bit_kv.py``) is bound by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apexsim.cost import low_bit_kv
from apexsim.cost.beside import ALL_OF_IT, Exposed
from apexsim.cost.context import Ring
from apexsim.cost.ledger import ATTENTION, CALIBRATED, COMMUNICATION, EXTRAPOLATED, MOVED_BYTES, PARTS, seconds
from apexsim.cost.operators import AttentionOp, Gemm, GroupedGemm, Operator, Recurrence
from apexsim.cost.parts import Drafts, Parts
from apexsim.cost.precision import compute_dtype, sixteen_bit
from apexsim.cost.pricing import Pricer, Sizes, executed
from apexsim.cost.shapes import causal_pairs
from apexsim.cost.tables import StepTables, token_knots
from apexsim.spec.dtypes import ComputeDtype

Bound = Literal["compute", "memory", "vector", "links", "latency"]

EXPANDS = 0.9
"""Attention of which expanding its cache takes more than this share is bound by the vector units."""
HALF, SHORT_S = 0.5, 20e-6
"""An operator that reaches less than this share of the roofline in runs shorter than this is bound by latency."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of a replica: ``decoding`` sequences with ``context`` tokens each (their new one counted), and a
    chunk of ``chunk`` tokens of one prompt of which ``past`` are cached; ``ends``: the prompt's last one."""

    decoding: int = 0
    context: float = 0.0
    chunk: int = 0
    past: int = 0
    ends: bool = True

    @property
    def sampled(self) -> int:
        """Sequences that yield a token."""
        return self.decoding + (self.chunk > 0 and self.ends)

    @property
    def tokens(self) -> int:
        return self.decoding + self.chunk


@dataclass(frozen=True, slots=True)
class OperatorShare:
    """All runs of one operator in the iteration, on one rank of a stage.

    Attributes:
        part: gemm, attention, moe or communication.
        runs: how often the stage runs it.
        flops, moved_bytes: what it must do; bytes of a collective pass over links.
        reached: share of the roofline, 0 where it must do neither.
        calibrated: its price comes from measurements; extrapolated: … from outside their range.
        algorithm: of a collective that was not measured, how it runs; "" of all else.
    """

    name: str
    part: str
    runs: int
    seconds: float
    flops: float
    moved_bytes: float
    reached: float
    bound: Bound
    calibrated: bool
    extrapolated: bool
    algorithm: str = ""

    @property
    def intensity(self) -> float | None:
        """FLOP a byte; None where nothing is moved."""
        return self.flops / self.moved_bytes if self.moved_bytes else None


@dataclass(frozen=True, slots=True)
class Explained:
    """One iteration on its slowest pipeline stage.

    ``launches_s`` is what launching the kernels adds to them, ``host_s`` the engine's own time that no kernel hides.
    """

    iteration: Iteration
    stage: int
    operators: tuple[OperatorShare, ...]
    launches_s: float
    host_s: float

    @property
    def kernels_s(self) -> float:
        return sum(op.seconds for op in self.operators)

    @property
    def duration_s(self) -> float:
        """Of the stage; a pipeline's other stages run beside it."""
        return self.kernels_s + self.launches_s + self.host_s

    @property
    def by_bound(self) -> dict[str, float]:
        """Seconds by what they are spent on: the operators' bounds, launches and the host, largest first."""
        spent = {"launches": self.launches_s, "host": self.host_s}
        for op in self.operators:
            spent[op.bound] = spent.get(op.bound, 0.0) + op.seconds
        return {name: spent[name] for name in sorted(spent, key=lambda name: -spent[name]) if spent[name] > 0}

    @property
    def binds(self) -> str:
        """What most of the iteration is spent on."""
        return next(iter(self.by_bound), "nothing")

    @property
    def calibrated_share(self) -> float:
        """Of the kernels' seconds, what rests on measurements of this device."""
        return self._share([op for op in self.operators if op.calibrated])

    @property
    def extrapolated_share(self) -> float:
        """Of the kernels' seconds, what was priced outside the measured range."""
        return self._share([op for op in self.operators if op.extrapolated])

    def _share(self, operators: list[OperatorShare]) -> float:
        return sum(op.seconds for op in operators) / self.kernels_s if self.kernels_s else 0.0


def explain(parts: Parts, tables: StepTables, iteration: Iteration) -> Explained:
    """One iteration taken apart, on the stage that takes longest.

    Attention ranks of a replica are taken as alike: each has the iteration's sequences and tokens.
    """
    each = [_stage(parts, tables, stage, iteration) for stage in range(tables.stages)]
    return max(each, key=lambda stage: stage.duration_s)


def _stage(parts: Parts, tables: StepTables, stage: int, iteration: Iteration) -> Explained:
    operators = _joined(_shares(parts, stage, iteration))
    device_s = sum(op.seconds for op in operators)
    launches_s = _launches_s(parts, tables, stage, iteration)
    host_s = 0.0
    if stage == 0:
        scheduled = iteration.decoding + (iteration.chunk > 0)
        floor_s, serial_s = float(tables.host_floor_s[scheduled]), float(tables.host_serial_s[scheduled])
        host_s = max(floor_s - device_s - launches_s, 0.0) + serial_s
    return Explained(iteration, stage, operators, launches_s, host_s)


def _launches_s(parts: Parts, tables: StepTables, stage: int, iteration: Iteration) -> float:
    """Seconds by which launches lengthen the kernels: what the tables hold beyond the ledgers."""
    if iteration.chunk:
        return _at(tables.mixed_s[stage] - seconds(parts.mixed[stage]), parts.mixed_sizes, _rows(parts, iteration))
    return _at(tables.decode_s[stage] - seconds(parts.decode[stage]), parts.decode_sizes, iteration.decoding)


def _rows(parts: Parts, iteration: Iteration) -> int:
    """Tokens that a rank computes, drafts among them: ranks that share a context deal the chunk among them."""
    chunk = -(-iteration.chunk // (parts.ring.ranks if parts.ring else 1))
    return (parts.each if chunk else 1) * iteration.decoding + chunk


def _shares(parts: Parts, stage: int, iteration: Iteration) -> Iterator[OperatorShare]:
    yield from _layers(parts, stage, iteration, _rows(parts, iteration))
    if parts.ring is not None and iteration.chunk:
        yield _gather_starts(parts.ring, parts.stages[stage])
    if stage == len(parts.stages) - 1:
        yield from _head(parts, iteration)
    if parts.drafts is not None:
        yield from _drafts(parts.drafts, iteration)


def _layers(parts: Parts, stage: int, iteration: Iteration, count: int) -> Iterator[OperatorShare]:
    """``count``: what the tables by tokens, or by sequences where there is no chunk, are read at."""
    sizes = parts.mixed_sizes if iteration.chunk else parts.decode_sizes
    for op in parts.stages[stage]:
        share = _linear(parts.prices, op, sizes, count, parts.exposed[0 if iteration.chunk else 1])
        if isinstance(op, AttentionOp):
            share = _attention(parts, op, iteration, share)
        elif isinstance(op, Recurrence):
            share = _recurrence(parts, op, iteration, share)
        yield share


def _gather_starts(ring: Ring, operators: tuple[Operator, ...]) -> OperatorShare:
    """What is left of the exchange of keys and values where attention hides its bytes: that it starts in each layer."""
    layers = ring.layers(operators)
    return OperatorShare(
        "context_gather", PARTS[COMMUNICATION], layers, layers * ring.start_s, 0.0, 0.0, 0.0, "links", True, False
    )


def _head(parts: Parts, iteration: Iteration) -> Iterator[OperatorShare]:
    for op in parts.head_ops:
        yield _linear(parts.prices, op, parts.sampled_sizes, iteration.sampled)


def _drafts(drafts: Drafts, iteration: Iteration) -> Iterator[OperatorShare]:
    """The draft's first pass over what the model computes, k − 1 over one token a sequence, and k times its head."""
    later = replace(iteration, chunk=0, past=0)
    yield from _times(1, _layers(drafts.first, 0, iteration, _rows(drafts.first, iteration)))
    yield from _times(drafts.passes - 1, _layers(drafts.later, 0, later, iteration.sampled))
    yield from _times(drafts.passes, _head(drafts.later, iteration))


def _times(runs: int, shares: Iterable[OperatorShare]) -> Iterator[OperatorShare]:
    for share in shares if runs else ():
        yield replace(
            share, name=f"draft {share.name}", runs=runs * share.runs, seconds=runs * share.seconds,
            flops=runs * share.flops, moved_bytes=runs * share.moved_bytes,
        )  # fmt: skip


def _joined(shares: Iterable[OperatorShare]) -> tuple[OperatorShare, ...]:
    """One row for all operators of a name: layers of several kinds have some in common."""
    found: dict[str, OperatorShare] = {}
    for share in shares:
        found[share.name] = _sum(found[share.name], share) if share.name in found else share
    return tuple(found.values())


def _sum(one: OperatorShare, other: OperatorShare) -> OperatorShare:
    spent = one.seconds + other.seconds
    reached = (one.reached * one.seconds + other.reached * other.seconds) / spent if spent else 0.0
    return replace(
        max(one, other, key=lambda share: share.seconds), runs=one.runs + other.runs, seconds=spent,
        flops=one.flops + other.flops, moved_bytes=one.moved_bytes + other.moved_bytes, reached=reached,
        calibrated=one.calibrated and other.calibrated, extrapolated=one.extrapolated or other.extrapolated,
    )  # fmt: skip


def _linear(
    prices: Pricer, op: Operator, sizes: Sizes, tokens: int, exposed: Exposed = ALL_OF_IT
) -> OperatorShare:
    """An operator that the tables know by tokens; of its seconds those that nothing else hides."""
    ledger = np.array([_at(line, sizes, tokens) for line in exposed.of(op, prices.ledger(op, sizes))])
    part = int(np.argmax(ledger[: len(PARTS)]))
    spent = float(ledger[: len(PARTS)].sum())
    rows = _at(executed(sizes).astype(np.float64), sizes, tokens)
    flops = op.count * prices.flops(op, sizes, rows)
    compute = compute_dtype(prices.profile, op.weights) if isinstance(op, Gemm | GroupedGemm) else None
    share = _placed(
        prices, op, PARTS[part], spent, flops, float(ledger[MOVED_BYTES]), compute,
        bool(ledger[CALIBRATED] > 0), bool(ledger[EXTRAPOLATED] > 0),
    )  # fmt: skip
    return share if share.calibrated or not spent else replace(share, algorithm=prices.algorithm(op, sizes, rows))


def _attention(parts: Parts, op: AttentionOp, iteration: Iteration, launch: OperatorShare) -> OperatorShare:
    """Decode attention of all sequences and prefill attention of the chunk, with the launches that the tables book."""
    spent, flops, moved = launch.seconds, 0.0, 0.0
    ring, ranks = parts.ring, parts.ring.ranks if parts.ring else 1
    calibrated, extrapolated = True, iteration.past > 0  # nothing measured has cached tokens
    expand_s = 0.0
    if iteration.decoding:
        reach = min(iteration.context, op.window) if op.window else iteration.context
        knots = tuple(knot / ranks for knot in parts.context_knots)
        price = parts.prices.decode(op, parts.decode_sizes.limit, knots, parts.each)
        spent += float(np.interp(reach, parts.context_knots, price.seconds[iteration.decoding]))
        if ring is not None:
            spent += float(ring.merge_s(op, parts.decode_sizes.limit)[iteration.decoding])
        flops += op.count * parts.each * iteration.decoding * reach * op.decode_pair_flops
        expand_s = float(low_bit_kv.expand_s(parts.prices.profile, op.kv_dtype, np.array(flops / ranks)))
        moved += op.count * iteration.decoding * reach * op.kv_token_bytes
        calibrated &= price.calibrated
        extrapolated |= bool(np.interp(reach, parts.context_knots, price.extrapolated[iteration.decoding]) > 0)
    if iteration.chunk:
        price, per_past = parts.prices.prefill(op, parts.mixed_sizes.limit)
        own_s = price.seconds
        if ring is not None:
            own_s, per_past = ring.prefill(op, own_s, per_past, token_knots(parts.mixed_sizes.limit).astype(np.float64))
        pairs = float(causal_pairs(np.array(iteration.past + iteration.chunk), op.window))
        pairs -= float(causal_pairs(np.array(iteration.past), op.window))
        fresh = float(causal_pairs(np.array(iteration.chunk), op.window))
        spent += _at(own_s, parts.mixed_sizes, iteration.chunk)
        spent += (pairs - fresh) / iteration.chunk * _at(per_past, parts.mixed_sizes, iteration.chunk)
        flops += op.count * pairs * op.prefill_pair_flops
        moved += op.count * (iteration.chunk * op.prefill_token_bytes + iteration.past * op.kv_token_bytes)
        calibrated &= price.calibrated
        extrapolated |= _at(price.extrapolated.astype(np.float64), parts.mixed_sizes, iteration.chunk) > 0
    compute = sixteen_bit(parts.prices.profile)
    share = _placed(
        parts.prices, op, PARTS[ATTENTION], spent, flops / ranks, moved / ranks, compute, calibrated, extrapolated
    )
    return replace(share, bound="vector") if expand_s > EXPANDS * spent else share


def _recurrence(parts: Parts, op: Recurrence, iteration: Iteration, launch: OperatorShare) -> OperatorShare:
    chunk, sequences = parts.prices.recurrence(op, parts.mixed_sizes.limit, parts.decode_sizes.limit)
    spent = launch.seconds + float(sequences[iteration.decoding]) + _at(chunk, parts.mixed_sizes, iteration.chunk)
    flops = iteration.decoding * op.decode_flops + iteration.chunk * op.prefill_flops
    moved = 2.0 * op.state_bytes * (iteration.decoding + (iteration.chunk > 0)) + iteration.tokens * op.token_bytes
    compute = sixteen_bit(parts.prices.profile)
    return _placed(
        parts.prices, op, PARTS[ATTENTION], spent, op.count * flops, op.count * moved, compute, False, False
    )


def _placed(
    prices: Pricer, op: Operator, part: str, spent: float, flops: float, moved: float, compute: ComputeDtype | None,
    calibrated: bool, extrapolated: bool,
) -> OperatorShare:  # fmt: skip
    """The share with its place on the roofline of memory and of the dtype that executes; links have none of theirs."""
    if part == PARTS[COMMUNICATION]:
        return OperatorShare(op.name, part, op.count, spent, flops, moved, 0.0, "links", calibrated, extrapolated)
    peak = prices.profile.peak_flops[compute] * prices.clock.fraction if compute else float("inf")
    needs: dict[Bound, float] = {"compute": flops / peak, "memory": moved / prices.profile.memory_bandwidth}
    bound: Bound = max(needs, key=lambda name: needs[name])
    reached = needs[bound] / spent if spent else 0.0
    if reached < HALF and spent < SHORT_S * op.count:
        bound = "latency"
    return OperatorShare(op.name, part, op.count, spent, flops, moved, reached, bound, calibrated, extrapolated)


def _at(table: NDArray[np.float64], sizes: Sizes, count: int) -> float:
    """The value of a table over ``sizes`` at a count, as the engine reads it."""
    knots = token_knots(sizes.limit) if sizes.kind == "mixed" else np.arange(len(table))
    return float(np.interp(count, knots, table))
