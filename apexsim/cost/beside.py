"""What runs beside the exchange of tokens, and what of its time that hides.

``experts: {overlap_shared: true}``: an engine runs the shared experts on a stream of their own while tokens travel. Of
each rank they hide at most as long as an exchange of as many tokens lasts; its work, its bytes and its joules stay.

``experts: {overlap: two-batch}``: a batch is cut into halves, and one half is exchanged while the other computes
(DeepSeek-V3, arXiv 2412.19437, section 3.4; SGLang's ``--enable-two-batch-overlap``, vLLM's ``--enable-dbo``). With
one stream for compute, C for a half of it, one for the exchange, X, and a chain of L layers, an iteration takes

    max(2 X, 2 C + 2 X · m / M) + min(C, X) / L

where the exchange takes m of the M multiprocessors from the compute while it runs (DeepEP's normal kernels: 20), and
since the first half of the first layer, or the last of the last one, has nobody to run beside. Halves read the weights
twice, and fill tiles and graphs worse, so that 2 C is more than the whole batch takes. A batch is only cut where that
pays: vLLM's thresholds of tokens stand for the same. Of attention only the launches count: where the compute is the
longer one that makes no difference, else less is hidden here than would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.analytic import ANALYTIC_UNITS
from apexsim.cost.exchange import Way
from apexsim.cost.ledger import CALIBRATED, EXTRAPOLATED, LINES, PARTS, Ledger, seconds
from apexsim.cost.operators import SHARED, Collective, Exchange, Operator
from apexsim.cost.pricing import Pricer, Sizes
from apexsim.cost.tables import token_knots

Floats = NDArray[np.float64]

TIMED = (*range(len(PARTS)), CALIBRATED, EXTRAPOLATED)
"""Lines of a ledger that are seconds."""


class Exposed(NamedTuple):
    """Shares of seconds that are not hidden, at each size; empty where all of it counts."""

    shared: Floats  # of shared experts
    exchange: Floats
    more: Ledger  # what computing halves moves and burns beyond the whole batch

    def of(self, op: Operator, ledger: Ledger) -> Ledger:
        """The ledger of one operator, less what of it is hidden."""
        share = self.exchange if isinstance(op, Exchange) else self.shared if op.name.startswith(SHARED) else NOTHING
        return _times(ledger, share)

    def exchanged(self, ledger: Ledger) -> Ledger:
        """The ledger of all exchanges, less what of it is hidden, and what halves cost more."""
        return _times(ledger, self.exchange) + self.more if self.exchange.size else ledger


NOTHING = np.zeros(0)
ALL_OF_IT = Exposed(NOTHING, NOTHING, np.zeros((LINES, 1)))


def _times(ledger: Ledger, share: Floats) -> Ledger:
    if share.size == 0:
        return ledger
    found = ledger.copy()
    found[list(TIMED)] *= share
    return found


def exposed(prices: Pricer, operators: Iterable[Operator], sizes: Sizes, way: Way) -> Exposed:
    """What of shared experts and exchanges counts in iterations of these sizes."""
    ops = tuple(operators)
    if way.overlap_shared:
        shared = seconds(_of(prices, (op for op in ops if op.name.startswith(SHARED)), sizes))
        if not shared.any():
            return ALL_OF_IT
        left = 1.0 - seconds(hidden(prices, ops, sizes)) / np.maximum(shared, 1e-15)
        return ALL_OF_IT._replace(shared=left)
    return _in_halves(prices, ops, sizes) if way.halves else ALL_OF_IT


def _in_halves(prices: Pricer, ops: tuple[Operator, ...], sizes: Sizes) -> Exposed:
    exchanges = [op for op in ops if isinstance(op, Exchange)]
    computed = _of(prices, (op for op in ops if not isinstance(op, Exchange)), sizes)
    exchange = _of(prices, exchanges, sizes)
    knots = token_knots(sizes.limit) if sizes.kind == "mixed" else np.arange(sizes.limit + 1)
    half = np.array([np.interp(-(-knots // 2), knots, line) for line in computed])
    work, wire = 2.0 * seconds(half), 2.0 * np.interp(-(-knots // 2), knots, seconds(exchange))
    layers = max((op.count for op in exchanges), default=1)
    cut_s = np.maximum(wire, work + _taken(prices, exchanges, sizes) * wire) + np.minimum(work, wire) / (2.0 * layers)
    saved = np.clip(seconds(computed) + seconds(exchange) - cut_s, 0.0, seconds(exchange))
    saved[knots < 2] = 0.0
    more = np.where(saved > 0.0, np.maximum(2.0 * half - computed, 0.0), 0.0)
    more[list(TIMED)] = 0.0
    return Exposed(NOTHING, 1.0 - saved / np.maximum(seconds(exchange), 1e-15), more)


def _taken(prices: Pricer, exchanges: Iterable[Exchange], sizes: Sizes) -> float:
    """Share of the multiprocessors that an exchange takes while it runs."""
    carriers = (op.decode if sizes.kind == "decode" else op.prefill for op in exchanges)
    most = max((carrier.multiprocessors for carrier in carriers), default=0)
    return most / (prices.profile.units or ANALYTIC_UNITS)


def _of(prices: Pricer, operators: Iterable[Operator], sizes: Sizes) -> Ledger:
    none: Ledger = np.zeros((LINES, 1))
    return sum((prices.ledger(op, sizes) for op in operators), none)


def hidden(prices: Pricer, operators: Iterable[Operator], sizes: Sizes) -> Ledger:
    """Lines to take off a rank's own ledger at each size."""
    ops = tuple(operators)
    exchange = _of(prices, (op for op in ops if _exchanges(op)), sizes)
    shared = _of(prices, (op for op in ops if op.name.startswith(SHARED)), sizes) + np.zeros_like(exchange)
    lasts, room = seconds(shared), seconds(exchange)
    found = np.zeros_like(shared)
    found[list(TIMED)] = shared[list(TIMED)] * np.minimum(1.0, room / np.maximum(lasts, 1e-15))
    return found


def _exchanges(op: Operator) -> bool:
    return isinstance(op, Exchange) or (isinstance(op, Collective) and op.wide)
