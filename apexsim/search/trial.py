"""Short replays, on requests that are the same for every plan: what a race compares plans by.

A trial replays a few hundred requests of the trace at given rates. What it keeps is cut into windows of consecutive
requests: two plans are compared window by window, so that bursts, which hit both, cancel out of the difference
(common random numbers), and the windows' scatter says how sure the rest is.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED
from apexsim.metrics.attainment import ROUNDING, keeps
from apexsim.metrics.goodput import goodput_requests
from apexsim.metrics.latency import Latencies, latencies
from apexsim.metrics.summary import Prices
from apexsim.scenario import Prepared, run
from apexsim.search.evaluate import prepared_of
from apexsim.search.outcome import Candidate
from apexsim.search.patience import FOREVER, Patience, TookTooLong
from apexsim.search.prune import Context, thinned
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate, repeat

WINDOWS = 10
"""Of consecutive requests: enough to know their scatter, long enough to be nearly independent."""

Floats = NDArray[np.float64]


class Request(NamedTuple):
    """A trial that is asked for.

    Attributes:
        requests: of the short trace.
        rates_rps: where to replay it.
        climb_rps: rungs of higher and higher rates; those above the first where it surely fails are left out.
        apart: its pools are replayed each alone.
    """

    candidate: Candidate
    requests: int
    rates_rps: tuple[float, ...]
    climb_rps: tuple[float, ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One short replay: attainment and median E2E (s) of each window; J per output token of all.

    Of clauses each has a row: a plan fails where one of them fails, and each may fail in windows of its own.
    """

    attainment: Floats  # [limits, WINDOWS]; share that keeps a clause over the share that must
    e2e_s: Floats  # [WINDOWS]
    j_per_output_token: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What the short replays of a plan showed, by rate; ``apart`` = put together from its pools'."""

    id: str
    at: dict[float, Measured]
    requests_simulated: int = 0
    failed: str = ""
    apart: bool = False


STEP = 1.01
"""Above its goodput a plan just fails: others must not, to be better."""

CONFIDENCE = 3.0
"""Standard errors of a difference between two plans; of ten windows' means that is 99 %, one-sided, and some."""


def try_all(context: Context, asked: Sequence[Request], patience: Patience = FOREVER) -> list[Trial]:
    """Each of the trials; a plan that crashes or takes too long is not compared, and its full replay says why."""
    done = []
    for request in asked:
        try:
            with patience.limit():
                done.append(try_one(context, request))
        except TookTooLong:
            done.append(Trial(request.candidate.id, {}, failed="takes too long"))
        except Exception as error:
            done.append(Trial(request.candidate.id, {}, failed=traceback.format_exception_only(error)[-1].strip()))
    return done


def not_tried(asked: Sequence[Request]) -> list[Trial]:
    """In place of trials whose worker dies each time: their plans are replayed in full."""
    return [Trial(request.candidate.id, {}, failed="kills its worker process") for request in asked]


def try_one(context: Context, asked: Request) -> Trial:
    """Replay the short trace at every rate that is asked for, and climb."""
    prepared = prepared_of(context, asked.candidate.plan)
    trace = short(context.problem.trace, asked.requests)
    at = {rate: _measure(context, prepared, trace, rate) for rate in asked.rates_rps}
    for rate in asked.climb_rps:
        if rate not in at:
            at[rate] = _measure(context, prepared, trace, rate)
        if surely_fails(at[rate], context.problem.slo.target):
            break
    return Trial(asked.candidate.id, at, len(at) * len(trace))


def surely_fails(measured: Measured, target: float) -> bool:
    """Whether some clause of the SLO is missed by more than the windows' scatter explains."""
    return None in misses(measured, target)


def misses(measured: Measured, target: float) -> list[float | None]:
    """How far each clause is from the target, less than 0 where it is kept; None where it is surely missed.

    Who reaches the target exactly keeps it, also where no window scatters: all requests of an SLO of 100 %.
    """
    return [less_than(target - clause, ROUNDING) for clause in measured.attainment]


def less_than(difference: Floats, limit: float) -> float | None:
    """The mean of a difference by windows, where it may be less than ``limit``; None where it surely is not."""
    error = float(difference.std(ddof=1)) / WINDOWS**0.5
    mean = float(difference.mean())
    return mean if mean - CONFIDENCE * error < limit else None


def short(trace: Trace, requests: int) -> Trace:
    """About so many requests of a trace, or copies of a shorter one; no more than every goodput run has.

    Queues go on growing under overload: who fails in a longer run than that need not fail in it.
    """
    requests = min(requests, max(len(trace), goodput_requests(0.0)))
    return thinned(trace, requests) if len(trace) >= requests else repeat(trace, min_requests=requests)


def _measure(context: Context, prepared: Prepared, trace: Trace, rate_rps: float) -> Measured:
    problem = context.problem
    done = run(
        prepared, at_rate(trace, rate_rps), slo=problem.slo, prices=Prices(None), seed=problem.seed, with_itl=False
    )
    requests = done.result.requests
    return measured(
        problem.slo, latencies(requests), requests.status == COMPLETED, done.summary.energy.j_per_output_token
    )


def measured(slo: SLO, values: Latencies, completed: NDArray[np.bool_], j_per_output_token: float | None) -> Measured:
    """A short replay by windows; of requests that did not complete the E2E is that of the slowest that did."""
    kept, e2e_s = _kept(slo, values, completed), values.e2e_s
    last_s = float(np.nanmax(e2e_s)) if np.isfinite(e2e_s).any() else np.inf
    usual_s = np.median(_windows(np.nan_to_num(e2e_s, nan=last_s)), axis=-1)
    return Measured(_windows(kept).mean(axis=-1), usual_s, j_per_output_token)


def _windows(values: Floats) -> Floats:
    """[..., WINDOWS, m] of [..., n]; the last few that fill no window are left out."""
    m = values.shape[-1] // WINDOWS
    return values[..., : WINDOWS * m].reshape(*values.shape[:-1], WINDOWS, m)


def _kept(slo: SLO, values: Latencies, completed: NDArray[np.bool_]) -> Floats:
    """[limits, n] 1 where a request keeps a clause, over the share that must; [1, n] of all limits of a joint SLO.

    A clause on all gaps together is taken as kept: no request says whether it is.
    """
    if slo.mode == "joint":
        masks = [keeps(limit, values, completed) for limit in slo.limits]
        return np.asarray(np.logical_and.reduce(masks)[None, :], np.float64)
    return np.stack([
        (np.ones(len(completed)) if limit.metric == "itl" else keeps(limit, values, completed)) / (limit.share or 1.0)
        for limit in slo.limits
    ])  # fmt: skip
