"""How far speculative decoding got: tokens of a step, and the share of drafts that were accepted."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.engine.result import Counters


@dataclass(frozen=True, slots=True)
class Speculation:
    """Of all steps of decoding sequences; None where none decoded.

    Drafts that were accepted beyond the last token that a request asked for count as not accepted: nobody got them.
    """

    tokens_per_step: float | None
    acceptance_rate: float | None


def speculation(counters: Counters, drafts: int) -> Speculation | None:
    """Of a pool whose steps verify so many drafts; None where it does not speculate."""
    if drafts == 0:
        return None
    steps = counters.decode_tokens
    if steps == 0:
        return Speculation(None, None)
    return Speculation(1.0 + counters.accepted_tokens / steps, counters.accepted_tokens / (drafts * steps))
