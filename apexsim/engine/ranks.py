"""What the ranks of a lockstep group compute in an iteration, what that takes without decode attention, and its books.

Where some rank holds prefill, tables are read at tokens, else at sequences, of which each computes its drafts, too. A
rank with nothing to run computes one sequence (a dummy batch). Passes 2 to k of a drafting layer that shares experts
are of the sequences that yield a token, on every rank at least one, if anybody has one.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.iteration import note_decode_work, note_iteration, size_of_batch
from apexsim.engine.jit import kernel
from apexsim.engine.law import at_tokens
from apexsim.engine.replica import scheduled_prefills
from apexsim.engine.state import ALL, DECODE, DRAFTED, FULLEST, MIXED, REST, SAMPLED, SCHEDULED, State


@kernel
def weigh(state: State, tables: StepTables, first: int, mixed: bool) -> None:
    """The sizes of every rank's batch, and what its iteration takes without its own decode attention."""
    groups, group, last = state.groups, tables.group, first + tables.group.ranks
    for g in range(first, last):
        decoding, tokens, sampled = size_of_batch(state, tables, g)
        groups[g].tokens = tokens
        groups[g].sampled = sampled
        groups[g].scheduled = decoding + scheduled_prefills(state, g)
    fullest, total, padded = sizes_of_group(state, tables, first, mixed)
    dense, stride = tables.token_dense, tables.token_stride
    mean, rest = total // group.ranks, total % group.ranks
    if mixed:
        together = at_tokens(group.exchange_mixed_s, dense, stride, fullest)
        together += between(group.experts_mixed_s, dense, stride, mean, rest / group.ranks)
    else:
        together = group.exchange_decode_s[fullest] + part_of_step(group.experts_decode_s, mean, rest / group.ranks)
    if state.drafts.size > 1:
        together += later_passes(state, tables, first)
    for g in range(first, last):
        size = fullest if padded else size_of_rank(state, g, mixed)
        own = at_tokens(tables.mixed_s[0], dense, stride, size) if mixed else tables.decode_s[0, size]
        groups[g].own_s = own + tables.head_s[groups[g].sampled] + together


@kernel
def size_of_rank(state: State, g: int, mixed: bool) -> int:
    """Tokens of a rank, or sequences where all ranks only decode; a dummy batch has one sequence."""
    each = state.drafts.size + 1
    tokens = state.groups[g].tokens if state.groups[g].tokens > 0 else each
    return int(tokens if mixed else tokens // each)


@kernel
def part_of_step(table: np.ndarray, size: int, share: float) -> float:
    """The value at ``size + share`` of a table with a knot at every size."""
    if share == 0.0:
        return float(table[size])
    return float(table[size] + (table[size + 1] - table[size]) * share)


@kernel
def between(table: np.ndarray, dense: int, stride: int, tokens: int, share: float) -> float:
    """The value at ``tokens + share`` of a table over token knots."""
    low = at_tokens(table, dense, stride, tokens)
    if share == 0.0:
        return low
    return low + (at_tokens(table, dense, stride, tokens + 1) - low) * share


@kernel
def sizes_of_group(state: State, tables: StepTables, first: int, mixed: bool) -> tuple[int, int, bool]:
    """(size of the fullest rank, sizes of all of them, whether all are padded to the fullest) as executed."""
    group = tables.group
    fullest, total = 1, 0
    for g in range(first, first + group.ranks):
        size = size_of_rank(state, g, mixed)
        fullest = max(fullest, size)
        total += size
    padded = fullest <= (group.padded_mixed if mixed else group.padded_decode)
    return fullest, group.ranks * fullest if padded else total, padded


@kernel
def sampled_of_group(state: State, tables: StepTables, first: int) -> tuple[int, int]:
    """Sequences that yield a token: (on the fullest rank, on all of them, one at least where any has one)."""
    most, total = 0, 0
    for g in range(first, first + tables.group.ranks):
        most = max(most, state.groups[g].sampled)
        total += max(1, state.groups[g].sampled)
    return most, total if most > 0 else 0


@kernel
def later_passes(state: State, tables: StepTables, first: int) -> float:
    """Seconds of what ranks do together in passes 2 to k of a drafting layer."""
    group = tables.group
    most, total = sampled_of_group(state, tables, first)
    if most == 0 or group.exchange_drafts_s.size == 0:
        return 0.0
    shared = part_of_step(group.experts_drafts_s, total // group.ranks, total % group.ranks / group.ranks)
    return float(group.exchange_drafts_s[most] + shared)


@kernel
def prefill_tokens(state: State, g: int) -> int:
    """Of the iteration in flight on a rank."""
    decoding: int = state.groups[g].decoding if state.groups[g].decoded else 0
    return int(state.groups[g].tokens - decoding * (state.drafts.size + 1))


@kernel
def book_sizes(state: State, tables: StepTables, first: int, steps: int, mixed: bool) -> None:
    """The counters of the iterations that have ended, from which time, energy and work are accounted."""
    groups, replicas, histograms, ranks = state.groups, state.replicas, state.histograms, tables.group.ranks
    kind = MIXED if mixed else DECODE
    fullest, total, padded = sizes_of_group(state, tables, first, mixed)
    histograms[FULLEST + kind, fullest] += steps
    histograms[ALL + kind, total // ranks] += steps
    histograms[REST + kind, total // ranks] += total % ranks * steps
    if state.drafts.size > 1:
        most, drafted = sampled_of_group(state, tables, first)
        histograms[DRAFTED, most] += steps
        histograms[DRAFTED + 1, drafted // ranks] += steps
        histograms[DRAFTED + 2, drafted // ranks] += drafted % ranks * steps
    for g in range(first, first + ranks):
        decoding = groups[g].decoding if groups[g].decoded else 0
        histograms[kind, fullest if padded else size_of_rank(state, g, mixed)] += steps
        histograms[SAMPLED, groups[g].sampled] += steps
        histograms[SCHEDULED, groups[g].scheduled] += steps
        replicas[g].iterations += steps
        replicas[g].prefill_tokens += prefill_tokens(state, g)
        replicas[g].busy_s += groups[g].duration_s
        note_iteration(state, g, steps, decoding, prefill_tokens(state, g), groups[g].scheduled)
        note_decode_work(state, g, decoding, steps)
