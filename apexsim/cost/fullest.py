"""The fullest of the ranks that hold the experts: everybody waits for it.

A rank's load is random twice: which experts it holds (popular ones or not), and how many of a finite number of tokens
chose them. The expected maximum over the ranks of (token, expert) pairs decides what is computed, that of the experts
with a token decides what is read; both need not be one rank's, and both are taken. A rank's pairs are a sum of
binomials, one for each slot; a binomial of their mean and variance stands for it, and ranks are taken as independent.
Where nobody knows which experts are the popular ones their order is drawn, and means over the draws taken.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from apexsim.cost.counts import PREFIX
from apexsim.cost.operators import GroupedGemm
from apexsim.cost.placement import placed, slot_shares
from apexsim.cost.routing import (
    CLASSES,
    TILES,
    Classes,
    Load,
    between_ranks,
    drawn_load,
    expert_load,
    is_drawn,
    shares_of,
)
from apexsim.spec.experts import Placement

Floats = NDArray[np.float64]

DRAWS = 256
"""Ranks that are drawn, of all placements together."""

FEWEST = 4
"""Placements that are drawn at least."""

TOKENS = 4.0 ** np.arange(0, 11)
"""Tokens at which maxima are worked out; between them, in logarithms, straight lines."""

POINTS = 32
"""At which the distribution of a maximum is looked at."""


class Fullest(NamedTuple):
    """What the fullest rank has over the mean one, by ``TOKENS``."""

    rows: Floats  # (token, expert) pairs
    touched: Floats  # experts with a token


class Dealt(NamedTuple):
    """Experts dealt to ranks: what an operator's loads depend on."""

    routing: str
    experts: int
    per_token: int
    ranks: int
    redundant: int
    placement: Placement
    nodes: int
    groups: int


def rank_load(tokens: Floats, op: GroupedGemm) -> Load:
    """Load of the rank that the others wait for; what a benchmark dealt falls on the rank that it timed."""
    count = np.asarray(tokens, dtype=np.float64)
    if op.ranks == 1 or not is_drawn(op.routing):
        return mean_load(count, op, TILES)
    load = mean_load(count, op)
    dealt = dealt_of(op)
    most = fullest(dealt._replace(routing=between_ranks(op.routing)))
    heavier = at(count, most.rows)
    rows, padded = load.rows * heavier, drawn_load(count * heavier, classes(dealt), 1.0 / op.ranks).padded
    touched = np.minimum(load.touched * at(count, most.touched), op.local_experts)
    return Load(rows, touched, {tile: np.maximum(padded[tile], rows) for tile in TILES})


def mean_load(tokens: Floats, op: GroupedGemm, tiles: tuple[int, ...] = ()) -> Load:
    """Load of a rank, the mean over all of them; ``tiles``: of which the padded rows are wanted."""
    count = np.asarray(tokens, dtype=np.float64)
    if is_drawn(op.routing) and (op.redundant or op.routing.startswith(PREFIX)):
        return drawn_load(count, classes(dealt_of(op)), 1.0 / op.ranks, tiles)
    return expert_load(count, op.experts, op.experts_per_token, op.local_experts, op.routing, tiles)


def dealt_of(op: GroupedGemm) -> Dealt:
    """What an operator's loads depend on."""
    return Dealt(
        op.routing, op.experts, op.experts_per_token, op.ranks, op.redundant, op.placement, op.nodes, op.groups
    )


