"""The fullest of the ranks that hold the experts: everybody waits for it.

A rank's load is random twice: which experts it holds (a popular one or not), and how many of a finite number of tokens
chose them. The expected maximum over the ranks of (token, expert) pairs decides what is computed, that of experts with a
token decides what is read; both need not be one rank's, and both are taken. A rank's pairs are a sum of binomials, one
for each slot; a binomial of their mean and variance stands for it, and ranks are taken as independent. Placements of
unknown popularity are drawn, and means over the draws taken.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from apexsim.cost.counts import PREFIX
from apexsim.cost.operators import GroupedGemm
from apexsim.cost.placement import Floats, placed, slot_shares
from apexsim.cost.routing import CLASSES, TILES, Classes, Load, drawn_load, expert_load, is_drawn, shares_of

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

    rows: Floats  # pairs
    touched: Floats  # experts with a token
    mean: Classes  # popularity of the slots of all ranks together
    top: Classes  # of the rank that is expected to be fullest
    top_rows: float  # its expected pairs, over those of the mean rank


def rank_load(tokens: Floats, op: GroupedGemm) -> Load:
    """Load of the rank that the others wait for; what a benchmark dealt falls on the rank that it timed."""
    if not is_drawn(op.routing) or (op.ranks == 1 and not op.routing.startswith(PREFIX)):
        return expert_load(tokens, op.experts, op.experts_per_token, op.local_experts, op.routing)
    found = fullest(op)
    count = np.asarray(tokens, dtype=np.float64)
    rows = count * op.experts_per_token / op.ranks * _at(count, found.rows)
    mean = drawn_load(count, found.mean, 1.0 / op.ranks, ())
    touched = np.minimum(mean.touched * _at(count, found.touched), op.local_experts)
    effective = rows / max(found.top_rows * op.experts_per_token / op.ranks, 1e-12)
    padded = drawn_load(effective, found.top, 1.0, TILES).padded
    return Load(rows, touched, {tile: np.maximum(each, rows) for tile, each in padded.items()})


def fullest(op: GroupedGemm) -> Fullest:
    """Maxima of an operator's ranks."""
    return _fullest(
        op.routing, op.experts, op.experts_per_token, op.ranks, op.redundant, op.placement, op.nodes, op.groups
    )


@lru_cache(maxsize=128)
def _fullest(
    routing: str, experts: int, per_token: int, ranks: int, redundant: int, placement: str, nodes: int, groups: int
) -> Fullest:
    shares = slots(routing, experts, per_token, ranks, redundant, placement, nodes, groups)
    rows, touched = np.zeros(TOKENS.size), np.zeros(TOKENS.size)
    for draw in shares:
        rows += expected_maximum(TOKENS[:, None] * draw.sum(axis=1), TOKENS[:, None] * (draw * (1 - draw)).sum(axis=1))
        chosen = 1.0 - (1.0 - np.minimum(draw, 1 - 1e-12)) ** TOKENS[:, None, None]
        mean = chosen.sum(axis=2)
        touched += expected_maximum(mean, (chosen * (1 - chosen)).sum(axis=2)) / mean.mean(axis=1)
    top = np.array([draw[draw.sum(axis=1).argmax()] for draw in shares])
    top.sort(axis=1)
    mean_rows = TOKENS * per_token / ranks
    return Fullest(
        rows / len(shares) / mean_rows, touched / len(shares), _classes(np.concatenate(shares).ravel(), len(shares)),
        _classes(top.mean(axis=0), 1), float(top.sum(axis=1).mean()) * ranks / per_token,
    )  # fmt: skip


def slots(
    routing: str, experts: int, per_token: int, ranks: int, redundant: int, placement: str, nodes: int, groups: int
) -> tuple[Floats, ...]:
    """Placements, each [ranks, slots]: the probability that a token is sent to a slot.

    Counts of experts have one placement a layer. Of a law nobody knows which experts are the popular ones: it has
    draws of their order.
    """
    layers = shares_of(routing, experts, per_token)
    if not routing.startswith(PREFIX) and np.ptp(layers[0]) > 0 and ranks > 1:
        random = np.random.default_rng([experts, per_token, ranks])
        layers = tuple(random.permutation(layers[0]) for _ in range(max(DRAWS // ranks, FEWEST)))
    found = []
    for shares in layers:
        held = placed(shares, ranks, redundant, placement, nodes, groups)  # type: ignore[arg-type]
        found.append(slot_shares(shares, held))
    return tuple(found)


def expected_maximum(mean: Floats, variance: Floats) -> Floats:
    """[...] of independent binomials [..., ranks] of these means and variances: Σ_x 1 - Π_r P(rank r has at most x)."""
    chance = np.clip(1.0 - variance / np.maximum(mean, 1e-12), 1e-9, 1.0 - 1e-9)
    trials = np.maximum(mean, 1e-12) / chance
    deviation = np.sqrt(np.maximum(variance, 0.0))
    low = np.maximum(mean.max(axis=-1) - 4.0 * deviation.max(axis=-1), 0.0)
    high = np.minimum((mean + 6.0 * deviation).max(axis=-1) + 4.0, trials.max(axis=-1) + 0.5)
    step = (high - low) / POINTS
    if mean.shape[-1] == 1:
        return np.asarray(mean[..., 0])
    total = low
    for point in range(POINTS):
        x = low + (point + 0.5) * step
        below = at_most(x[..., None] - 0.5, trials, chance)
        total = total + step * (1.0 - below.prod(axis=-1))
    return np.asarray(np.maximum(total, mean.max(axis=-1)))


def at_most(count: Floats, trials: Floats, chance: Floats) -> Floats:
    """P(a binomial is at most ``count``), for fractions of trials and counts, too."""
    left = trials - count
    found = betainc(np.maximum(left, 1e-9), np.maximum(count, -1.0) + 1.0 + 1e-12, 1.0 - chance)
    return np.asarray(np.where(left <= 1e-9, 1.0, np.where(count <= -1.0, 0.0, found)))


def _classes(shares: Floats, placements: int) -> Classes:
    """Slots of about equal popularity together: (probability, how many of one placement)."""
    ordered = np.sort(shares)[::-1]
    return tuple(
        (float(members.mean()), members.size / placements)
        for members in np.array_split(ordered, min(CLASSES, ordered.size)) if members.size
    )


def _at(tokens: Floats, ratio: Floats) -> Floats:
    return np.asarray(np.exp(np.interp(np.log(np.maximum(tokens, 1.0)), np.log(TOKENS), np.log(ratio))))
