"""What the attention ranks of a replica do together: exchanges of tokens, and experts that hold the tokens of all.

A rank's own operators are priced by its own tokens, in the tables and ledgers of any replica. The others are priced
twice over, for iterations with prefill and for those without: by the tokens of the fullest rank, or by those of all
ranks, tabulated by their mean. ``engine/lockstep.py`` adds them up and counts both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.beside import ALL_OF_IT, Exposed
from apexsim.cost.host import Graphs, graph_sizes
from apexsim.cost.ledger import LINES, Ledger, seconds
from apexsim.cost.operators import Operator
from apexsim.cost.pricing import Pricer, Sizes
from apexsim.cost.tables import ALONE, GroupTables

FULLEST, ALL, REST = 0, 2, 4
"""First rows of ``Counters.together``, each followed by that of iterations without prefill."""

DRAFTED = 6
"""First of three rows of later passes of drafts: fullest, all, rest."""


class Together(NamedTuple):
    """Ledgers of one device, each for iterations with prefill (by token knots) and without (by sequences)."""

    ranks: int
    fullest: tuple[Ledger, Ledger]  # by tokens of the fullest rank
    all: tuple[Ledger, Ledger]  # by the mean tokens of the ranks
    drafts: tuple[Ledger, Ledger] | None = None  # passes of drafts after the first: fullest, all, by sequences

    def seconds(self, mixed: bool) -> NDArray[np.float64]:
        """Device seconds at each size, where all ranks have as many tokens."""
        kind = 0 if mixed else 1
        return seconds(self.fullest[kind]) + seconds(self.all[kind])

    def with_drafts(self, first: Together, later: Together, passes: int) -> Together:
        """These, and what ranks do together for drafts: in one pass over the same tokens, and ``passes`` later ones."""
        if first.ranks == 1:  # every rank drafts by itself
            return self
        mixed, decode = (
            (self.fullest[kind] + first.fullest[kind], self.all[kind] + first.all[kind]) for kind in (0, 1)
        )
        more = (passes * later.fullest[1], passes * later.all[1]) if passes else None
        return Together(self.ranks, (mixed[0], decode[0]), (mixed[1], decode[1]), more)

    def tables(self, graphs: Graphs, max_num_seqs: int, each: int = 1) -> GroupTables:
        """For the engine. Ranks pad to the fullest one up to the largest CUDA graph, as all replay the same one.

        ``each``: tokens that a decoding sequence computes in an iteration.
        """
        if self.ranks == 1:
            return ALONE
        largest = int(graph_sizes(graphs, each * max_num_seqs).max(initial=0))
        group = GroupTables(
            self.ranks, largest if graphs.with_prefill else 0, largest // each, seconds(self.fullest[0]),
            seconds(self.fullest[1]), seconds(self.all[0]), seconds(self.all[1]),
        )  # fmt: skip
        if self.drafts is None:
            return group
        return group._replace(exchange_drafts_s=seconds(self.drafts[0]), experts_drafts_s=seconds(self.drafts[1]))

    def spent(self, counts: NDArray[np.int64], dense: int, stride: int) -> NDArray[np.float64]:
        """[LINES] of all iterations in ``counts`` (``Counters.together``), for one device of each rank."""
        total = np.zeros(LINES)
        if len(counts) == 0:
            return total
        for kind in (0, 1):
            steps = 0 if kind else stride
            total += _at(self.fullest[kind], counts[FULLEST + kind], dense, steps)
            total += _at(self.all[kind], counts[ALL + kind], dense, steps)
            total += _more(self.all[kind], counts[REST + kind] / self.ranks, dense, steps)
        if self.drafts is not None:
            fullest, everyone = self.drafts
            total += _at(fullest, counts[DRAFTED], dense, 0) + _at(everyone, counts[DRAFTED + 1], dense, 0)
            total += _more(everyone, counts[DRAFTED + 2] / self.ranks, dense, 0)
        return self.ranks * total


NOTHING = Together(1, *((np.zeros((LINES, 1)), np.zeros((LINES, 1))) for _ in range(2)))
"""Where no rank shares anything."""


def together(
    prices: Pricer, operators: Sequence[Operator], ranks: int, sizes: tuple[Sizes, Sizes],
    exposed: tuple[Exposed, ...] = (ALL_OF_IT, ALL_OF_IT),
) -> Together:  # fmt: skip
    """Ledgers of the operators that are not a rank's own; ``sizes``: of iterations with prefill, and without.

    ``exposed``: what of the exchanges is not hidden behind other work, of either.
    """
    if ranks == 1:
        return NOTHING

    def of(tokens: str) -> tuple[Ledger, Ledger]:
        found = [op for op in operators if op.rows.tokens == tokens]
        nothing = [np.zeros_like(prices.ledger(operators[0], each)) for each in sizes]
        mixed, decode = (
            sum((prices.ledger(op, each) for op in found), none) for each, none in zip(sizes, nothing, strict=True)
        )
        return mixed, decode

    mixed, decode = (each.exchanged(ledger) for each, ledger in zip(exposed, of("fullest"), strict=True))
    return Together(ranks, (mixed, decode), of("all"))


def knot_shares(
    tokens: NDArray[np.int64], knots: int, dense: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """(knot below, share of the next one, that one) of token counts; ``stride`` 0: a knot at every count."""
    position = tokens.astype(np.float64)
    if stride:
        position = np.minimum(tokens, dense) + np.maximum(tokens - dense, 0) / stride
    left = np.clip(np.floor(position).astype(np.int64), 0, max(knots - 2, 0))
    return left, position - left, np.minimum(left + 1, knots - 1)


def _at(ledger: Ledger, counts: NDArray[np.int64], dense: int, stride: int) -> NDArray[np.float64]:
    """[LINES] of ``counts[T]`` iterations of T tokens."""
    tokens = np.flatnonzero(counts)
    left, share, right = knot_shares(tokens, ledger.shape[1], dense, stride)
    return np.asarray((ledger[:, left] * (1.0 - share) + ledger[:, right] * share) @ counts[tokens].astype(np.float64))


def _more(ledger: Ledger, shares: NDArray[np.float64], dense: int, stride: int) -> NDArray[np.float64]:
    """[LINES] of ``shares[T]`` of the step from T tokens to T + 1."""
    tokens = np.flatnonzero(shares)
    weights = np.zeros(len(shares) + 1)
    weights[tokens] -= shares[tokens]
    weights[tokens + 1] += shares[tokens]
    where = np.flatnonzero(weights)
    left, share, right = knot_shares(where, ledger.shape[1], dense, stride)
    return np.asarray((ledger[:, left] * (1.0 - share) + ledger[:, right] * share) @ weights[where])
