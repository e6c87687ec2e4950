"""What swapping a preempted request's KV blocks to host memory costs: one call of the copy engine a tensor and group.

A block holds ``block_size`` tokens of every layer, but each layer keeps its keys and its values in tensors of their
own. So a swap of n blocks, g of which lie side by side, is ceil(n / g) · tensors · L copies, and short ones last as
long as the call (FastSwitch, 2024):

    t = calls · max(API_S, bytes of a call / bandwidth)

Each device of a replica copies its own share, its heads of the layers of its stage, at the same time as the others; the
stage with the most bytes a token stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING

from apexsim.cost.graph import cut_of
from apexsim.cost.memory import stage_kv_token_bytes
from apexsim.cost.tiers import MOST_BLOCKS, PCIE_SHARE, kv_layers

if TYPE_CHECKING:
    from apexsim.spec.hardware import HardwareProfile
    from apexsim.spec.model import ModelSpec
    from apexsim.spec.plan import Pool

API_S = 8e-6
"""Of one asynchronous copy, launched one after the other (FastSwitch)."""

SWAP_SPACE_BYTES = 4 * 2**30
"""Of a device, where a plan says nothing: the default of vLLM's ``--swap-space``."""


@dataclass(frozen=True, slots=True)
class SwapLaw:
    """Preemption by swap of a compiled pool.

    Attributes:
        blocks: KV blocks of a replica that the swap space holds.
        group_blocks: blocks side by side, copied by one call a tensor.
        group_s: seconds to copy such a group, one way.
        asynchronous: copies run beside an iteration, which lasts at least as long; else they stall it.
        block_bytes: of one block, on all devices of a replica.
    """

    blocks: int
    group_blocks: int
    group_s: float
    asynchronous: bool
    block_bytes: float

    def seconds(self, blocks: int) -> float:
        """Of a copy of so many blocks, one way."""
        return ceil(blocks / self.group_blocks) * self.group_s


def swap_law(model: ModelSpec, profile: HardwareProfile, pool: Pool) -> SwapLaw | None:
    """The swap law of a pool; None where preemption recomputes. The PCIe is known (``legality``)."""
    scheduler = pool.scheduler
    if scheduler.preemption != "swap":
        return None
    assert profile.pcie_bandwidth is not None, "refused by legality.check_tiers"
    cut = cut_of(model, pool)
    stages = [stage_kv_token_bytes(model, cut, stage) * pool.block_size for stage in range(cut.pp)]
    most = max(stages)
    tensors = 1 if any(group.attention.kind == "mla" for group in model.groups) else 2
    calls = tensors * kv_layers(model, cut)
    call_bytes = scheduler.swap_group * most / calls
    space = SWAP_SPACE_BYTES if scheduler.swap_space is None else scheduler.swap_space
    return SwapLaw(
        min(floor(space / most), MOST_BLOCKS), scheduler.swap_group,
        calls * max(API_S, call_bytes / (PCIE_SHARE * profile.pcie_bandwidth)), scheduler.swap_async,
        sum(stages) * cut.tp * cut.cp,
    )  # fmt: skip
