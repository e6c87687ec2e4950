"""How the tokens of a batch fall on the experts of one rank, which decides what a grouped GEMM must read and compute.

A serving step takes ``uniform`` routing: every token draws its experts at random, all equally likely; the load is the
expected one, in closed form, of any of the ranks. Other words are those of benchmarks, see ``dealt.py``.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from apexsim.cost.dealt import Dealing, parse, rank_counts
from apexsim.errors import UsageError

Floats = NDArray[np.float64]

TILES = (16, 64, 128)
"""Rows of the tiles that grouped GEMM kernels use."""

MANY_TILES = 8
"""From so many tiles an expert on, its last tile is half full on average whatever the exact count is."""


class Load(NamedTuple):
    """Load of the experts of one rank; one value for each token count."""

    rows: Floats  # (token, expert) pairs that fall on the rank
    touched: Floats  # experts of the rank that at least one token chose
    padded: dict[int, Floats]  # tile -> rows after each expert's rows were rounded up to whole tiles


def expert_load(tokens: Floats, experts: int, per_token: int, local: int, routing: str = "uniform") -> Load:
    """The load of a rank that holds ``local`` of ``experts`` experts.

    Args:
        tokens: tokens of all ranks together; each chooses ``per_token`` experts.
        routing: ``uniform``, or a word of ``dealt.py``.

    Raises:
        UsageError: an unknown routing.
    """
    count = np.asarray(tokens, dtype=np.float64)
    if routing == "uniform":
        return _uniform(count, experts, per_token, local)
    dealing = parse(routing)
    if dealing is None:
        raise UsageError(f"routing {routing!r} is not known: uniform, balanced or power_law_1.2 (any exponent)")
    whole, where = np.unique(np.maximum(np.rint(count), 1).astype(np.int64), return_inverse=True)
    table = np.array([_measured(int(n), experts, per_token, experts // local, dealing) for n in whole])
    columns = table[where.reshape(count.shape)]
    padded = {tile: columns[..., 2 + index] for index, tile in enumerate(TILES)}
    return Load(columns[..., 0], columns[..., 1], padded)


@lru_cache(maxsize=65536)
def _measured(tokens: int, experts: int, per_token: int, ranks: int, dealing: Dealing) -> tuple[float, ...]:
    """Rows, touched experts and padded rows of the rank that the benchmark times, a mean over its draws."""
    counts = rank_counts(tokens, experts, per_token, ranks, dealing)
    padded = [float((np.ceil(counts / tile) * tile).sum(axis=1).mean()) for tile in TILES]
    return float(counts.sum(axis=1).mean()), float((counts > 0).sum(axis=1).mean()), *padded


def _uniform(tokens: Floats, experts: int, per_token: int, local: int) -> Load:
    """An expert's tokens are binomial: n draws of probability k / E."""
    share = min(per_token / experts, 1.0)
    touched = local * (1.0 - (1.0 - share) ** tokens)
    padded = {tile: local * _padded(tokens, share, tile) for tile in TILES}
    return Load(local * share * tokens, touched, padded)


def _padded(tokens: Floats, share: float, tile: int) -> Floats:
    """Expected rows of one expert in whole tiles: tile · Σ_{j >= 0} P(tokens of the expert > j · tile).

    The tail of a binomial is an incomplete beta function, which fractions of tokens may enter.
    """
    mean = tokens * share
    few = np.minimum(mean, MANY_TILES * tile) / max(share, 1e-12)
    steps = ceil((MANY_TILES * tile + 8.0 * (MANY_TILES * tile) ** 0.5) / tile) + 1
    total = np.zeros_like(mean)
    for step in range(steps):
        more = np.maximum(few - step * tile, 0.0)
        total += np.where(more > 0.0, betainc(step * tile + 1.0, np.maximum(more, 1e-9), share), 0.0)
    return np.asarray(np.where(mean < MANY_TILES * tile, tile * total, mean + 0.5 * (tile - 1)))
