"""The replays that the doubt about a plan's place is drawn from: a few around its goodput, a few at the search's rate.

Pure in its arguments, like ``evaluate``: the same plan gives the same counts in any process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED
from apexsim.metrics.by_window import count_by_window, windows_of
from apexsim.metrics.goodput import WARMUP, goodput_trace
from apexsim.metrics.latency import latencies
from apexsim.scenario import Prepared, replay
from apexsim.search.doubt import Doubt, doubt_of
from apexsim.search.evaluate import prepare_candidate
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.workload.transform import at_rate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOWS = 20
"""Parts of the trace that are drawn: few, so that each is longer than requests stay, and hardly knows the last."""

STEPS = (-1.0, -0.4, 0.0, 0.4, 1.0)
"""Rates that are replayed around the goodput, in spans."""

LEAST_SPAN = 0.16
"""Of ln rate; more where step times are less sure."""

FACTORS = 7
"""Factors of all times, from the least to the most likely one, without a replay of their own."""

MOST_SD = 3.0
"""Draws of step times end at so many standard deviations."""


QUANTILES = 201
"""Latencies at the search's rate are counted up to so many of their quantiles."""


@dataclass(frozen=True, slots=True)
class OwnRate:
    """Replays at the search's rate, one a factor of all times. M factors, W windows, L shares of the SLO, Q latencies.

    Attributes:
        counted: [M, W]; kept: [M, W, L].
        e2e_s: [M, Q] ascending; up_to: [M, W, Q] requests that took at most so long, of those that completed.
    """

    counted: Floats
    kept: Floats
    e2e_s: Floats
    up_to: Floats


@dataclass(frozen=True, slots=True)
class Sample:
    """How a plan keeps the SLO. J rates, M factors of all times, W windows, L shares of the SLO.

    Attributes:
        doubt: sources of error of its step times.
        log_factors: [M], ascending; the middle one is 0.
        rates_rps: [J] around the goodput, ascending; counted [J, W] and kept [J, M, W, L] there.
        own: at the search's rate; None where the objective does not look there.
    """

    doubt: Doubt
    log_factors: Floats
    rates_rps: Floats
    counted: Floats
    kept: Floats
    own: OwnRate | None = None


def sample(problem: Problem, evaluation: Evaluation) -> Sample:
    """The counts of one plan, by replays at ``len(STEPS)`` rates (and ``FACTORS`` more for some objectives)."""
    prepared = prepare_candidate(evaluation.plan)
    doubt = doubt_of(prepared, evaluation.summary)
    sd = float(np.sqrt(sum(part**2 for part in doubt.values())))
    log_factors = np.linspace(-MOST_SD, MOST_SD, FACTORS) * sd
    windows = windows_of(len(problem.trace), WINDOWS)
    span = max(LEAST_SPAN, 0.5 * MOST_SD * sd)
    steps = [step for step in STEPS if step <= 0 or not evaluation.censored]
    rates = evaluation.goodput_rps * np.exp(span * np.array(steps))
    each = [
        count_by_window(
            replay(prepared, goodput_trace(problem.trace, rate), seed=problem.seed),
            problem.slo, windows, np.exp(log_factors), WARMUP,
        )
        for rate in rates
    ]  # fmt: skip
    counted, kept = np.stack([counts.counted for counts in each]), np.stack([counts.kept for counts in each])
    own = _own_rate(problem, prepared, windows, log_factors) if problem.objective.read_at == "rate" else None
    return Sample(doubt, log_factors, rates, counted, kept, own)


def _own_rate(problem: Problem, prepared: Prepared, windows: Ints, log_factors: Floats) -> OwnRate:
    """A plan c times as slow at this rate is the plan at c times the rate, on a clock c times as slow."""
    counts, e2e_s, up_to = [], [], []
    for factor in np.exp(log_factors):
        result = replay(prepared, at_rate(problem.trace, factor * problem.rate_rps), seed=problem.seed)
        counts.append(count_by_window(result, problem.slo, windows, (float(factor),), 0.0))
        took_s = factor * latencies(result.requests).e2e_s
        done = result.requests.status == COMPLETED
        edges = np.quantile(took_s[done], np.linspace(0, 1, QUANTILES)) if done.any() else np.zeros(QUANTILES)
        e2e_s.append(edges)
        up_to.append(_up_to(took_s[done], windows[done], edges, int(windows[-1]) + 1))
    counted, kept = np.stack([c.counted for c in counts]), np.stack([c.kept[0] for c in counts])
    return OwnRate(counted, kept, np.stack(e2e_s), np.stack(up_to))


def _up_to(took_s: Floats, windows: Ints, edges: Floats, number: int) -> Floats:
    """[W, Q] requests of each window that took at most each of the latencies."""
    each = (np.sort(took_s[windows == window]) for window in range(number))
    return np.stack([np.searchsorted(took, edges, side="right").astype(np.float64) for took in each])
