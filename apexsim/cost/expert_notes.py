"""What a reader should know of the prices of routed experts: the popularity assumed, the fullest rank, the exchange."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from apexsim.cost.counts import PREFIX
from apexsim.cost.fullest import mean_load, rank_load
from apexsim.cost.kernels import KernelModel
from apexsim.cost.operators import Collective, Exchange, GroupedGemm, Operator
from apexsim.cost.routing import SERVING, is_drawn

TOKENS = 1024
"""Of all ranks, at which the notes compare the fullest rank with the mean one."""


def expert_notes(operators: Iterable[Operator], kernels: KernelModel) -> Iterator[str]:
    """Lines for ``Confidence.notes``; none for a model without experts."""
    ops = tuple(operators)
    experts = next((op for op in ops if isinstance(op, GroupedGemm)), None)
    if experts is None:
        return
    yield _popularity(experts)
    if experts.ranks > 1 and is_drawn(experts.routing):
        most, mean = (float(load(np.array([float(TOKENS)]), experts).rows[0]) for load in (rank_load, mean_load))
        held = f", {experts.redundant} redundant experts" if experts.redundant else ""
        yield (
            f"the fullest of {experts.ranks} expert-parallel ranks decides: {most / mean:.2f} times the mean rank's "
            f"load at {TOKENS} tokens ({experts.placement} placement{held})"
        )
    sent = next((op for op in ops if isinstance(op, Exchange) and op.phase == "dispatch"), None)
    if sent is not None:
        carriers = (sent.prefill,) if sent.prefill == sent.decode else (sent.prefill, sent.decode)
        for carrier in carriers:
            priced = kernels.exchange("dispatch", 64.0, carrier)
            known = "fitted on measurements of this device" if priced.calibrated else "estimated from its links"
            where = f"{carrier.ranks} ranks on {carrier.nodes} node{'s' if carrier.nodes > 1 else ''}"
            yield f"dispatch and combine ({carrier.transport}, {where}): {known}"
    elif any(isinstance(op, Collective) and op.wide for op in ops):
        yield f"tokens of {experts.ranks} expert-parallel ranks are gathered and scattered by collectives"


def _popularity(experts: GroupedGemm) -> str:
    if experts.routing == SERVING:
        between = "" if experts.ranks == 1 else " within a batch, and to 1 / √rank between ranks"
        return f"experts are as popular as zipf_1 says: the rank-th one is chosen in proportion to 1 / rank{between}"
    if experts.routing.startswith(PREFIX):
        return f"experts are as popular as {experts.routing.removeprefix(PREFIX)} counts"
    return f"experts are as popular as the plan says: {experts.routing}"
