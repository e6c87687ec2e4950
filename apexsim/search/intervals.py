"""How sure a ranking is: intervals, the chance that a plan beats the next, and ties.

Each draw asks what the search would have found under another day of the same traffic and with other errors of the
step times:

* the trace's windows (``WINDOWS`` runs of neighbouring requests) are drawn with replacement, as many as there are: a
  block bootstrap (Künsch, Annals of Statistics 17, 1989). A request counts as often as its window was drawn, with the
  latency that it has in the replay: neither the rest of the trace nor the queue that it found is drawn anew;
* a factor c of all step times is drawn by ``doubt.py``.

Both are drawn once for all plans (common random numbers): a difference of two plans is one of the same requests and of
the same errors where they share them. The goodput of a draw is the rate at which the counts of its requests fall below
the SLO, on lines (of log odds) between the rates that were replayed, times goodput over what the undrawn counts give.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from apexsim.metrics.attainment import ROUNDING
from apexsim.search.outcome import Evaluation
from apexsim.search.windows import MOST_SD, Sample

Floats = NDArray[np.float64]

SURE = 1e-4
"""Shares nearer to 0 and 1 than this count as this near: what no trace can tell."""

DRAWS = 2000
"""Enough for a probability to about one percent."""

def window_draws(windows: int, seed: int, draws: int = DRAWS) -> Floats:
    """[draws, windows] how often each window is drawn. The same for every plan."""
    rng = np.random.default_rng([seed, windows])
    return rng.multinomial(windows, np.full(windows, 1.0 / windows), size=draws).astype(np.float64)


def time_draws(doubt: Mapping[str, float], seed: int, draws: int = DRAWS) -> Floats:
    """[draws] ln c of the step times. What has one name is one draw, whichever plan asks for it."""
    total = np.zeros(draws)
    for name, sd in doubt.items():
        total += sd * np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(draws)
    most = MOST_SD * np.sqrt(sum(sd**2 for sd in doubt.values()))
    return np.clip(total, -most, most)


def crossing(log_rates: Floats, spare: Floats) -> Floats:
    """[...] ln of the rate at which ``spare`` [..., J] falls below 0 as the rate grows, on lines between the rates.

    A series that goes up and down is taken at the middle between the least falling series above it and the greatest
    below. One that never falls below 0 ends at the highest rate, one that is nowhere above at the lowest.
    """
    below = np.minimum.accumulate(spare, axis=-1)
    above = np.maximum.accumulate(spare[..., ::-1], axis=-1)[..., ::-1]
    series = (below + above) / 2
    passed = np.sum(series >= 0, axis=-1)
    low = np.clip(passed - 1, 0, len(log_rates) - 2)
    at_low = np.take_along_axis(series, low[..., None], axis=-1)[..., 0]
    at_high = np.take_along_axis(series, low[..., None] + 1, axis=-1)[..., 0]
    share = np.clip(at_low / np.maximum(at_low - at_high, 1e-300), 0, 1)
    within = log_rates[low] + share * (log_rates[low + 1] - log_rates[low])
    return np.asarray(np.where(passed == 0, log_rates[0], np.where(passed == len(log_rates), log_rates[-1], within)))


def spare_share(share: Floats, needed: Floats) -> Floats:
    """How far a share is above the needed one, in log odds: shares fall along them where a queue begins to grow.

    At least 0 exactly where the share reaches what is needed, but for rounding.
    """
    spare = _log_odds(share) - _log_odds(needed)
    reaches = share >= needed - ROUNDING
    return np.asarray(np.where(reaches, np.maximum(spare, 0.0), np.minimum(spare, -SURE)))


def _log_odds(share: Floats) -> Floats:
    within = np.clip(share, SURE, 1 - SURE)
    return np.asarray(np.log(within / (1 - within)))


def resolved_rps(evaluation: Evaluation, target: float) -> float:
    """The goodput (requests/s) between the rung of the ladder that met the target and the next one, which did not.

    On the line of log odds between the two; the rung itself where attainment says no more than that it was met.
    """
    tested = dict(evaluation.tested)
    higher = [rate for rate in tested if rate > evaluation.goodput_rps]
    met = tested.get(evaluation.goodput_rps)
    if not higher or met is None:
        return evaluation.goodput_rps
    rates = np.log([evaluation.goodput_rps, min(higher)])
    shares = np.array([met, tested[min(higher)]])
    return float(np.exp(crossing(rates, spare_share(shares, np.array(target)))))


def goodput_draws(sample: Sample, needed: Floats, weights: Floats, log_c: Floats) -> Floats:
    """[draws] goodput over that of the undrawn counts and c = 1."""
    everything = np.ones((1, weights.shape[1]))
    drawn = _log_goodput(sample, needed, np.concatenate([everything, weights]), np.concatenate([[0.0], log_c]))
    return np.asarray(np.exp(drawn[1:] - drawn[0]))


def _log_goodput(sample: Sample, needed: Floats, weights: Floats, log_c: Floats) -> Floats:
    """[draws] ln goodput: the plan c times as slow reaches R where the plan as it is reaches c · R with limits / c."""
    # where all that count come late, a draw may hold none of them: it says nothing, and stands for what is known
    says_nothing = np.any(weights @ sample.counted.T <= 0, axis=1, keepdims=True)
    weights = np.where(says_nothing, 1.0, weights)
    counted = weights @ sample.counted.T  # [D, J]
    kept = np.einsum("dw,jmwl->djml", weights, sample.kept)
    spare = np.min(spare_share(kept / counted[:, :, None, None], needed), axis=-1)  # [D, J, M]
    as_it_is = crossing(np.log(sample.rates_rps), np.swapaxes(spare, 1, 2))  # [D, M]
    return at_each(sample.log_factors, as_it_is - sample.log_factors, log_c)


def at_each(knots: Floats, values: Floats, x: Floats) -> Floats:
    """[D] row d of ``values`` [D, M] at ``x[d]``, on lines between the knots [M]."""
    if knots[-1] <= knots[0]:
        return values[:, len(knots) // 2]
    place = np.clip((x - knots[0]) / (knots[1] - knots[0]), 0, len(knots) - 1)
    low = np.minimum(place.astype(np.int64), len(knots) - 2)
    rows = np.arange(len(x))
    return np.asarray(values[rows, low] + (place - low) * (values[rows, low + 1] - values[rows, low]))
