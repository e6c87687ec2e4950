"""How the tokens of a batch fall on the experts of one rank, which decides what a grouped GEMM must read and compute.

Three kinds of routing, named as in the tables of measured kernels:

    uniform             every token draws its experts at random, all equally likely: expected values, in closed form
    balanced            tokens are dealt to the experts in turn, which no router does but benchmarks do
    power_law_<alpha>   experts' loads follow a bounded power law; the rank with the largest load is looked at

The last two are what the published benchmark generates (collector/helper.py of ai-dynamo/aiconfigurator, Apache-2.0).
It draws from a seed that is not published, so a power law is a mean over ``DRAWS`` draws here. What rounding loses, it
deals to the emptiest experts of each rank in turn; ``power_law_<alpha>:fullest`` is its older release, which gives it
to the fullest ones, however many tokens they have.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from apexsim.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TILES = (16, 64, 128)
"""Rows of the tiles that grouped GEMM kernels use."""

DRAWS = 8

MANY_TILES = 8
"""From so many tiles an expert on, its last tile is half full on average whatever the exact count is."""

POWER_LAW = "power_law_"
FULLEST = ":fullest"


class Load(NamedTuple):
    """Load of the experts of one rank; one value for each token count."""

    rows: Floats  # (token, expert) pairs that fall on the rank
    touched: Floats  # experts of the rank that at least one token chose
    padded: dict[int, Floats]  # tile -> rows after each expert's rows were rounded up to whole tiles


def expert_load(tokens: Floats, experts: int, per_token: int, local: int, routing: str = "uniform") -> Load:
    """The load of a rank that holds ``local`` of ``experts`` experts.

    Args:
        tokens: tokens of all ranks together; each chooses ``per_token`` experts.
        routing: see the module.

    Raises:
        UsageError: an unknown routing.
    """
    count = np.asarray(tokens, dtype=np.float64)
    if routing == "uniform":
        return _uniform(count, experts, per_token, local)
    if routing != "balanced" and _exponent(routing) is None:
        raise UsageError(f"routing {routing!r} is not known: uniform, balanced or {POWER_LAW}1.2 (any exponent)")
    whole, where = np.unique(np.maximum(np.rint(count), 1).astype(np.int64), return_inverse=True)
    table = np.array([_measured(int(n), experts, per_token, experts // local, routing) for n in whole])
    columns = table[where.reshape(count.shape)]
    padded = {tile: columns[..., 2 + index] for index, tile in enumerate(TILES)}
    return Load(columns[..., 0], columns[..., 1], padded)


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


def _exponent(routing: str) -> float | None:
    text = routing.removesuffix(FULLEST).removeprefix(POWER_LAW)
    try:
        return float(text) if routing.startswith(POWER_LAW) else None
    except ValueError:
        return None


@lru_cache(maxsize=65536)
def _measured(tokens: int, experts: int, per_token: int, ranks: int, routing: str) -> tuple[float, ...]:
    """Rows, touched experts and padded rows of the rank that the benchmark times."""
    alpha = _exponent(routing)
    if alpha is None:
        counts = _dealt(tokens, experts, per_token).reshape(1, ranks, -1)[:, 0]
    else:
        counts = _drawn(tokens, experts, per_token, ranks, alpha, routing.endswith(FULLEST))
    padded = [float((-(-counts // tile) * tile).sum(axis=1).mean()) for tile in TILES]
    return float(counts.sum(axis=1).mean()), float((counts > 0).sum(axis=1).mean()), *padded


def _dealt(tokens: int, experts: int, per_token: int) -> Integers:
    """[experts] tokens of each: token t takes experts t, t + s, t + 2 s, …, s = experts / per_token."""
    stride = ceil(experts / per_token)
    token, choice = np.arange(tokens)[:, None], np.arange(per_token)[None, :]
    first = token if tokens >= stride else token * stride / tokens
    return np.bincount((first + choice * stride).astype(np.int64).ravel() % experts, minlength=experts)


def _drawn(tokens: int, experts: int, per_token: int, ranks: int, alpha: float, fullest: bool) -> Integers:
    """[draws, experts of a rank] tokens of each expert of the fullest rank."""
    random = np.random.default_rng([round(1000 * alpha), tokens, experts, per_token, ranks]).random((DRAWS, experts))
    low, high = (1.0, 0.8 * tokens) if tokens * per_token > experts else (0.01, 2.0)
    power = 1.0 - alpha
    weight = ((high**power - low**power) * random + low**power) ** (1.0 / power)
    wanted = weight / weight.sum(axis=1, keepdims=True) * tokens * per_token
    counts = np.rint(wanted).astype(np.int64)
    if fullest:
        counts = np.array([_heaped(row, tokens * per_token) for row in counts]).reshape(DRAWS, ranks, -1)
    else:
        counts = np.minimum(counts, tokens).reshape(DRAWS, ranks, -1)
        for _ in range(ranks):
            missing = tokens * per_token - counts.sum(axis=(1, 2))
            if not missing.any():
                break
            counts = _evened(counts, missing, tokens)
    return np.asarray(counts[np.arange(DRAWS), counts.sum(axis=2).argmax(axis=1)])


def _heaped(counts: Integers, total: int) -> Integers:
    """[experts] counts after what is missing of ``total`` went to the fullest in turn; too many leave the emptiest."""
    missing = total - int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    if missing >= 0:
        each, more = divmod(missing, counts.size)
        counts[order] += each + (np.arange(counts.size) < more)
        return counts
    for index in range(-missing):
        taken = order[-1 - index % counts.size]
        counts[taken if counts[taken] > 0 else counts.argmax()] -= 1
    return counts


def _evened(counts: Integers, missing: Integers, limit: int) -> Integers:
    """``missing`` tokens (of each draw; negative: too many) dealt to the ranks in turn, each to its emptiest expert."""
    sign = np.sign(missing)[:, None]
    room = (np.where(sign[..., None] > 0, limit - counts, counts)).sum(axis=2)
    open_ranks = room > 0
    order = np.cumsum(open_ranks, axis=1) - 1
    each, more = np.divmod(np.abs(missing)[:, None], np.maximum(open_ranks.sum(axis=1, keepdims=True), 1))
    quota = np.minimum(np.where(open_ranks, each + (order < more), 0), room)
    signed = sign[..., None]
    return np.asarray(signed * _raised(signed * counts, quota) + (signed == 0) * counts)


def _raised(counts: Integers, added: Integers) -> Integers:
    """[..., n] counts after ``added`` [...] units went, one by one, to the smallest of them; sorted."""
    ordered = np.sort(counts, axis=-1)
    size = ordered.shape[-1]
    below = np.cumsum(ordered, axis=-1)
    cost = ordered * np.arange(1, size + 1) - below  # to raise the first j to the value of the j-th
    reached = (cost <= added[..., None]).sum(axis=-1)
    total = np.take_along_axis(below, reached[..., None] - 1, axis=-1)[..., 0] + added
    level, rest = np.divmod(total, reached)
    place = np.arange(size)
    raised = np.where(place < rest[..., None], level[..., None] + 1, level[..., None])
    return np.where(place < reached[..., None], raised, ordered)
