"""What a load from a KV tier is weighed against: the seconds to compute the same tokens, from the step tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import FULL, WINDOWED, StepTables
from apexsim.engine.schedulers import Policy

KNOTS = 1024
"""Prompts of up to so many tokens are weighed to the token; longer ones between as many knots."""


class Curve(NamedTuple):
    """Seconds to compute the first tokens of a prompt, at multiples of ``step``; linear between, step 0 = none."""

    step: int
    seconds: NDArray[np.float64]


NO_CURVE = Curve(0, np.zeros(0))


def prefill_curve(tables: StepTables, policy: Policy, longest: int) -> Curve:
    """A prompt of up to ``longest`` tokens that is alone, in chunks as large as the policy lets them be.

    Without the host, the LM head and what other requests of its iterations cost: this estimates, as an engine would
    have to. No tokens count as one: a request computes its last token anyway, so that there is an iteration is no cost
    of the others. Of a pipeline the slowest stage counts.
    """
    step = -(-longest // KNOTS)
    most = longest + 2 * step
    chunk = most
    if policy.chunked:
        chunk = min(chunk, policy.max_num_batched_tokens, policy.long_prefill_token_threshold or most)
    whole = [0.0]  # seconds of the first 0, 1, … full chunks
    for k in range(most // chunk):
        whole.append(whole[-1] + _chunk_s(tables, chunk, k * chunk))
    knots = range(0, most + 1, step)

    def alone_s(tokens: int) -> float:
        rest = tokens % chunk
        return whole[tokens // chunk] + (_chunk_s(tables, rest, tokens - rest) if rest else 0.0)

    return Curve(step, np.array([alone_s(max(1, tokens)) for tokens in knots]))


def _chunk_s(tables: StepTables, chunk: int, past: int) -> float:
    stages = range(tables.stages)
    rows = -(-chunk // tables.cp)
    own_s = max(_at(tables, tables.mixed_s[p], rows) + _attention_s(tables, p, chunk, past) for p in stages)
    group = tables.group
    if group.ranks == 1:
        return own_s
    each = -(-chunk // group.ranks)
    return own_s + _at(tables, group.exchange_mixed_s, chunk) + _at(tables, group.experts_mixed_s, each)


def _attention_s(tables: StepTables, stage: int, chunk: int, past: int) -> float:
    seconds = 0.0
    for kind in (FULL, WINDOWED) if tables.window else (FULL,):
        extra = float(past)
        if kind == WINDOWED:
            seen = np.arange(1, chunk + 1)
            extra = float((np.minimum(past + seen, tables.window) - np.minimum(seen, tables.window)).mean())
        seconds += _at(tables, tables.prefill_s[stage, kind], chunk)
        seconds += extra * _at(tables, tables.prefill_past_s[stage, kind], chunk)
    return seconds


def _at(tables: StepTables, table: NDArray[np.float64], tokens: int) -> float:
    """A table over token knots, beyond its last one on the line of its last two."""
    dense, stride = tables.token_dense, tables.token_stride
    if tokens <= dense and tokens < len(table):
        return float(table[tokens])
    i = min(dense + (tokens - dense) // stride, len(table) - 2)
    return float(table[i] + (table[i + 1] - table[i]) * (tokens - dense - (i - dense) * stride) / stride)
