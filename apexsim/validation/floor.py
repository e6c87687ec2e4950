"""Measured runs that beat the memory: a step cannot end before its weights and caches are read.

Where a measured time per token is shorter than that read at the run's own batch, the run was another one than its
row says: speculative decoding that the source does not mention, or another load. Such rows stay in every figure;
a note says which they are.
"""

from __future__ import annotations

from apexsim.cost.ledger import MOVED_BYTES
from apexsim.scenario import Prepared
from apexsim.validation.case import Case
from apexsim.validation.metrics import where_it_decodes

SLACK = 0.95
"""Datasheet bandwidth is rounded: less than this share of the time of the read is below it."""

BELOW = "measured TPOT is shorter than one read of weights and KV caches: speculative decoding, or another load"


def floor_notes(case: Case, prepared: Prepared) -> tuple[str, ...]:
    """A note where the measured mean TPOT of a closed loop is below the read of its batch."""
    measured = case.measured.get("tpot_mean_s", case.measured.get("itl_mean_s"))
    floor_s = read_s(case, prepared)
    if measured is None or floor_s is None or measured >= SLACK * floor_s:
        return ()
    return (BELOW,)


def read_s(case: Case, prepared: Prepared) -> float | None:
    """Seconds to read weights and caches once at the run's measured batch, for each token that such a step may yield;
    None for other loads than a closed loop.

    Of ``concurrency`` requests those decode that do not wait for their first token: TPOT · gaps of TTFT + TPOT · gaps.
    Attention ranks share them; what they read together (experts) is left out.
    """
    lengths, concurrency = case.load.lengths, case.load.concurrency
    tpot, ttft = case.measured.get("tpot_mean_s"), case.measured.get("ttft_mean_s")
    if lengths is None or concurrency is None or tpot is None or ttft is None:
        return None
    answering = tpot * max(lengths.output_tokens - 1, 0)
    prepared = where_it_decodes(prepared)
    each = concurrency / (prepared.pool.replicas * prepared.pool.dp) * answering / (ttft + answering)
    batch = int(min(each, prepared.policy.max_num_seqs))
    context = lengths.input_tokens + lengths.output_tokens / 2
    accounting = prepared.compiled.accounting
    full, windowed = accounting.attention
    window = prepared.compiled.tables.window
    cached = full.token_bytes * context + windowed.token_bytes * min(context, window or context)
    read_bytes = float(accounting.decode[MOVED_BYTES, batch] + batch * cached)
    return read_bytes / accounting.memory_bandwidth / prepared.policy.tokens_of_a_step
