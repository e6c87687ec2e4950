"""The least work that a request can be for a replica, read off the step tables of its plan.

A replica is a row of servers, each of which does one thing at a time: its pipeline stages (device seconds),
the host (seconds of scheduling and sampling), and its KV cache (token-seconds, divided by its capacity).
Whatever the scheduler does, a request costs each server at least

    stage p:  in · min_T mixed_p(T)/T + query-key pairs · min_c(prefill attention per pair)
              + (out − 1) · min_n min(decode_p(n), mixed_p(n))/n + Σ kv · min(attention per KV token) + head
    host:     iterations of the request · min_n (host_floor + host_serial)(n)/n
    KV cache: Σ kv over its decode iterations · seconds of the shortest iteration / capacity in tokens

because batching at best shares an iteration among the most tokens. Ratios of the piecewise linear tables take
their minimum at a knot (or at the end of the range), so the minima are exact. Times are seconds; nothing here
knows of rates, SLOs or plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.kvpages import KvPages
from apexsim.cost.tables import FULL, WINDOWED, StepTables
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.workload.trace import Floats, Ints, Trace
from apexsim.workload.visual import has_images


class Lengths(NamedTuple):
    """The distinct (input, output) lengths of a trace's requests, and of images where some have any; U of them."""

    input_tokens: Ints  # [U]
    output_tokens: Ints  # [U]
    which: Ints  # [n] the index of each request's lengths
    images: Ints | None = None  # [U] slices
    visual_tokens: Ints | None = None  # [U] of each slice

    def number(self, among: NDArray[np.bool_] | None = None) -> Ints:
        """[U]: how many requests have each of the lengths, all or those ``among`` them (bool[n])."""
        which = self.which if among is None else self.which[among]
        return np.bincount(which, minlength=len(self.input_tokens))


@dataclass(frozen=True, slots=True)
class Work:
    """Least seconds of each server for a request of each length. R servers, U lengths.

    Attributes:
        servers: names of the rows: "device" for each kind of stage, "host", "KV memory", "links" (of KV that travels).
        prefill_s: [R, U] until the first token is there.
        total_s: [R, U] until the last one is.
        alone_s: [U] least seconds from arrival to last token, with the whole replica to itself.
        served: bool[U] False where the engine rejects such a request: longer than the context or KV cache.
    """

    servers: tuple[str, ...]
    prefill_s: Floats
    total_s: Floats
    alone_s: Floats
    served: NDArray[np.bool_]


def lengths_of(trace: Trace) -> Lengths:
    """The distinct lengths of a trace's requests, in ascending order."""
    columns = [trace.input_tokens, trace.output_tokens]
    if has_images(trace) and trace.images is not None and trace.visual_tokens is not None:
        columns += [trace.images, trace.visual_tokens]
    distinct, which = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return Lengths(distinct[0], distinct[1], which.astype(np.int64).ravel(), *distinct[2:])


