"""Trials of plans of two pools made of trials of each pool alone, which all plans that it stands in share.

Thousands of plans join some hundred pools. What a pool does alone flatters a plan: the KV travels in no time, nobody
waits for the other side's memory. So a plan that surely fails, or is surely slower, when it is put together from its
pools is so as a whole. Of every request

    first token = that of the prefill pool        last token = first token + queue and iterations of the decode pool

with the arrivals of the trace at both: the prefill pool changes when requests come to the other, not how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.result import COMPLETED
from apexsim.metrics.latency import Latencies, latencies
from apexsim.metrics.summary import Prices
from apexsim.scenario import Prepared, run
from apexsim.search.evaluate import part_of
from apexsim.search.patience import FOREVER, Patience, TookTooLong
from apexsim.search.prune import Context
from apexsim.search.trial import Floats, Measured, Request, Trial, measured, short, surely_fails
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate


class Part(NamedTuple):
    """A pool that is to be replayed alone: the ``k``-th of the plan, at rates (requests/s) as of a ``Request``."""

    plan: Plan
    k: int
    requests: int
    rates_rps: tuple[float, ...]
    climb_rps: tuple[float, ...]

    @property
    def pool(self) -> Pool:
        return self.plan.pools[self.k]


@dataclass(frozen=True, slots=True)
class Alone:
    """What a pool did at one rate. n requests, NaN where one did not complete.

    Attributes:
        first_s, last_s: [n] from the arrival to the first and to the last token of its phase.
        gap_s: [n] the largest between two tokens; NaN where there is one.
        joules: of its devices and their cooling; None where their power is not known.
        idle_w: what they draw when nothing runs.
        span_s: from the first arrival to the last token.
    """

    first_s: Floats
    last_s: Floats
    gap_s: Floats
    completed: NDArray[np.bool_]
    joules: float | None
    idle_w: float
    span_s: float


Parts = Mapping[Pool, Mapping[float, Alone]]


def comes_apart(plan: Plan) -> bool:
    """Whether a trial of the plan can be made of its pools'."""
    return [pool.role for pool in plan.pools] == ["prefill", "decode"]


def parts_of(wanted: Sequence[Request]) -> list[Part]:
    """The pools of these plans, each once, with all rates at which a plan asks for it."""
    first: dict[Pool, tuple[Plan, int, int]] = {}
    rates: dict[Pool, set[float]] = {}
    climb: dict[Pool, set[float]] = {}
    for request in wanted:
        plan = request.candidate.plan
        for k, pool in enumerate(plan.pools):
            first.setdefault(pool, (plan, k, request.requests))
            rates.setdefault(pool, set()).update(request.rates_rps)
            climb.setdefault(pool, set()).update(request.climb_rps)
    return [Part(*first[pool], tuple(sorted(rates[pool])), tuple(sorted(climb[pool]))) for pool in first]


def try_parts(
    context: Context, parts: Sequence[Part], patience: Patience = FOREVER
) -> list[tuple[Part, dict[float, Alone]]]:
    """Replay each at every rate; one that crashes or takes too long is at none, and its plans are not compared."""
    return [(part, _try_part(context, part, patience)) for part in parts]


def nothing_of(parts: Sequence[Part]) -> list[tuple[Part, dict[float, Alone]]]:
    """In place of parts whose worker dies each time."""
    return [(part, {}) for part in parts]


def _try_part(context: Context, part: Part, patience: Patience) -> dict[float, Alone]:
    """By rate. The limit is for each rate: there are more of them than in the trial of a plan."""
    try:
        prepared = part_of(context, part.plan, part.pool)
        trace = short(context.problem.trace, part.requests)
        at: dict[float, Alone] = {}
        for rate in (*part.rates_rps, *part.climb_rps):
            with patience.limit():
                at[rate] = _replay_alone(context, prepared, at_rate(trace, rate))
            by_itself = _beside_nothing(context, part.pool, at[rate], trace)
            if rate not in part.rates_rps and surely_fails(by_itself, context.problem.slo.target):
                break
        return at
    except (Exception, TookTooLong):  # its plans' full replays say why
        return {}


def _beside_nothing(context: Context, pool: Pool, alone: Alone, trace: Trace) -> Measured:
    """As if the other pool took no time."""
    n = len(trace)
    other = Alone(np.zeros(n), np.zeros(n), np.full(n, np.nan), np.ones(n, np.bool_), None, 0.0, 0.0)
    prefill, decode = (other, alone) if pool.role == "decode" else (alone, other)
    return _together(context.problem.slo, prefill, decode, trace.output_tokens)


