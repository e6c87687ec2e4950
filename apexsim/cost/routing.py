"""How the tokens of a batch fall on the experts of one rank, which decides what a grouped GEMM must read and compute.

A serving step takes ``SERVING`` routing unless its plan says otherwise: every token draws its experts at random, some
of them more likely than others by a Zipf law; the load here is the expected one, in closed form, of the mean rank (for
the fullest see ``fullest.py``). ``uniform`` is the law of exponent 0, ``counts:`` and a path a measured popularity.
Other words are those of benchmarks, see ``dealt.py``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from apexsim.cost.counts import PREFIX, counts
from apexsim.cost.dealt import Dealing, parse, rank_counts
from apexsim.errors import UsageError
from apexsim.spec.experts import Experts, Placement, Zipf

Floats = NDArray[np.float64]
Classes = tuple[tuple[float, float], ...]
"""(probability that a token chooses one of them, how many experts) of each class."""

_ZIPF = re.compile(r"uniform|zipf_(?P<exponent>\d+(?:\.\d+)?)(?:/(?P<ranks>\d+(?:\.\d+)?))?")

TILES = (16, 64, 128)
"""Rows of the tiles that grouped GEMM kernels use."""

SERVING = "zipf_1/0.5"
"""Popularity of experts in serving: of those that a batch touches / of the sums of whole ranks.

Within a batch equally likely experts make decode steps of 16 to 64 sequences 12 to 22 % too slow in the runs of six
models (gpt-oss, DeepSeek-R1, Qwen3-235B, Llama-4-Scout, Mixtral; vLLM, SGLang, TensorRT-LLM on H100, H200, B200),
because too many experts are read; an exponent of 1 takes that bias to a few per cent, whatever the batch. The kernel
benchmarks' own skewed law has an exponent of 1.01 or 1.2.

