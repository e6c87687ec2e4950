"""Shared experts that run beside the exchange of tokens: what of their time is hidden.

An engine may run them on a stream of their own while tokens travel (``experts: {overlap_shared: true}``). Of each rank
they hide at most as long as an exchange of as many tokens lasts; its work, its bytes and its joules stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from apexsim.cost.ledger import CALIBRATED, EXTRAPOLATED, LINES, PARTS, Ledger, seconds
from apexsim.cost.operators import SHARED, Collective, Exchange, Operator
from apexsim.cost.pricing import Pricer, Sizes

TIMED = (*range(len(PARTS)), CALIBRATED, EXTRAPOLATED)
"""Lines of a ledger that are seconds."""


def hidden(prices: Pricer, operators: Iterable[Operator], sizes: Sizes) -> Ledger:
    """Lines to take off a rank's own ledger at each size."""
    ops = tuple(operators)
    none: Ledger = np.zeros((LINES, 1))
    shared = sum((prices.ledger(op, sizes) for op in ops if op.name.startswith(SHARED)), none)
    exchange = sum((prices.ledger(op, sizes) for op in ops if _exchanges(op)), none)
    lasts, room = seconds(shared), seconds(exchange)
    found = np.zeros_like(shared)
    found[list(TIMED)] = shared[list(TIMED)] * np.minimum(1.0, room / np.maximum(lasts, 1e-15))
    return found


def _exchanges(op: Operator) -> bool:
    return isinstance(op, Exchange) or (isinstance(op, Collective) and op.wide)