def least_work(
    tables: StepTables,
    replica: ReplicaLimits,
    policy: Policy,
    lengths: Lengths,
    *,
    prefix_caching: bool = False,
    transfer_s: Floats | None = None,
    encode_s: Floats | None = None,
) -> Work:
    """The least work of a request of each of ``lengths`` for such a replica, of its phase where it has one alone.

    With ``prefix_caching`` any prompt may be found in the cache and then costs next to nothing. ``transfer_s`` [U] is
    what the KV of a prompt keeps the links of the replica busy: one more server. ``encode_s`` [U]: its images are
    encoded in the iterations of its prefill. ``alone_s`` of two phases adds up.
    """
    # without chunks, or with decodes beside the budget, an iteration may be larger than the tables cover
    within_tables = policy.chunked and not policy.free_decodes
    rates = _cheapest(tables, within_tables, int(lengths.input_tokens.max()), 1 + len(policy.acceptance))
    prompt = lengths.input_tokens.astype(np.float64)
    # Decode iterations: prefill yields a token. With drafts the fewest, each no earlier in the text than its number.
    steps = np.ceil((lengths.output_tokens - 1) / policy.tokens_of_a_step)
    prefill = rates.sampled_s[:, None] + rates.scheduled_s[:, None]
    if not prefix_caching:
        prefill = prefill + rates.prefill_token_s[:, None] * prompt / tables.cp
        for kind, window in _kinds(tables):
            prefill = prefill + rates.prefill_pair_s[:, kind, None] * _pairs(prompt, window)
    if encode_s is not None:  # on one stage: vision is not simulated with several
        prefill = prefill + encode_s
    decode = (rates.decode_token_s + rates.sampled_s + rates.scheduled_s)[:, None] * steps
    for kind, window in _kinds(tables):
        decode = decode + rates.decode_kv_s[:, kind, None] * _kv_tokens(prompt, steps, window)
    prefill = np.broadcast_to(prefill, decode.shape)

    host_s = _minimum_per_unit(tables.host_floor_s + tables.host_serial_s)
    resident = _kv_tokens(np.zeros_like(prompt) if prefix_caching else prompt, steps, tables.window)
    kv_s = resident * rates.iteration_s / (replica.kv_blocks * replica.block_size)
    if replica.pages is not None:
        own = np.zeros_like(prompt) if prefix_caching else prompt  # the rest may be shared
        kv_s = _page_iterations(replica.pages, own, steps) * rates.iteration_s / replica.kv_blocks
    first, later = np.full_like(prompt, 1.0), steps
    entry_s, exit_s = replica.entry_s, replica.exit_s
    if policy.role == "prefill":
        decode, kv_s, later, exit_s = np.zeros_like(decode), np.zeros_like(kv_s), np.zeros_like(steps), 0.0
    if policy.role == "decode":
        prefill, first, entry_s = np.zeros_like(prefill), np.zeros_like(first), 0.0
    over_links = np.zeros_like(prompt) if transfer_s is None else np.where(lengths.output_tokens > 1, transfer_s, 0.0)
    return Work(
        servers=("device",) * len(prefill) + ("host", "KV memory", "links"),
        prefill_s=np.vstack([prefill, host_s * first, np.zeros_like(prompt), np.zeros_like(prompt)]),
        total_s=np.vstack([prefill + decode, host_s * (first + later), kv_s, over_links]),
        alone_s=entry_s + prefill.max(axis=0) + later * rates.iteration_s + exit_s,
        served=served(replica, policy, lengths),
    )


def _page_iterations(pages: KvPages, prompt: Floats, steps: Floats) -> Floats:
    """Σ over the decode iterations of a request of the pages that it holds, at least: those of its tokens."""
    full = _kv_tokens(prompt, steps, 0) * pages.full_groups / pages.block_size
    windowed = _kv_tokens(prompt, steps, pages.window) * pages.windowed_groups / pages.window_block
    return full + windowed + steps * pages.state_pages


