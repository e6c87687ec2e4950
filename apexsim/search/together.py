"""The least work of requests that may go to one of several pools, whichever: one pool of virtual servers.

Request u keeps server r of pool k busy for w_k[r, u] seconds where it goes there. Let S be any set of requests whose
work is done in time, each in some pool, and n_k the number of servers of pool k, each with C seconds. Then for any
server r_k of each pool and any weights β_k > 0

    Σ_{u in S} min_k β_k · w_k[r_k, u]  ≤  Σ_k β_k · Σ_{u in S at k} w_k[r_k, u]  ≤  C · Σ_k β_k · n_k,

so the pools together are bounded as one with Σ β_k · n_k servers, to whom a request costs min_k β_k · w_k. This is the
dual of the linear program that deals requests out. It holds whatever is shed. The sum of the pools' own bounds does not
hold: each is of the whole mix, where a plan may send requests to the pool that is better at them. Any β is valid;
β_k = 1 / (work of all requests at k) is the best one where costs at the pools are in one proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from apexsim.search.bounds import Due, due_to_meet
from apexsim.search.work import Lengths, Work
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Floats, Ints


class Together(NamedTuple):
    """What is due at several pools as if at one. K pools.

    Attributes:
        dues: for one virtual server.
        names: of their rows.
        weights: [K] virtual servers that a server of each pool is.
    """

    dues: tuple[Due, ...]
    names: tuple[str, ...]
    weights: Floats


def due_together(works: Sequence[Work], lengths: Lengths, slo: SLO, number: Ints) -> Together:
    """What any run that meets the SLO has done in time; ``number`` [U] requests of each length."""
    each = [due_to_meet(work, lengths, slo) for work in works]
    if len(works) == 1 or not each[0]:
        return Together(each[0], works[0].servers, np.ones(len(works)))
    common = np.where(np.logical_and.reduce([work.served for work in works]), number, 0)
    alike = list(zip(*each, strict=True))  # the same deadlines and drains, pool by pool
    last = max(range(len(alike)), key=lambda k: alike[k][0].drain_s)
    totals = np.array([float(due.all_s(common).max()) for due in alike[last]])
    weights = totals[0] / totals if (totals > 0).all() else np.ones(len(works))
    rows = sorted({tuple(int(due.all_s(common).argmax()) for due in dues) for dues in alike})
    names = tuple(" or ".join(dict.fromkeys(w.servers[r] for w, r in zip(works, row, strict=True))) for row in rows)
    return Together(tuple(_cheapest(dues, rows, weights) for dues in alike), names, weights)


def _cheapest(dues: Sequence[Due], rows: Sequence[Sequence[int]], weights: Floats) -> Due:
    """[rows, U] what a request costs where it costs least."""
    seconds = np.stack([
        np.min([weight * due.seconds[r] for due, r, weight in zip(dues, row, weights, strict=True)], axis=0)
        for row in rows
    ])  # fmt: skip
    return replace(dues[0], seconds=seconds, _order={})


def alone_together(works: Sequence[Work]) -> Work:
    """Latencies where requests go to the pool that is fastest for them; served where one of the pools does."""
    return replace(
        works[0],
        alone_s=np.min([np.where(work.served, work.alone_s, np.inf) for work in works], axis=0),
        served=np.logical_or.reduce([work.served for work in works]),
    )
