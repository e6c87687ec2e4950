"""Traces made from a trace: other rates, parts, copies. Pure and vectorised; the argument is never changed.

Order, lengths, sessions and hashes stay unless a function says otherwise (design §8).
"""

from __future__ import annotations

import math

import numpy as np

from apexsim.errors import UsageError, unknown_name
from apexsim.workload.limits import check_positive, check_rate, check_requests, generator, within_time
from apexsim.workload.trace import Ints, Trace

ID_LIMIT = 2**62
"""Renamed hashes and sessions stay below this; larger ids are numbered anew before they are renamed."""


def at_rate(trace: Trace, rate_rps: float) -> Trace:
    """The trace offered at ``rate_rps`` requests/s: arrivals × R0 / R with R0 = (n - 1) / (last - first).

    Raises:
        UsageError: the rate is not positive, or the trace has no rate of its own (all arrive at once).
    """
    check_rate("rate", rate_rps)
    if trace.span_s <= 0:
        raise UsageError(
            f"rate {rate_rps:g}: the {len(trace)} requests of {trace.name} arrive at once, no rate to "
            "scale (allowed: a trace with arrival times; `apexsim trace convert --poisson RATE` makes them)"
        )
    return _scaled(trace, rate_rps / trace.rate_rps, f"rate {rate_rps:g}")


def scale_rate(trace: Trace, factor: float) -> Trace:
    """The trace with its rate times ``factor``: arrivals / factor."""
    check_rate("rate scale", factor)
    return _scaled(trace, factor, f"rate scale {factor:g}")


def _scaled(trace: Trace, factor: float, what: str) -> Trace:
    return trace if factor == 1.0 else trace.with_columns(arrival_s=within_time(trace.arrival_s / factor, what))


def window(trace: Trace, start_s: float, end_s: float) -> Trace:
    """Requests that arrive in [start_s, end_s) of the trace's own clock; the window's start becomes second 0.

    Raises:
        UsageError: nothing arrives then.
    """
    first, last = np.searchsorted(trace.arrival_s, [start_s, end_s], side="left")
    if first >= last:
        raise UsageError(
            f"window {start_s:g}s:{end_s:g}s holds no request of {trace.name} "
            f"(allowed: within {trace.arrival_s[0]:g}s to {trace.arrival_s[-1]:g}s)"
        )
    part = trace.take(np.arange(first, last))
    return part.with_columns(arrival_s=within_time(part.arrival_s - start_s, f"window from {start_s:g}s"))


def head(trace: Trace, n: int) -> Trace:
    """The first ``n`` requests, or all where there are fewer."""
    check_positive("head", n)
    return trace if n >= len(trace) else trace.take(np.arange(n))


def sample(trace: Trace, n: int, seed: int = 0) -> Trace:
    """``n`` requests drawn without replacement, in their order and at their own arrivals: the rate thins out.

    What a request shares with one that was not drawn (``shared_prefix_tokens``) stays as it was recorded.

    Raises:
        UsageError: the trace has fewer than ``n`` requests.
    """
    check_positive("sample", n)
    if n > len(trace):
        raise UsageError(f"sample {n} is more than {trace.name} has (allowed: 1 to {len(trace)})")
    chosen = generator(seed).choice(len(trace), size=n, replace=False)
    return trace.take(np.sort(chosen))


def only_class(trace: Trace, name: str) -> Trace:
    """Requests of one class, say "API log".

    Raises:
        UsageError: the trace has no classes, or none of this name.
    """
    if trace.class_code is None:
        raise UsageError(f"class {name!r}: {trace.name} has no classes")
    known = {known.lower(): code for code, known in enumerate(trace.classes)}
    if name.lower() not in known:
        raise UsageError(unknown_name("class", name, trace.classes))
    index = np.flatnonzero(trace.class_code == known[name.lower()])
    if len(index) == 0:
        raise UsageError(f"class {name!r}: {trace.name} has no request of it")
    return trace.take(index)


def repeat(trace: Trace, copies: int | None = None, *, min_requests: int = 1, min_span_s: float = 0.0) -> Trace:
    """Copies one after another, a mean gap between the last arrival of one and the first of the next.

    The rate R0 stays exactly as it is. Sessions and hashes are renamed per copy, so that no copy finds the
    prefix of another in a cache. Copies of a trace whose requests all arrive at once arrive at once too.

    Args:
        copies: how many in all; where None, as few as reach both minima (a span of 0 cannot grow and is left
            so).
    """
    n, span_s = len(trace), trace.span_s
    gap_s = span_s / (n - 1) if n > 1 else 0.0
    if copies is None:
        period_s = span_s + gap_s
        by_span = math.ceil((min_span_s + gap_s) / period_s * (1 - 1e-12)) if period_s > 0 else 1
        copies = max(1, -(-min_requests // n), by_span)
    check_positive("copies", copies)
    check_requests(f"requests in {copies} copies of {trace.name}", copies * n)
    if copies == 1:
        return trace
    copy = np.repeat(np.arange(copies, dtype=np.int64), n)
    repeated = trace.take(np.tile(np.arange(n), copies))
    return repeated.with_columns(
        arrival_s=within_time(repeated.arrival_s + copy * (span_s + gap_s), f"{copies} copies"),
        session=None if repeated.session is None else _rename_sessions(repeated.session, copy),
        hash_ids=_rename_hashes(repeated, trace, copies),
    )


def offline(trace: Trace) -> Trace:
    """All requests at second 0, in the order of the trace."""
    return trace.with_columns(arrival_s=np.zeros(len(trace)))


def jitter(trace: Trace, seconds: float, seed: int = 0) -> Trace:
    """Each arrival later by a uniform draw from [0, ``seconds``), sorted again.

    For logs that release arrivals in batches: 3 s for Mooncake.
    """
    check_positive("jitter", seconds)
    late = trace.arrival_s + generator(seed).uniform(0.0, seconds, len(trace))
    order = np.argsort(late, kind="stable")
    return trace.take(order).with_columns(arrival_s=within_time(late[order], f"jitter {seconds:g}s"))


def _rename_sessions(session: Ints, copy: Ints) -> Ints:
    if (int(session.max()) + 1) * (int(copy[-1]) + 1) > ID_LIMIT:
        found = np.unique(session[session >= 0], return_inverse=True)[1]
        session = session.copy()
        session[session >= 0] = found
    return np.where(session < 0, -1, session + copy * (int(session.max()) + 1))


def _rename_hashes(repeated: Trace, trace: Trace, copies: int) -> Ints | None:
    ids, offsets = trace.hash_ids, trace.hash_offsets
    if ids is None or offsets is None or len(ids) == 0:
        return repeated.hash_ids
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (high + 1) * copies > ID_LIMIT:
        ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)
        high = int(ids.max())
    step = (high + 1) * np.repeat(np.arange(copies, dtype=np.int64), len(ids))
    return np.tile(ids, copies) + step
