"""How published benchmarks deal tokens to experts: what the rows of a table of experts were measured with.

``balanced`` deals them in turn; ``power_law_<alpha>`` draws each expert's load from a bounded power law and times the
rank with the largest load (collector/helper.py of ai-dynamo/aiconfigurator, Apache-2.0). Its seed is not published, so
a power law is a mean over ``DRAWS`` draws here. Two suffixes, which may follow both:

    :fullest   an older release: what rounding loses goes to the fullest experts, not to the emptiest of each rank
    :8/4       the model's router keeps the best 4 of 8 groups of experts (DeepSeek-V3, arXiv 2412.19437). The experts
               that a token was dealt to outside of them are replaced by the first ones of the groups that are kept,
               so that the first rank gets most of them. Seen on up to ``SEEN`` tokens.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

DRAWS = 8
SEEN = 512

_WORD = re.compile(
    r"(?:balanced|power_law_(?P<alpha>\d+(?:\.\d+)?))(?P<fullest>:fullest)?(?::(?P<groups>\d+)/(?P<kept>\d+))?"
)


class Dealing(NamedTuple):
    """A routing of the tables, parsed."""

    alpha: float | None  # exponent of the power law; None: balanced
    fullest: bool
    groups: int  # of experts; 1: the router does not limit
    kept: int


def parse(routing: str) -> Dealing | None:
    """The dealing of that name; None where there is no such."""
    found = _WORD.fullmatch(routing)
    if found is None:
        return None
    alpha = found["alpha"]
    return Dealing(
        None if alpha is None else float(alpha), found["fullest"] is not None, int(found["groups"] or 1),
        int(found["kept"] or 1),
    )  # fmt: skip


@lru_cache(maxsize=65536)
def rank_counts(tokens: int, experts: int, per_token: int, ranks: int, dealing: Dealing) -> NDArray[np.float64]:
    """[draws, experts of a rank] tokens of each expert of the rank that the benchmark times."""
    if dealing.alpha is None:
        chosen = _balanced(np.arange(tokens), tokens, experts, per_token)
        counts = np.bincount(chosen.ravel(), minlength=experts).reshape(1, -1)
    else:
        counts = _drawn(tokens, experts, per_token, ranks, dealing.alpha, dealing.fullest)
    if dealing.groups > 1:
        counts = np.array([_limited(row, tokens, per_token, dealing) for row in counts])
    return np.asarray(counts[:, : experts // ranks], dtype=np.float64)


def _balanced(token: Integers, tokens: int, experts: int, per_token: int) -> Integers:
    """[tokens, per_token] experts: token t takes t, t + s, t + 2 s, …, s = experts / per_token."""
    stride = ceil(experts / per_token)
    first = token[:, None] if tokens >= stride else token[:, None] * stride / tokens
    return np.asarray((first + np.arange(per_token) * stride).astype(np.int64) % experts)


def _drawn(tokens: int, experts: int, per_token: int, ranks: int, alpha: float, fullest: bool) -> Integers:
    """[draws, experts] tokens of each expert; the first rank is the fullest."""
    random = np.random.default_rng([round(1000 * alpha), tokens, experts, per_token, ranks]).random((DRAWS, experts))
    low, high = (1.0, 0.8 * tokens) if tokens * per_token > experts else (0.01, 2.0)
    power = 1.0 - alpha
    weight = ((high**power - low**power) * random + low**power) ** (1.0 / power)
    wanted = weight / weight.sum(axis=1, keepdims=True) * tokens * per_token
    counts = np.rint(wanted).astype(np.int64)
    if fullest:
        counts = np.array([_heaped(row, tokens * per_token) for row in counts]).reshape(DRAWS, ranks, -1)
    else:
        counts = _dealt_out(np.minimum(counts, tokens).reshape(DRAWS, ranks, -1), tokens * per_token, tokens)
    draw, top = np.arange(DRAWS), counts.sum(axis=2).argmax(axis=1)
    counts[draw, 0], counts[draw, top] = counts[draw, top].copy(), counts[draw, 0].copy()
    return np.asarray(counts.reshape(DRAWS, experts))


def _limited(counts: Integers, tokens: int, per_token: int, dealing: Dealing) -> Integers:
    """[experts] tokens of each expert after the router has kept some groups of experts for each token."""
    experts, groups, seen = counts.size, dealing.groups, min(tokens, SEEN)
    token = np.linspace(0, tokens - 1, seen).astype(np.int64)
    if dealing.alpha is None:
        chosen = _balanced(token, tokens, experts, per_token)
    else:  # experts by falling load, each as often as it has tokens, fill the choices column by column
        order = np.argsort(-counts, kind="stable")
        place = token[:, None] + tokens * np.arange(per_token)
        chosen = order[np.minimum(np.searchsorted(np.cumsum(counts[order]), place, side="right"), experts - 1)]
    hot = np.zeros((seen, experts), dtype=np.int64)
    np.put_along_axis(hot, chosen, 1, axis=1)
    score = np.minimum(hot.reshape(seen, groups, -1).sum(axis=2), 2)  # a group counts by its two best experts
    best = np.argsort(-score, axis=1, kind="stable")[:, : dealing.kept]
    allowed = np.zeros((seen, groups), dtype=np.int64)
    np.put_along_axis(allowed, best, 2, axis=1)
    value = hot + np.repeat(allowed, experts // groups, axis=1)
    found = np.argsort(-value, axis=1, kind="stable")[:, :per_token]
    return _scaled(np.bincount(found.ravel(), minlength=experts), tokens, seen)


def _scaled(counts: Integers, tokens: int, seen: int) -> Integers:
    """``counts`` of so many tokens that were seen, for all of them: no row is lost or made up, the largest remainders
    are rounded up."""
    whole, rest = np.divmod(counts * tokens, seen)
    whole[np.argsort(-rest, kind="stable")[: int(rest.sum()) // seen]] += 1
    return np.asarray(whole)


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


def _dealt_out(counts: Integers, total: int, limit: int) -> Integers:
    """[draws, ranks, experts of a rank] counts after what is missing of ``total``, or too many, was dealt out."""
    for _ in range(counts.shape[1]):
        missing = total - counts.sum(axis=(1, 2))
        if not missing.any():
            break
        counts = _evened(counts, missing, limit)
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