def _replay_alone(context: Context, prepared: Prepared, trace: Trace) -> Alone:
    decodes = prepared.policy.role == "decode"
    works = trace.output_tokens > 1 if decodes else np.ones(len(trace), np.bool_)
    first_s, last_s, gap_s = np.zeros(len(trace)), np.zeros(len(trace)), np.full(len(trace), np.nan)
    if not works.any():  # the prefill was all
        return Alone(first_s, last_s, gap_s, ~works, 0.0, 0.0, 0.0)
    asked = trace.take(np.flatnonzero(works))
    if decodes:  # the first token is there
        asked = asked.with_columns(output_tokens=asked.output_tokens - 1)
    done = run(prepared, asked, prices=Prices(None), seed=context.problem.seed, with_itl=False)
    values, energy = latencies(done.result.requests), done.summary.energy
    outside_s = prepared.limits.entry_s + prepared.limits.exit_s if decodes else 0.0  # once a request
    first_s[works], last_s[works] = values.ttft_s - outside_s, values.e2e_s - outside_s
    gap_s[works] = np.fmax(values.itl_max_s, values.ttft_s - outside_s) if decodes else values.itl_max_s
    completed = ~works
    completed[works] = done.result.requests.status == COMPLETED
    power, joules = prepared.compiled.accounting.power, None
    if power is not None and energy.total_j is not None and energy.devices_j:
        joules = energy.total_j * energy.devices_j / (energy.devices_j + (energy.overhead_j or 0.0))  # without nodes
    idle_w = 0.0 if power is None else power.idle_w * prepared.pool.devices
    return Alone(first_s, last_s, gap_s, completed, joules, idle_w, done.result.duration_s)


def joined(context: Context, wanted: Sequence[Request], parts: Parts) -> Iterator[Trial]:
    """The trial of each plan of a pool that prefills and one that decodes."""
    slo, outputs = context.problem.slo, {}
    for request in wanted:
        if request.requests not in outputs:
            outputs[request.requests] = short(context.problem.trace, request.requests).output_tokens
        yield _joined(slo, request, parts, outputs[request.requests])


def _joined(slo: SLO, request: Request, parts: Parts, output_tokens: NDArray[np.int64]) -> Trial:
    name = request.candidate.id
    source, sink = (parts[pool] for pool in request.candidate.plan.pools)
    if not (source and sink):
        return Trial(name, {}, failed="a pool crashes or takes too long", apart=True)
    at = {rate: _together(slo, source[rate], sink[rate], output_tokens) for rate in request.rates_rps}
    for rate in request.climb_rps:
        at[rate] = _together(slo, _climbed(source, rate), _climbed(sink, rate), output_tokens)
        if surely_fails(at[rate], slo.target):
            break
    return Trial(name, at, apart=True)


def _climbed(part: Mapping[float, Alone], rate_rps: float) -> Alone:
    """At that rate, or at the highest that was tried, where it surely fails."""
    return part[rate_rps] if rate_rps in part else part[max(part)]


def _together(slo: SLO, prefill: Alone, decode: Alone, output_tokens: NDArray[np.int64]) -> Measured:
    values, completed = _one_after_the_other(prefill, decode, output_tokens - 1)
    joules, tokens = _joules(prefill, decode), int(output_tokens[completed].sum())
    return measured(slo, values, completed, None if joules is None or not tokens else joules / tokens)


def _one_after_the_other(
    prefill: Alone, decode: Alone, gaps: NDArray[np.int64]
) -> tuple[Latencies, NDArray[np.bool_]]:
    """Latencies of the requests (E2E − TTFT is the decode pool's), and who completes; ``gaps`` between their tokens."""
    completed = prefill.completed & decode.completed
    ttft_s = np.where(completed, prefill.first_s, np.nan)
    decode_s = np.where(completed & (gaps > 0), decode.last_s, np.nan)
    e2e_s = ttft_s + np.where(gaps > 0, decode_s, 0.0)
    gap_s = np.where(completed, decode.gap_s, np.nan)
    return Latencies(ttft_s, decode_s / np.maximum(gaps, 1), gap_s, e2e_s, queue_s=ttft_s), completed


def _joules(prefill: Alone, decode: Alone) -> float | None:
    """Of both until the later of them has ended."""
    if prefill.joules is None or decode.joules is None:
        return None
    span_s = max(prefill.span_s, decode.span_s)
    waits = sum(part.idle_w * (span_s - part.span_s) for part in (prefill, decode))
    return prefill.joules + decode.joules + waits
