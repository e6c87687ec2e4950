"""What each draw makes of a plan's objective: goodput, what hangs on it, or what is read at the search's rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from apexsim.metrics.by_window import shares_needed
from apexsim.search.intervals import at_each, resolved_rps
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.search.windows import OwnRate, Sample

Floats = NDArray[np.float64]


def objective_draws(
    problem: Problem, evaluation: Evaluation, sample: Sample, goodput: Floats, weights: Floats, log_c: Floats
) -> Floats | None:
    """[draws] the objective in its own unit; None where the plan has no value of it.

    Args:
        goodput: [draws] over that of the undrawn counts.

    Cost is a price a second: it falls as goodput rises. Of energy, idle watts do, and work takes c times as long at the
    watts that it draws. Latency and attainment are counted at the search's rate. Devices are what they are.
    """
    value = problem.objective.value(evaluation)
    if value is None:
        return None
    name = problem.objective.name
    if sample.own is not None:
        own, needed = sample.own, shares_needed(problem.slo)
        if name == "latency":
            return value * _relative(sample, lambda drawn: _median_e2e_s(own, drawn), weights, log_c)
        least = _relative(sample, lambda drawn: _reached(own, needed, drawn), weights, log_c)
        return np.minimum(value * least, 1.0)
    if name in ("goodput", "goodput-per-device"):
        devices = 1 if name == "goodput" else evaluation.plan.devices
        return resolved_rps(evaluation, problem.slo.target) * goodput / devices
    if name == "devices":
        return np.full(len(goodput), value)
    if name == "cost":
        return value / goodput
    idle = idle_share(problem, evaluation)
    return value * (idle / goodput + (1 - idle) * np.exp(log_c))


def idle_share(problem: Problem, evaluation: Evaluation) -> float:
    """Of the energy at goodput, what all devices draw when they do nothing."""
    joules = evaluation.at_goodput["j_per_output_token"]
    tokens_per_s = evaluation.goodput_rps * float(problem.trace.output_tokens.mean())
    idle_w = sum(pool.devices * (problem.profile_of(pool).idle_w or 0.0) for pool in evaluation.plan.pools)
    return min(1.0, idle_w / tokens_per_s / joules) if joules else 0.0


def _relative(sample: Sample, of: Callable[[Floats], Floats], weights: Floats, log_c: Floats) -> Floats:
    """[draws] ``of(weights)`` [draws, M] at each draw's c, over that of the undrawn counts at c = 1."""
    everything = np.ones((1, weights.shape[1]))
    drawn = of(np.concatenate([everything, weights]))
    values = at_each(sample.log_factors, drawn, np.concatenate([[0.0], log_c]))
    return np.asarray(values[1:] / values[0])


def _reached(own: OwnRate, needed: Floats, weights: Floats) -> Floats:
    """[draws, M] the least share, over what is needed of it; no clause counts for more than it needs."""
    shares = np.einsum("dw,mwl->dml", weights, own.kept) / (weights @ own.counted.T)[:, :, None]
    least = np.asarray(np.min(shares / needed, axis=-1))
    return least if len(needed) == 1 else np.minimum(least, 1.0)


def _median_e2e_s(own: OwnRate, weights: Floats) -> Floats:
    """[draws, M] the median latency, on lines between the latencies that were counted up to."""
    up_to = np.einsum("dw,mwq->dmq", weights, own.up_to)
    half = up_to[:, :, -1:] / 2
    high = np.clip(np.sum(up_to < half, axis=-1), 1, own.e2e_s.shape[1] - 1)
    factors = np.arange(own.e2e_s.shape[0])
    at_high, at_low = (np.take_along_axis(up_to, q[..., None], axis=-1)[..., 0] for q in (high, high - 1))
    share = np.clip((half[..., 0] - at_low) / np.maximum(at_high - at_low, 1e-300), 0, 1)
    high_s, low_s = own.e2e_s[factors, high], own.e2e_s[factors, high - 1]
    return np.asarray(low_s + share * (high_s - low_s))