def served(replica: ReplicaLimits, policy: Policy, lengths: Lengths) -> NDArray[np.bool_]:
    """The engine's rule: the length within the context, all but the last token within the KV cache.

    A pool that prefills holds prompts alone; to one that decodes only who wants more than a token comes.
    """
    total = lengths.input_tokens + (1 if policy.role == "prefill" else lengths.output_tokens)
    if replica.pages is None:
        blocks = -(-(total - 1) // replica.block_size)
    else:
        blocks = replica.pages.most(total - 1, policy.max_num_batched_tokens if policy.chunked else int(total.max()))
    fits = (total <= replica.max_model_len) & (blocks <= replica.kv_blocks)
    return np.asarray(fits | (lengths.output_tokens <= 1) if policy.role == "decode" else fits)


class _Rates(NamedTuple):
    """Least seconds per unit, one row a kind of pipeline stage (P); the attention ones also by kind (K)."""

    prefill_token_s: Floats  # [P]
    decode_token_s: Floats  # [P]
    sampled_s: Floats  # [P] LM head: last stage only
    scheduled_s: Floats  # [P] host time that is added to the device's: first stage only
    prefill_pair_s: Floats  # [P, K]
    decode_kv_s: Floats  # [P, K]
    iteration_s: float  # the shortest decode iteration, through all stages


def _cheapest(tables: StepTables, within_tables: bool, longest_prompt: int, each: int) -> _Rates:
    """``each``: tokens that a decoding sequence computes in an iteration: one, and its drafts."""
    mixed = np.array([least_per_token(tables, row, within_tables) for row in tables.mixed_s])
    decode = np.array([_minimum_per_unit(row) for row in tables.decode_s])
    sampled, scheduled = np.zeros(tables.stages), np.zeros(tables.stages)
    sampled[-1] = _minimum_per_unit(tables.head_s)
    scheduled[0] = _minimum_per_unit(tables.host_serial_s)
    shortest = np.minimum(tables.decode_s[:, 1:].min(axis=1), tables.mixed_s[:, 1:].min(axis=1))
    host = float((tables.host_floor_s + tables.host_serial_s)[1:].min())
    device = float(shortest.sum() + tables.head_s[1:].min() + tables.host_serial_s[1:].min())
    pair_s, kv_s = _prefill_pair_s(tables, within_tables, longest_prompt), _decode_kv_s(tables)
    by_stage = np.column_stack([mixed, np.minimum(each * mixed, decode), sampled, scheduled, pair_s, kv_s])
    by_stage = np.unique(by_stage, axis=0)  # stages in the middle of a pipeline are alike: one row for all
    mixed, decode, sampled, scheduled = by_stage.T[:4]
    return _Rates(mixed, decode, sampled, scheduled, by_stage[:, 4:6], by_stage[:, 6:8], max(host, device))


def _minimum_per_unit(row: Floats) -> float:
    """min over n = 1 … of row[n] / n."""
    return float((row[1:] / np.arange(1, len(row))).min())


def _knots(tables: StepTables, table: Floats) -> Floats:
    """The token counts at which ``table`` has its values, without 0."""
    i = np.arange(1, len(table), dtype=np.float64)
    beyond = np.maximum(0.0, i - tables.token_dense)
    return np.asarray(np.minimum(i, tables.token_dense) + beyond * tables.token_stride)


def least_per_token(tables: StepTables, row: Floats, within_tables: bool) -> float:
    """min over T of row(T) / T; beyond the table its last slope goes on."""
    least = float((row[1:] / _knots(tables, row)).min())
    return least if within_tables else min(least, float(row[-1] - row[-2]) / tables.token_stride)


def _prefill_pair_s(tables: StepTables, within_tables: bool, longest_prompt: int) -> Floats:
    """[P, K]: least seconds per query-key pair, in a chunk without past and for each pair with the past."""
    tokens = _knots(tables, tables.mixed_s[0])
    best = np.zeros((tables.stages, 2))
    for kind, window in _kinds(tables):
        points = [*tokens, float(window)] if 0 < window < tokens[-1] else [*tokens]
        if not within_tables and longest_prompt > tokens[-1]:
            points.append(float(longest_prompt))
        at = np.array(points)
        for stage in range(tables.stages):
            fresh = _at(tables, tables.prefill_s[stage, kind], at) / _pairs(at, window)
            past = _at(tables, tables.prefill_past_s[stage, kind], at) / at
            best[stage, kind] = max(0.0, min(float(fresh.min()), float(past.min())))
    return best


def _at(tables: StepTables, table: Floats, tokens: Floats) -> Floats:
    """A token table at any token counts: linear between its knots and beyond the last."""
    knots = np.concatenate([[0.0], _knots(tables, table)])
    inside = np.interp(tokens, knots, table)
    slope = (table[-1] - table[-2]) / (knots[-1] - knots[-2])
    return np.asarray(inside + slope * np.maximum(0.0, tokens - knots[-1]))


def _decode_kv_s(tables: StepTables) -> Floats:
    """[P, K]: least seconds of decode attention per KV token, over all batch sizes and contexts."""
    knots = tables.context_knots
    sequences = np.arange(1, tables.decode_attention_s.shape[2])[:, None]
    attention = tables.decode_attention_s[:, :, 1:, :]  # [P, K, M, J]
    per_token = (attention[..., 1:] / (sequences * knots[1:])).min(axis=(2, 3))
    last_slope = (attention[..., -1] - attention[..., -2]) / (sequences[:, 0] * (knots[-1] - knots[-2]))
    return np.asarray(np.maximum(0.0, np.minimum(per_token, last_slope.min(axis=2))))


def _kinds(tables: StepTables) -> tuple[tuple[int, int], ...]:
    """The attention kinds that the model has, with their windows."""
    return ((FULL, 0),) if tables.window == 0 else ((FULL, 0), (WINDOWED, tables.window))


def _pairs(tokens: Floats, window: int) -> Floats:
    """Query-key pairs of a prompt: Σ_{i=1..tokens} min(i, window)."""
    ramp = np.minimum(tokens, window) if window else tokens
    return np.asarray(0.5 * ramp * (ramp + 1.0) + (tokens - ramp) * ramp)


def _kv_tokens(prompt: Floats, steps: Floats, window: int) -> Floats:
    """Σ over decode iterations j = 1 … steps of min(prompt + j, window)."""
    return _pairs(prompt + steps, window) - _pairs(prompt, window)
