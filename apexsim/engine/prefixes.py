"""What the prompts of a trace share, as arrays for the engine's prefix cache. No clock, no state.

A prompt is cut into units: runs of whole KV blocks with one identity. Where a trace has hashes, a unit spans as many
hash blocks as fill whole KV blocks (one, where a hash block is a multiple of a KV block), and its last hash stands for
all tokens up to its end. A last hash block that the prompt only begins is a unit, too, of the KV blocks it fills. Where
a trace declares ``shared_prefix_tokens`` instead, a unit is one KV block, named by its session and its place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.state import NONE, PREFIX, UNIT, Cache, Rows, rows
from apexsim.errors import InputError
from apexsim.workload.trace import Ints, Trace

TABLE_FACTOR = 4
"""Ids are numbered by a table over their range where that is at most so many times their number, else by sorting."""


NO_PREFIXES = (
    "prefix caching is on, but the trace says nothing of shared prefixes (block_hashes or shared_prefix_tokens): "
    "the hit rate is 0"
)
DECLARED_PREFIXES = (
    "shared_prefix_tokens of the trace count as found whether they are still cached or not: an upper bound on the "
    "hit rate, with no evictions of what is declared"
)


def missing_prefixes(caching: bool, trace: Trace) -> list[str]:
    """What a reader has to know of a cache that finds nothing."""
    return [NO_PREFIXES] if caching and not shares_prefixes(trace) else []


def declared_prefixes(caching: bool, trace: Trace) -> list[str]:
    """What a reader has to know of prefixes that a trace only declares."""
    return [DECLARED_PREFIXES] if caching and declares_prefixes(trace) else []


def shares_prefixes(trace: Trace) -> bool:
    """True where the trace says which prompts begin alike: by hashes, or by declared tokens."""
    return (trace.hash_ids is not None and len(trace.hash_ids) > 0) or trace.shared_prefix_tokens is not None


def declares_prefixes(trace: Trace) -> bool:
    """True where some request without hashes declares shared tokens, which count as found."""
    if trace.shared_prefix_tokens is None:
        return False
    return bool((trace.shared_prefix_tokens[_without_hashes(trace)] > 0).any())


def _without_hashes(trace: Trace) -> NDArray[np.bool_]:
    return np.ones(len(trace), np.bool_) if trace.hash_counts is None else trace.hash_counts == 0


def new_cache(trace: Trace, block_size: int, replicas: int, *, wanted: bool) -> Cache:
    """An empty prefix cache for each replica; no arrays at all where none is wanted, or nothing could be found."""
    if not wanted or not shares_prefixes(trace):
        return _cache(rows(PREFIX, 0), replicas, np.zeros(0, np.int64), np.zeros(0, np.int64))
    prefixes = rows(PREFIX, len(trace))
    prefixes.declared = prefixes.hit = NONE
    ids, sizes = _by_hash(trace, block_size, prefixes)
    if trace.shared_prefix_tokens is not None:
        session_ids = _by_declaration(trace, block_size, prefixes, len(ids), len(sizes))
        ids, sizes = np.concatenate([ids, session_ids]), np.concatenate([sizes, np.ones_like(session_ids)])
    prefixes.mark = np.cumsum(prefixes.units, dtype=np.int64) - prefixes.units
    return _cache(prefixes, replicas, ids, sizes)


def _cache(prefixes: Rows, replicas: int, ids: Ints, sizes: Ints) -> Cache:
    positions = int(prefixes.units.sum(dtype=np.int64))
    return Cache(
        prefixes, rows(UNIT, replicas, len(sizes)), ids.astype(np.int32), sizes.astype(np.int32),
        np.zeros(positions, np.uint8),
    )  # fmt: skip


def _by_hash(trace: Trace, block_size: int, prefixes: Rows) -> tuple[Ints, Ints]:
    """Fill in the rows of all requests; returns (dense unit ids, prompt after prompt, and the KV blocks of each id)."""
    hashes, offsets, counts = trace.hash_ids, trace.hash_offsets, trace.hash_counts
    if hashes is None or offsets is None or counts is None or len(hashes) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    step = block_size // math.gcd(trace.hash_block_tokens, block_size)  # hash blocks a unit
    unit_tokens = step * trace.hash_block_tokens
    tokens = np.minimum(counts * trace.hash_block_tokens, trace.input_tokens)
    whole = tokens // unit_tokens
    rest = tokens % unit_tokens // block_size  # KV blocks of the unit that the prompt only begins
    units = whole + (rest > 0)
    first = np.cumsum(units) - units
    prefixes.first, prefixes.units = first, units

    place = np.arange(units.sum()) - np.repeat(first, units)
    begun = place == np.repeat(whole, units)
    ids = np.empty(len(place), np.int64)
    ids[~begun] = numbered(hashes[(np.repeat(offsets[:-1], units) + (place + 1) * step - 1)[~begun]])
    distinct = int(ids[~begun].max(initial=-1)) + 1
    # An id names the same unit only where it stands for as many tokens.
    tails = np.stack([hashes[offsets[1:][rest > 0] - 1], rest[rest > 0]])
    tail_units, which = np.unique(tails, axis=1, return_inverse=True)
    ids[begun] = distinct + which.ravel()
    _check_places(trace, ids, place)
    return ids, np.concatenate([np.full(distinct, unit_tokens // block_size), tail_units[1]])


def _check_places(trace: Trace, ids: Ints, place: Ints) -> None:
    """Equal hashes are equal prefixes, so an id stands at one place of all prompts that have it, and once in each."""
    expected = np.full(int(ids.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(expected, ids, place)
    wrong = place != expected[ids]
    if wrong.any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"{trace.source or trace.name}: a block hash stands for block {expected[ids[k]]} of one prompt and for "
            f"block {place[k]} of another (allowed: equal hashes only where all tokens up to there are equal)"
        )


def _by_declaration(trace: Trace, block_size: int, prefixes: Rows, position: int, unit: int) -> Ints:
    """Fill in the rows of the requests without hashes; returns the ids of all sessions' blocks.

    These ids begin at ``unit`` and stand from ``position`` on. A request without a session shares nothing: it has no
    units, and its declared tokens are computed in blocks of its own.
    """
    assert trace.shared_prefix_tokens is not None
    unhashed = _without_hashes(trace)
    declared = np.minimum(trace.shared_prefix_tokens, trace.input_tokens - 1) // block_size * block_size
    prefixes.declared = np.where(unhashed, declared, prefixes.declared)
    if trace.session is None:
        return np.zeros(0, np.int64)
    members = unhashed & (trace.session >= 0)
    sessions, which = np.unique(trace.session[members], return_inverse=True)
    blocks = trace.input_tokens[members] // block_size
    longest = np.zeros(len(sessions), np.int64)
    np.maximum.at(longest, which, blocks)
    prefixes.first[members] = position + (np.cumsum(longest) - longest)[which]
    prefixes.units[members] = blocks
    return unit + np.arange(longest.sum())


def numbered(values: Ints) -> NDArray[np.int64]:
    """The values as 0, 1, …: equal numbers for equal values, in ascending order."""
    if len(values) == 0:
        return np.zeros(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low >= TABLE_FACTOR * len(values):
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    seen = np.zeros(high - low + 1, np.bool_)
    seen[values - low] = True
    return np.asarray((np.cumsum(seen) - 1)[values - low], np.int64)
