"""The step-time law of ``cost/tables.py``, compiled: the parts of an iteration, and stretches of decode iterations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.tables import FULL, WINDOWED, StepTables
from apexsim.engine.jit import exact, kernel

NEVER = 1 << 62
"""A number of iterations that no run reaches."""


def exact_tables(tables: StepTables) -> StepTables:
    """The tables with exactly the types that the compiled kernels take; one row of transfers stands for all."""
    tables = tables._replace(transfer_s=np.atleast_2d(tables.transfer_s))
    return tables._replace(
        **_exact({name: value for name, value in tables._asdict().items() if name != "group"}),
        group=tables.group._replace(**_exact(tables.group._asdict())),
    )


def _exact(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: exact(value, np.float64) if isinstance(value, np.ndarray) else int(value)
        for name, value in values.items()
    }


@kernel
def at_tokens(table: NDArray[np.float64], dense: int, stride: int, tokens: int) -> float:
    """The value at ``tokens`` of a table over token knots; linear between them and beyond the last."""
    if tokens <= dense:
        return table[tokens]
    i = dense + (tokens - dense) // stride
    last = table.size - 2
    i = min(i, last)
    left = dense + (i - dense) * stride
    return table[i] + (table[i + 1] - table[i]) * (tokens - left) / stride


@kernel
def context_segment(knots: NDArray[np.float64], mean: float) -> int:
    """Index j of the segment [knots[j], knots[j + 1]) that holds ``mean``; the last one goes on for ever."""
    low = 0
    high = knots.size - 2
    while low < high:
        mid = (low + high + 1) >> 1
        if knots[mid] <= mean:
            low = mid
        else:
            high = mid - 1
    return low


@kernel
def decode_attention(tables: StepTables, stage: int, kind: int, decoding: int, kv: float) -> float:
    """Seconds of decode attention of one kind for ``decoding`` sequences with ``kv`` = Σ min(kv, window)."""
    knots = tables.context_knots
    j = context_segment(knots, kv / decoding)
    row = tables.decode_attention_s[stage, kind, decoding]
    return row[j] + (row[j + 1] - row[j]) * (kv / decoding - knots[j]) / (knots[j + 1] - knots[j])


@kernel
def pairs(chunk: int, past: int, window: int) -> float:
    """Query-key pairs Σ_{i=1..chunk} min(past + i, window); ``window`` 0 means no limit."""
    if window == 0 or past + chunk <= window:
        return chunk * float(past) + 0.5 * chunk * (chunk + 1.0)
    if past >= window:
        return chunk * float(window)
    ramp = window - past
    return ramp * float(past) + 0.5 * ramp * (ramp + 1.0) + (chunk - ramp) * float(window)


@kernel
def prefill_attention(tables: StepTables, stage: int, chunk: int, past: int) -> float:
    """Seconds of one prompt's attention: ``chunk`` new tokens over ``past`` tokens that are in the KV cache."""
    dense = tables.token_dense
    stride = tables.token_stride
    seconds = at_tokens(tables.prefill_s[stage, FULL], dense, stride, chunk)
    if past > 0:
        seconds += past * at_tokens(tables.prefill_past_s[stage, FULL], dense, stride, chunk)
    window = tables.window
    if window > 0:
        seconds += at_tokens(tables.prefill_s[stage, WINDOWED], dense, stride, chunk)
        if past > 0:
            extra = (pairs(chunk, past, window) - pairs(chunk, 0, window)) / chunk
            seconds += extra * at_tokens(tables.prefill_past_s[stage, WINDOWED], dense, stride, chunk)
    return seconds


@kernel
def steps_to_reach(need: float, per_step: float) -> int:
    """Smallest whole number of steps, at least 1, whose progress reaches ``need``; NEVER where there is none."""
    if per_step <= 0.0:
        return NEVER
    steps = math.ceil(need / per_step)
    if steps < 1.0:
        return 1
    if steps > 1e18:
        return NEVER
    return int(steps)


@kernel
def attention_segment(
    tables: StepTables, decoding: int, kv: float, kv_windowed: float, growing: int
) -> tuple[float, float, int]:
    """The stretch of decode iterations that begins now and on which attention is one straight line.

    ``kv`` and ``kv_windowed`` are the sums S_k of the first iteration, which rise by ``decoding`` and ``growing`` each
    time. Returns (attention seconds of the first iteration, seconds more each time, number of iterations on the line).
    Pipelines of one stage only.
    """
    knots = tables.context_knots
    mean = kv / decoding
    j = context_segment(knots, mean)
    row = tables.decode_attention_s[0, FULL, decoding]
    per_token = (row[j + 1] - row[j]) / (knots[j + 1] - knots[j])
    attention = row[j] + per_token * (mean - knots[j])
    slope = per_token  # the mean context rises by one token an iteration
    length = NEVER
    if j < knots.size - 2:
        length = steps_to_reach(knots[j + 1] - mean, 1.0)
    if tables.window > 0:
        mean = kv_windowed / decoding
        j = context_segment(knots, mean)
        row = tables.decode_attention_s[0, WINDOWED, decoding]
        per_token = (row[j + 1] - row[j]) / (knots[j + 1] - knots[j])
        attention += row[j] + per_token * (mean - knots[j])
        rise = growing / decoding
        slope += per_token * rise
        if j < knots.size - 2:
            length = min(length, steps_to_reach(knots[j + 1] - mean, rise))
    return attention, slope, length


@kernel
def decode_segment(
    tables: StepTables, decoding: int, kv: float, kv_windowed: float, growing: int
) -> tuple[float, float, float, float, int]:
    """The stretch on which the whole law is one straight line.

    Returns (seconds of the first iteration, seconds more each time, attention seconds of the first, attention
    seconds more each time, number of iterations on the line). Arguments as for ``attention_segment``.
    """
    attention, slope, length = attention_segment(tables, decoding, kv, kv_windowed, growing)
    device = tables.decode_s[0, decoding] + tables.head_s[decoding] + attention
    floor = tables.host_floor_s[decoding]
    serial = tables.host_serial_s[decoding]
    if device >= floor:
        return device + serial, slope, attention, slope, length
    # The host is the slower one until the device catches up.
    return floor + serial, 0.0, attention, slope, min(length, steps_to_reach(floor - device, slope))


@kernel
def steps_within(first: float, slope: float, limit: float, most: int) -> int:
    """Smallest m in 1..most with m·first + slope·m(m − 1)/2 >= limit, or ``most``."""
    if most * first + 0.5 * slope * most * (most - 1.0) < limit:
        return most
    if slope > 0.0:
        half = first - 0.5 * slope
        guess = (math.sqrt(half * half + 2.0 * slope * limit) - half) / slope
    else:
        guess = limit / first
    m = max(1, min(most, math.ceil(guess)))
    # The root is exact to rounding only; step to the exact smallest m.
    while m > 1 and (m - 1) * first + 0.5 * slope * (m - 1) * (m - 2.0) >= limit:
        m -= 1
    while m < most and m * first + 0.5 * slope * m * (m - 1.0) < limit:
        m += 1
    return m
