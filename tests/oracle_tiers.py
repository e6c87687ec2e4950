"""KV tiers beyond the device's memory, as naively as possible: lists of names, and a loop over the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apexsim.cost.tiers import TierLaw
from tests.oracle_memory import Unit, blocks_of

if TYPE_CHECKING:
    from tests.oracle import Oracle


@dataclass(eq=False)
class Tier:
    law: TierLaw
    kept: list[Unit] = field(default_factory=list)  # the next to be evicted first
    stored: int = 0
    evicted: int = 0
    peak: int = 0


@dataclass(eq=False)
class Below:
    """What one replica has below its device; a tier that others share is the same object in all of them."""

    tiers: list[Tier]
    loading: list[list[Unit]] = field(default_factory=list)  # by the next iteration, tier by tier
    loaded: list[int] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)  # blocks that first admissions found

    def __post_init__(self) -> None:
        self.loading = [[] for _ in self.tiers]
        self.loaded = [0 for _ in self.tiers]
        self.hits = [0 for _ in self.tiers]

    def use(self, units: list[Unit]) -> None:
        """The units of a prompt, the last of them as the least recent; then what does not fit goes down."""
        for unit in reversed(units):
            for tier in self.tiers:
                if unit in tier.kept or tier.law.through:
                    self.put(tier, unit)
        for tier, below in zip(self.tiers, [*self.tiers[1:], None], strict=False):
            while blocks_of(tier.kept) > tier.law.blocks:
                unit = tier.kept.pop(0)
                tier.evicted += unit[1]
                if below is not None and not below.law.through:
                    self.put(below, unit)
            tier.peak = max(tier.peak, blocks_of(tier.kept))

    def put(self, tier: Tier, unit: Unit) -> None:
        if unit in tier.kept:
            tier.kept.remove(unit)
        elif unit[1] > tier.law.blocks:
            return
        else:
            tier.stored += unit[1]
        tier.kept.append(unit)

    def load(self, unit: Unit, *, first_admission: bool) -> None:
        t = next(t for t, tier in enumerate(self.tiers) if unit in tier.kept)
        self.loading[t].append(unit)
        self.loaded[t] += unit[1]
        self.hits[t] += unit[1] * first_admission

    def load_s(self, units: list[Unit]) -> float:
        """Seconds until these are on the device, each from the first tier that has it."""
        longest = 0.0
        first = {unit: next(t for t, tier in enumerate(self.tiers) if unit in tier.kept) for unit in units}
        for t, tier in enumerate(self.tiers):
            blocks = sum(unit[1] for unit in units if first[unit] == t or (tier.law.carries and first[unit] > t))
            if blocks:
                longest = max(longest, tier.law.latency_s + blocks * tier.law.block_s)
        return longest

    def end_of(self, begin: float, start: float, seconds: float) -> float:
        """When a stage is done that starts at ``start``, while blocks are on their way since ``begin``: layer by layer.

        Without loads it would take ``seconds``.
        """
        if not any(self.loading):
            return start + seconds
        layers = self.tiers[0].law.layers
        done = start
        for layer in range(layers):
            there = [begin]
            for t, tier in enumerate(self.tiers):
                through = self.loading[t:] if tier.law.carries else [self.loading[t]]
                blocks = sum(blocks_of(units) for units in through)
                if blocks:
                    share = (layer + 1) * blocks * tier.law.block_s / layers
                    there.append(begin + tier.law.latency_s + share)
            done = max(done, *there) + seconds / layers
        return done


def new_below(laws: tuple[TierLaw, ...], replicas: int) -> list[Below]:
    """Empty tiers of each replica, those that are shared in all of them."""
    shared = {law.name: Tier(law) for law in laws if law.shared}
    return [Below([shared.get(law.name) or Tier(law) for law in laws]) for _ in range(replicas)]


def prefill_alone(oracle: Oracle, tokens: int) -> float:
    """Of the first tokens of a prompt, in chunks as large as may be; the slowest stage."""
    tokens, seconds, past = max(1, tokens), 0.0, 0
    while past < tokens:
        chunk = tokens - past
        if oracle.policy.chunked:
            chunk = min(chunk, oracle.policy.max_num_batched_tokens, oracle.longest)
        rows = -(-chunk // oracle.tables.cp)
        seconds += max(
            oracle.by_tokens(table, rows) + oracle.prefill_attention(p, chunk, past)
            for p, table in enumerate(oracle.tables.mixed_s)
        )
        if oracle.tables.group.ranks > 1:
            each = -(-chunk // oracle.tables.group.ranks)
            seconds += oracle.by_tokens(oracle.tables.group.exchange_mixed_s, chunk)
            seconds += oracle.by_tokens(oracle.tables.group.experts_mixed_s, each)
        past += chunk
    return seconds