@lru_cache(maxsize=64)
def slots(dealt: Dealt) -> tuple[Floats, ...]:
    """Placements, each [ranks, slots]: the probability that a token is sent to a slot.

    Counts of experts have one placement a layer. Of a law nobody knows which experts are the popular ones: it has
    draws of their order, where the order matters.
    """
    layers = shares_of(dealt.routing, dealt.experts, dealt.per_token)
    known = dealt.routing.startswith(PREFIX) or np.ptp(layers[0]) == 0
    if not known and (dealt.placement == "contiguous" or dealt.nodes > 1):
        random = np.random.default_rng([dealt.experts, dealt.per_token, dealt.ranks])
        layers = tuple(random.permutation(layers[0]) for _ in range(max(DRAWS // dealt.ranks, FEWEST)))
    return tuple(
        slot_shares(shares, placed(shares, dealt.ranks, dealt.redundant, dealt.placement, dealt.nodes, dealt.groups))
        for shares in layers
    )


@lru_cache(maxsize=128)
def classes(dealt: Dealt) -> Classes:
    """Slots of about equal popularity together: (probability, how many there are on all ranks)."""
    placements = slots(dealt)
    ordered = np.sort(np.concatenate(placements).ravel())[::-1]
    return tuple(
        (float(members.mean()), members.size / len(placements))
        for members in np.array_split(ordered, min(CLASSES, ordered.size))
    )


@lru_cache(maxsize=128)
def fullest(dealt: Dealt) -> Fullest:
    """Maxima over the ranks, a mean over placements."""
    placements = slots(dealt)
    rows, touched = np.zeros(TOKENS.size), np.zeros(TOKENS.size)
    for shares in placements:
        held = shares.sum(axis=1)
        most = expected_maximum(TOKENS[:, None] * held, TOKENS[:, None] * (shares * (1 - shares)).sum(axis=1))
        rows += most / (TOKENS * held.mean())
        chosen = 1.0 - (1.0 - np.minimum(shares, 1 - 1e-12)) ** TOKENS[:, None, None]
        mean = chosen.sum(axis=2)
        touched += expected_maximum(mean, (chosen * (1 - chosen)).sum(axis=2)) / mean.mean(axis=1)
    return Fullest(rows / len(placements), touched / len(placements))


class Skew(NamedTuple):
    """What comes to the fullest over what comes to the mean one, of very many tokens."""

    pairs: float  # (token, expert) pairs of a rank
    visits: float  # tokens with an expert on a rank
    node_visits: float  # tokens with an expert on a node


@lru_cache(maxsize=128)
def skew(dealt: Dealt, nodes: int) -> Skew:
    """Skew over the ranks and over their nodes, a mean over placements; 1 where benchmarks dealt the tokens."""
    if not is_drawn(dealt.routing):
        return Skew(1.0, 1.0, 1.0)
    found = []
    for shares in slots(dealt._replace(routing=between_ranks(dealt.routing))):
        missed = (1.0 - np.minimum(shares, 1.0)).prod(axis=1)
        of_ranks, of_nodes = 1.0 - missed, 1.0 - missed.reshape(nodes, -1).prod(axis=1)
        found.append([float(each.max() / each.mean()) for each in (shares.sum(axis=1), of_ranks, of_nodes)])
    return Skew(*np.mean(found, axis=0).tolist())


def expected_maximum(mean: Floats, variance: Floats) -> Floats:
    """[...] of independent binomials [..., ranks] of these means and variances: Σ_x 1 - Π_r P(rank r has at most x)."""
    if mean.shape[-1] == 1:
        return np.asarray(mean[..., 0])
    chance = np.clip(1.0 - variance / np.maximum(mean, 1e-12), 1e-9, 1.0 - 1e-9)
    trials = np.maximum(mean, 1e-12) / chance
    deviation = np.sqrt(np.maximum(variance, 0.0))
    low = np.maximum(mean.max(axis=-1) - 4.0 * deviation.max(axis=-1), 0.0)
    high = np.minimum((mean + 6.0 * deviation).max(axis=-1) + 4.0, trials.max(axis=-1) + 0.5)
    step = (high - low) / POINTS
    total = low
    for point in range(POINTS):
        x = low + (point + 0.5) * step
        below = _at_most(x[..., None] - 0.5, trials, chance)
        total = total + step * (1.0 - below.prod(axis=-1))
    return np.asarray(np.maximum(total, mean.max(axis=-1)))


def _at_most(count: Floats, trials: Floats, chance: Floats) -> Floats:
    """P(a binomial is at most ``count``), for fractions of trials and counts, too."""
    left = trials - count
    found = betainc(np.maximum(left, 1e-9), np.maximum(count, -1.0) + 1.0 + 1e-12, 1.0 - chance)
    return np.asarray(np.where(left <= 1e-9, 1.0, np.where(count <= -1.0, 0.0, found)))


def at(tokens: Floats, ratio: Floats) -> Floats:
    """A ratio by ``TOKENS`` at any number of tokens."""
    return np.asarray(np.exp(np.interp(np.log(np.maximum(tokens, 1.0)), np.log(TOKENS), np.log(ratio))))
