"""A synthetic BurstGPT: months of chat and API calls that look like the published log, of any length and
rate.

What is held (coefficients in ``traces/burstgpt-laws.json``, fitted by ``benchmarks/fit_burstgpt.py``):

* Two classes, API and conversation, each a Gamma renewal process whose shape is drawn anew every 20 minutes
  and whose rate follows the hour of day, the day of the week and, for API calls, a log-normal noise from day
  to day.
* Conversation lengths from quantile knots of the published histograms, response coupled to request by a
  Gaussian copula; API lengths log-normal, with responses of exactly 2 and exactly 7 tokens apart.
* Conversations have sessions; API calls have none.

Lengths are drawn stratified (every n-th part of a law is drawn once), so that even one day shows the laws;
which request gets which is random. Not modelled: failed calls, rates that wander within an hour, and the two
models apart.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import ndtri

from apexsim.errors import UsageError
from apexsim.workload.bundled import folder
from apexsim.workload.lengths import LogNormal, Quantiles
from apexsim.workload.limits import MOST_REQUESTS, generators
from apexsim.workload.sessions import SessionLaw, grow_with_turns, thread_sessions
from apexsim.workload.synthetic import DECIMALS
from apexsim.workload.trace import Floats, Ints, Trace

CLASSES = ("API log", "Conversation log")
API, CONVERSATION = 0, 1
DAY_S, HOURS = 86400.0, 24


@dataclass(frozen=True, slots=True)
class Rates:
    """Expected requests of each 20-minute window: float64[windows] for either class."""

    window_s: float
    api: Floats
    conversation: Floats


def burstgpt(days: int = 1, rate_rps: float | None = None, seed: int = 0) -> Trace:
    """``days`` days from midnight on; second 0 is the midnight of day 0.

    Args:
        rate_rps: mean over all days; BurstGPT's own 0.266 requests/s (23,000 a day) where None. A higher rate
            packs more requests into the same days, with the same CV in every window.
        seed: equal seeds give equal traces.

    Raises:
        UsageError: days or rate out of range.
    """
    laws = _laws()
    rate_rps = laws["rate_rps"] if rate_rps is None else rate_rps
    expected = days * DAY_S * rate_rps
    if days < 1 or not (math.isfinite(rate_rps) and rate_rps > 0) or expected > MOST_REQUESTS:
        raise UsageError(
            f"burstgpt: {days} days at {rate_rps:g} requests/s (allowed: 1 day or more, a rate above 0, "
            f"and no more than {MOST_REQUESTS:,} requests)"
        )
    streams = generators(seed, 6)
    rates = _rates(laws, days, expected, streams[0])
    api_s = _arrivals(rates.api, rates.window_s, laws["gaps"], streams[1])
    chat_s = _arrivals(rates.conversation, rates.window_s, laws["gaps"], streams[2])
    api_in, api_out = _api_lengths(laws["api"], len(api_s), streams[3])
    chat_in, chat_out = _conversation_lengths(laws["conversation"], len(chat_s), streams[4])
    session = thread_sessions(chat_s, SessionLaw(**laws["sessions"]), streams[5])
    chat_in, chat_out = grow_with_turns(session, chat_in, chat_out)
    arrival_s = np.concatenate([api_s, chat_s])
    order = np.argsort(arrival_s, kind="stable")
    trace = Trace(
        name="burstgpt-synthetic",
        arrival_s=arrival_s,
        input_tokens=np.concatenate([api_in, chat_in]),
        output_tokens=np.concatenate([api_out, chat_out]),
        session=np.concatenate([np.full(len(api_s), -1), session]),
        classes=CLASSES,
        class_code=np.repeat(np.array([API, CONVERSATION]), [len(api_s), len(chat_s)]),
        source=f"synthetic BurstGPT, {days} day{'s' if days > 1 else ''}, {rate_rps:g} requests/s, seed {seed}",
    )
    return trace.take(order)


@cache
def _laws() -> dict[str, Any]:
    laws: dict[str, Any] = json.loads((folder() / "burstgpt-laws.json").read_text(encoding="utf-8"))
    return laws


def _rates(laws: dict[str, Any], days: int, expected: float, rng: np.random.Generator) -> Rates:
    """Expected requests a window; they sum to ``expected``, API and conversation in the published shares."""
    window_s = laws["gaps"]["window_s"]
    per_hour = round(3600.0 / window_s)
    weekly = np.array(laws["weekly"])[np.arange(days) % 7]
    noise = _day_noise(laws["api_day_noise"], days, rng)
    share = laws["api_share"]
    whole = hour_shares(laws["hours"]["all"])
    chat = (1.0 - share) * hour_shares(laws["hours"]["conversation"])
    # The published hours are those of all requests; API calls are what conversations leave of them.
    api = whole - chat
    return Rates(
        window_s=window_s,
        api=expected * share * _spread(weekly * noise, api, per_hour),
        conversation=expected * (1.0 - share) * _spread(weekly, chat, per_hour),
    )


def hour_shares(coefficients: list[float]) -> Floats:
    """float64[24] that sum to 1, from Fourier coefficients c0, cos, sin, cos 2, sin 2, … of the log."""
    angle = 2.0 * np.pi * (np.arange(HOURS) + 0.5) / HOURS
    waves = np.arange(1, len(coefficients) // 2 + 1)[:, None] * angle
    pairs = np.array(coefficients[1:]).reshape(-1, 2)
    log = pairs[:, 0] @ np.cos(waves) + pairs[:, 1] @ np.sin(waves)
    shares = np.exp(log)
    return np.asarray(shares / shares.sum(), np.float64)


def _day_noise(law: dict[str, float], days: int, rng: np.random.Generator) -> Floats:
    """float64[days]: log-normal AR(1), stationary from the first day on."""
    draws = rng.standard_normal(days)
    level = np.empty(days)
    for day in range(days):
        fresh = math.sqrt(1.0 - law["correlation"] ** 2) * draws[day]
        level[day] = draws[0] if day == 0 else law["correlation"] * level[day - 1] + fresh
    return np.exp(law["sigma"] * level)


def _spread(daily: Floats, hourly: Floats, per_hour: int) -> Floats:
    """Shares of the windows, summing to 1, from factors of the days and of the hours."""
    shares = np.outer(daily, np.repeat(hourly, per_hour)).ravel()
    return np.asarray(shares / shares.sum(), np.float64)


def _arrivals(expected: Floats, window_s: float, law: dict[str, float], rng: np.random.Generator) -> Floats:
    """Gamma renewal process: gaps have mean 1 in units of expected requests, and the shape of the window they
    start in.

    Going through windows in that unit lets a gap reach over the end of a window, so the rate is right at any
    shape.
    """
    ends = np.cumsum(expected)
    shapes = law["shape_median"] * np.exp(law["shape_sigma"] * rng.standard_normal(len(expected)))
    at, parts = 0.0, []
    for end, shape in zip(ends.tolist(), shapes.tolist(), strict=True):
        while at < end:
            left = end - at
            gaps = rng.standard_gamma(shape, int(left + 3.0 * math.sqrt(left / shape)) + 8) / shape
            points = at + np.cumsum(gaps)
            # The gap that crosses the end of the window is drawn to its own end; where none does, draw on.
            points = points[: np.searchsorted(points, end) + 1]
            parts.append(points)
            at = float(points[-1])
    found = np.concatenate(parts)
    clock = np.arange(len(expected) + 1) * window_s
    arrival_s = np.interp(found[found < ends[-1]], np.concatenate([[0.0], ends]), clock)
    return np.asarray(np.round(arrival_s, DECIMALS), np.float64)


def _stratified(n: int, rng: np.random.Generator) -> Floats:
    """float64[n] in [0, 1), one in each n-th part, in random order."""
    return np.asarray((rng.permutation(n) + rng.random(n)) / max(n, 1), np.float64)


def _conversation_lengths(law: dict[str, Any], n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Input and output tokens with the published marginals, coupled by a Gaussian copula."""
    request = _stratified(n, rng)
    correlation = law["correlation"]
    coupled = correlation * ndtri(np.clip(request, 1e-12, None)) + math.sqrt(1.0 - correlation**2) * ndtri(
        np.clip(_stratified(n, rng), 1e-12, None)
    )
    # Ranks, not the normal law, turn it back into quantiles: the marginal stays stratified.
    rank = np.empty(n, np.int64)
    rank[np.argsort(coupled, kind="stable")] = np.arange(n)
    response = (rank + rng.random(n)) / max(n, 1)
    return _quantiles(law["input"]).at(request), _quantiles(law["output"]).at(response)


def _api_lengths(law: dict[str, Any], n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Input and output tokens of API calls, independent of each other (no coupling is published)."""
    body = law["output"]
    spikes = {int(tokens): weight for tokens, weight in body["spikes"].items()}
    edges = np.cumsum(list(spikes.values()))
    u = _stratified(n, rng)
    rest = (u - edges[-1]) / (1.0 - edges[-1])
    outputs = LogNormal(body["mu"], body["sigma"], body["most"]).at(np.maximum(rest, 0.0))
    spike = np.searchsorted(edges, u, side="right")
    tokens = np.array([*spikes, 0], np.int64)[spike]
    inputs = LogNormal(**law["input"]).at(_stratified(n, rng))
    return inputs, np.where(spike < len(spikes), tokens, outputs)


def _quantiles(law: dict[str, list[float]]) -> Quantiles:
    return Quantiles(tuple(law["u"]), tuple(law["tokens"]))
