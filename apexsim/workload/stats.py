"""What a trace is like: rate, burstiness, lengths, classes, sessions, shared prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.workload.trace import Floats, Ints, Trace

WINDOW_S = 300.0
LEAST_GAPS = 30
"""Windows with fewer gaps say nothing of their variation and are left out of the median."""


def describe(trace: Trace) -> dict[str, Any]:
    """Statistics of a trace, ready for JSON: SI units, None where undefined.

    ``iat_cv``: coefficient of variation of the gaps between arrivals (1 for Poisson); ``iat_cv_5min_median``:
    its median over 5-minute windows with at least 30 gaps; ``dispersion_1s``: variance / mean of the arrivals
    per second. ``prefix.ideal_reuse``: share of hashed blocks that an earlier request has had, the hit rate
    of an endless cache.
    """
    online = trace.span_s > 0
    return {
        "name": trace.name,
        "source": trace.source,
        "requests": len(trace),
        "dropped": dict(trace.dropped),
        "first_arrival_s": float(trace.arrival_s[0]),
        "span_s": trace.span_s,
        "rate_rps": trace.rate_rps if online else None,
        "iat_cv": _cv(np.diff(trace.arrival_s)) if online else None,
        "iat_cv_5min_median": window_cv(trace.arrival_s) if online else None,
        "dispersion_1s": _dispersion(trace.arrival_s) if online else None,
        "input_tokens": lengths(trace.input_tokens),
        "output_tokens": lengths(trace.output_tokens),
        "input_tokens_per_s": float(trace.input_tokens.sum()) / trace.span_s if online else None,
        "output_tokens_per_s": float(trace.output_tokens.sum()) / trace.span_s if online else None,
        "classes": _classes(trace),
        "sessions": _sessions(trace.session),
        "priorities": _priorities(trace.priority),
        "clients": _clients(trace.client_code),
        "deadlines": _deadlines(trace.deadline_s),
        "adapters": _adapters(trace.adapter_code),
        "prefix": _prefix(trace),
        "images": _images(trace.images),
        "notes": list(trace.notes),
    }


def lengths(tokens: Ints) -> dict[str, float]:
    """Mean, percentiles (NumPy's linear) and extremes."""
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).tolist()
    return {
        "mean": float(tokens.mean()),
        "min": int(tokens.min()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": int(tokens.max()),
    }


def window_cv(arrival_s: Floats, window_s: float = WINDOW_S) -> float | None:
    """Median over windows of the CV of the gaps inside each; None where no window has enough."""
    values = window_cvs(arrival_s, window_s)
    return float(np.median(values)) if len(values) else None


def window_cvs(arrival_s: Floats, window_s: float) -> Floats:
    """CV of the gaps inside each window with at least 30 gaps, in order of time."""
    window = ((arrival_s - arrival_s[0]) // window_s).astype(np.int64)
    inside = window[1:] == window[:-1]
    gaps, where = np.diff(arrival_s)[inside], window[1:][inside]
    if len(gaps) == 0:
        return np.empty(0)
    count = np.bincount(where)
    enough = count >= LEAST_GAPS
    total, squares = np.bincount(where, gaps)[enough], np.bincount(where, gaps**2)[enough]
    count = count[enough]
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return np.asarray(np.sqrt(variance[mean > 0]) / mean[mean > 0])


def _cv(gaps: NDArray[np.float64]) -> float | None:
    if len(gaps) < 2 or gaps.mean() == 0:
        return None
    return float(gaps.std() / gaps.mean())


def _dispersion(arrival_s: Floats) -> float:
    """Variance / mean of the counts in whole seconds from the first arrival on."""
    second = np.floor(arrival_s - arrival_s[0]).astype(np.int64)
    # Σ count² from the seconds that hold arrivals: a trace of months has millions of empty ones.
    _, counts = np.unique(second, return_counts=True)
    seconds = int(second[-1]) + 1
    mean = len(second) / seconds
    variance = float((counts.astype(np.float64) ** 2).sum()) / seconds - mean**2
    return variance / mean


def _classes(trace: Trace) -> dict[str, dict[str, Any]]:
    if trace.class_code is None:
        return {}
    found = {}
    for code, name in enumerate(trace.classes):
        rows = trace.class_code == code
        if rows.any():
            found[name] = {
                "requests": int(rows.sum()),
                "input_tokens": lengths(trace.input_tokens[rows]),
                "output_tokens": lengths(trace.output_tokens[rows]),
            }
    return found


def _sessions(session: Ints | None) -> dict[str, Any] | None:
    if session is None or not (session >= 0).any():
        return None
    turns = np.unique(session[session >= 0], return_counts=True)[1]
    return {
        "sessions": len(turns),
        "requests": int(turns.sum()),
        "turns_mean": float(turns.mean()),
        "turns_p50": float(np.median(turns)),
        "turns_max": int(turns.max()),
        "single_turn_share": float((turns == 1).mean()),
    }


def _priorities(priority: Ints | None) -> dict[str, int]:
    """Requests of each priority class, the most urgent first."""
    if priority is None:
        return {}
    found, counts = np.unique(priority, return_counts=True)
    return {str(number): count for number, count in zip(found.tolist(), counts.tolist(), strict=True)}


def _clients(code: Ints | None) -> dict[str, Any] | None:
    if code is None:
        return None
    requests = np.unique(code, return_counts=True)[1]
    return {
        "clients": len(requests),
        "requests_p50": float(np.median(requests)),
        "largest_share": float(requests.max() / len(code)),
    }


def _adapters(code: Ints | None) -> dict[str, Any] | None:
    if code is None:
        return None
    requests = np.unique(code[code >= 0], return_counts=True)[1]
    return {
        "adapters": len(requests),
        "largest_share": float(requests.max(initial=0) / len(code)),
        "base_share": float((code < 0).mean()),
    }


def _images(images: Ints | None) -> dict[str, Any] | None:
    """Slices of those requests that bring images, and how many these are."""
    if images is None or not images.any():
        return None
    return {"requests": int((images > 0).sum()), "slices": lengths(images[images > 0])}


def _deadlines(deadline_s: Floats | None) -> dict[str, Any] | None:
    if deadline_s is None or not np.isfinite(deadline_s).any():
        return None
    known = deadline_s[np.isfinite(deadline_s)]
    return {"requests": len(known), "p50_s": float(np.median(known)), "min_s": float(known.min())}


def _prefix(trace: Trace) -> dict[str, Any] | None:
    """What requests share: by block hashes where there are any, else by the recorded shared tokens."""
    if trace.hash_ids is not None and len(trace.hash_ids):
        blocks, distinct = len(trace.hash_ids), len(np.unique(trace.hash_ids))
        return {
            "block_tokens": trace.hash_block_tokens,
            "blocks": blocks,
            "distinct_blocks": distinct,
            "ideal_reuse": 1.0 - distinct / blocks,
        }
    if trace.shared_prefix_tokens is not None:
        return {"shared_token_share": float(trace.shared_prefix_tokens.sum() / trace.input_tokens.sum())}
    return None
