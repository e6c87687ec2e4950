"""Requests that no replica of a plan can take: longer than the model's context, or than the whole KV cache."""

from __future__ import annotations

from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.metrics.attainment import needed_shares
from apexsim.scenario import Prepared
from apexsim.search.work import Lengths, served
from apexsim.spec.slo import SLO


def limits_of(prepared: Prepared) -> ReplicaLimits:
    """What one replica of the plan takes."""
    compiled, memory = prepared.compiled, prepared.compiled.memory
    return ReplicaLimits(
        memory.kv_blocks, memory.block_size, memory.max_model_len, compiled.entry_s, compiled.exit_s, memory.pages
    )


def too_long(limits: ReplicaLimits, policy: Policy, lengths: Lengths, slo: SLO) -> str:
    """One line where more requests are rejected for their length than the SLO forgives; "" otherwise."""
    number = lengths.number()
    requests, rejected = int(number.sum()), int(number[~served(limits, policy, lengths)].sum())
    if rejected <= (1 - max(needed_shares(slo).values())) * requests:
        return ""
    tokens = lengths.input_tokens + lengths.output_tokens
    of_context = int(number[tokens > limits.max_model_len].sum())
    cache = f"{limits.kv_blocks:,} pages" if limits.pages else f"{limits.kv_blocks * limits.block_size:,} tokens"
    causes = (
        (of_context, f"longer than the context of {limits.max_model_len:,} tokens"),
        (rejected - of_context, f"longer than the KV cache of {cache}"),
    )
    listed = ", ".join(f"{count:,} {cause}" for count, cause in causes if count)
    return f"{rejected:,} of {requests:,} requests are rejected: {listed}"
