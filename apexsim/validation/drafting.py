"""Whether a measured run decoded speculatively, and how its attention ranks waited for each other."""

from __future__ import annotations

from typing import Any

from apexsim.spec.speculative import Speculative
from apexsim.validation.stated import CannotSimulate, Known

ACCEPTANCE = Speculative.model_fields["acceptance"].default
"""Of a draft, where nobody published it: the plan's own default."""


def speculative_of(known: Known) -> dict[str, Any] | None:
    """The plan's ``speculative`` of a run; None where it ran without, and where nobody knows whether it did.

    Raises:
        CannotSimulate: it is not said how many tokens it drafted.
    """
    word = known.get("speculative")
    if word in (None, "none"):
        return None
    if word == "mtp-or-none":
        known.guess("speculative", "none", "served with multi-token prediction and without: the row does not say which")
        return None
    tokens = known.get("num_speculative_tokens")
    if tokens is None:
        raise CannotSimulate(f"column 'num_speculative_tokens' is empty: a run with speculative={word} needs it")
    acceptance = known.default("draft_acceptance", ACCEPTANCE, "not published; the default of plans")
    return {"method": word, "num_speculative_tokens": int(tokens), "acceptance": float(acceptance)}


def waiting_of(known: Known, engine: str, dp: int) -> dict[str, Any]:
    """Scheduler keys of a run whose attention ranks wait for each other with their prompts; none where they do not."""
    if engine != "tensorrt-llm" or dp == 1:
        return {}
    timeout = known.get("attention_dp_timeout_iters")
    if timeout is None:
        return {}
    rule = {"enable_balance": True, "timeout_iters": int(timeout), "batching_wait_iters": 0}
    return {"attention_dp_config": rule}