Between ranks 1 cannot be the truth: the fullest of 32 would have 4.7 times the mean, where evening them out made
DeepSeek's prefill only 1.49 times faster under SGLang (LMSYS, May 2025), and runs with four and eight expert-parallel
ranks show no such skew. 0.5 is twice the mean at 32 ranks."""

CLASSES = 16
"""Experts of about equal popularity are taken together, in so many classes."""

MANY_TILES = 8
"""From so many tiles an expert on, its last tile is half full on average whatever the exact count is."""


class Spread(NamedTuple):
    """How popular the experts of a pool are, and which of its devices holds which."""

    routing: str = SERVING
    redundant: int = 0
    placement: Placement = "contiguous"


def spread_of(experts: Experts) -> Spread:
    """What a plan says of its experts, in words of this module."""
    routing = experts.routing
    if isinstance(routing, Zipf):
        word = f"zipf_{routing.zipf:g}"
    else:
        word = {"serving-default": SERVING, "balanced": "uniform"}.get(routing, PREFIX + routing)
    return Spread(word, experts.redundant_experts, experts.placement)


class Load(NamedTuple):
    """Load of the experts of one rank; one value for each token count."""

    rows: Floats  # (token, expert) pairs that fall on the rank
    touched: Floats  # experts of the rank that at least one token chose
    padded: dict[int, Floats]  # tile -> rows after each expert's rows were rounded up to whole tiles


def expert_load(
    tokens: Floats, experts: int, per_token: int, local: int, routing: str = "uniform", tiles: tuple[int, ...] = TILES
) -> Load:
    """The load of a rank that holds ``local`` of ``experts`` experts.

    Args:
        tokens: tokens of all ranks together; each chooses ``per_token`` experts.
        routing: ``uniform``, ``zipf_`` and an exponent, or a word of ``dealt.py``.
        tiles: of which the padded rows are wanted, where tokens are drawn.

    Raises:
        UsageError: an unknown routing.
    """
    count = np.asarray(tokens, dtype=np.float64)
    drawn = _ZIPF.fullmatch(routing)
    if drawn is not None:
        classes = popularity(experts, per_token, float(drawn["exponent"] or 0.0))
        return drawn_load(count, classes, local / experts, tiles)
    dealing = parse(routing)
    if dealing is None:
        allowed = "uniform, zipf_1, balanced or power_law_1.2 (any exponent)"
        raise UsageError(f"routing {routing!r} is not known: {allowed}")
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


@lru_cache(maxsize=256)
def popularity(experts: int, per_token: int, exponent: float) -> Classes:
    """(probability that a token chooses one of them, number of experts) of each class, most popular first.

    Probabilities fall as rank^-exponent, are at most 1, and sum to ``per_token`` over all experts.
    """
    shares = chosen_shares(np.arange(1, experts + 1.0) ** -exponent, per_token)
    classes = np.array_split(shares, 1 if exponent == 0.0 else min(CLASSES, experts))
    return tuple((float(members.mean()), len(members)) for members in classes)


def between_ranks(routing: str) -> str:
    """The popularity of experts that decides how full the ranks are."""
    drawn = _ZIPF.fullmatch(routing)
    return f"zipf_{drawn['ranks']}" if drawn is not None and drawn["ranks"] else routing


def is_drawn(routing: str) -> bool:
    """Whether tokens draw their experts by a popularity, so that there is a fullest rank; benchmarks deal them."""
    return routing.startswith(PREFIX) or _ZIPF.fullmatch(routing) is not None


def chosen_shares(weights: Floats, per_token: int) -> Floats:
    """[experts] probability that a token chooses each, in proportion to ``weights`` but at most 1."""
    shares = per_token * weights / weights.sum()
    while (shares > 1.0 + 1e-12).any():
        sure = shares >= 1.0
        rest = weights * ~sure
        shares = np.where(sure, 1.0, (per_token - sure.sum()) * rest / rest.sum())
    return np.asarray(shares)


@lru_cache(maxsize=64)
def shares_of(routing: str, experts: int, per_token: int) -> tuple[Floats, ...]:
    """[experts] probabilities that a token chooses each, of every layer that ``routing`` tells apart."""
    drawn = _ZIPF.fullmatch(routing)
    if drawn is not None:
        return (chosen_shares(np.arange(1, experts + 1.0) ** -float(drawn["exponent"] or 0.0), per_token),)
    return tuple(chosen_shares(row, per_token) for row in counts(routing.removeprefix(PREFIX), experts))


def drawn_load(tokens: Floats, classes: Classes, held: float, tiles: tuple[int, ...] = TILES) -> Load:
    """An expert's tokens are binomial; a rank holds the part ``held`` of each class."""
    rows, touched = np.zeros_like(tokens), np.zeros_like(tokens)
    padded = {tile: np.zeros_like(tokens) for tile in tiles}
    for share, members in classes:
        chance, count = min(share, 1.0 - 1e-12), held * members
        rows += count * share * tokens
        touched += count * (1.0 - (1.0 - chance) ** tokens)
        for tile in tiles:
            padded[tile] += count * _padded(tokens, chance, tile)
    return Load(rows, touched, padded)


def _padded(tokens: Floats, share: float, tile: int) -> Floats:
    """Expected rows of one expert in whole tiles: tile · Σ_{j >= 0} P(tokens of the expert > j · tile).

    The tail of a binomial is an incomplete beta function, which fractions of tokens may enter.
    """
    return _padded_at(tokens.tobytes(), share, tile).reshape(tokens.shape)


@lru_cache(maxsize=1 << 14)
def _padded_at(token_bytes: bytes, share: float, tile: int) -> Floats:
    """The same at token counts as bytes: it is the same for all ranks, and so for most plans of a search."""
    tokens = np.frombuffer(token_bytes)
    mean = tokens * share
    few, counted = np.minimum(mean, MANY_TILES * tile) / max(share, 1e-12), mean < MANY_TILES * tile
    steps = ceil((MANY_TILES * tile + 8.0 * (MANY_TILES * tile) ** 0.5) / tile) + 1
    total = np.zeros_like(mean)
    for step in range(steps):
        more = counted & (few > step * tile)
        total[more] += betainc(step * tile + 1.0, np.maximum(few[more] - step * tile, 1e-9), share)
    return np.asarray(np.where(counted, tile * total, mean + 0.5 * (tile - 1)))
