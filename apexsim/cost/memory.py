"""What of a device's memory goes where, and how many KV blocks are left: as the engines compute it.

    vLLM            available = gpu_memory_utilization · memory − weights − activation peak − engine
    TensorRT-LLM    available = gpu_memory_utilization · (memory − weights − activation peak − engine)
                    blocks    = floor(available / bytes of a block)

``memory`` is what the driver reports. The activation peak is that of the engine's profile run with a full batch;
``engine`` is the CUDA context, communication buffers and what the allocator cannot use. The fullest pipeline stage
decides. Engines without a rule of their own here take vLLM's. Layers with a sliding window are charged the KV of every
token, unless the engine frees what has left the window (``kvgroups.py``): then a block is a page of a group of layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

from apexsim.cost.graph import Cut, group_counts, padded_vocab, stage_operators
from apexsim.cost.kvgroups import KvPool
from apexsim.cost.kvpages import KvPages
from apexsim.cost.operators import AttentionOp, Gemm, GroupedGemm
from apexsim.cost.precision import ACTIVATION_BYTES
from apexsim.spec.formats import weight_bytes
from apexsim.spec.units import format_bytes

if TYPE_CHECKING:
    from apexsim.spec.hardware import HardwareProfile
    from apexsim.spec.model import ModelSpec
    from apexsim.spec.plan import Pool

CONTEXT_BYTES = 0.80e9
"""CUDA context, kernels and allocator slack of one device. This and the next two constants are fitted together on the
KV capacities that vLLM 0.15.1 reported on H100 (vllm-h100-open-loop, nine text-only cases)."""

COMMUNICATION_BYTES = 0.24e9
"""Buffers of NCCL and of the custom all-reduce, where a device has partners."""

LOGITS_BYTES = 45
"""Bytes of a logit at the peak of the sampler's profile run, which sorts: 32-bit logits, sorted copies, 64-bit
indices, probabilities, cumulative sums."""


GREEDY_LOGITS_BYTES = 8
"""The same of a sampler that takes the largest: 32-bit logits, and a copy of them."""

SHARE_OF_FREE = ("tensorrt-llm",)
"""Engines that give the KV cache a share of what is free, not of the whole (``kv_cache_free_gpu_mem_fraction``)."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of the fullest device of a replica."""

    weights_bytes_per_device: float
    activation_bytes: float
    engine_bytes: float
    kv_bytes_per_token_per_device: float
    kv_blocks: int
    block_size: int
    max_model_len: int
    pages: KvPages | None = None  # where layers of several kinds share the pool; then kv_blocks are pages

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens whose KV fits in a replica at once; with ``pages``, in sequences of ``max_model_len``."""
        if self.pages is None:
            return self.kv_blocks * self.block_size
        return int(self.kv_blocks * self.max_model_len // self.pages.held(self.max_model_len))

    def sequences(self, tokens: int) -> int:
        """Decoding sequences of so many tokens whose KV fits at once, each in whole blocks or pages."""
        each = -(-tokens // self.block_size) if self.pages is None else int(self.pages.held(tokens))
        return self.kv_blocks // each


class Beside(NamedTuple):
    """What else stands on every device of a replica: a draft model, slots of adapters."""

    weight_bytes: float = 0.0
    kv_token_bytes: float = 0.0


ALONE = Beside()


@dataclass(frozen=True, slots=True)
class DoesNotFit:
    """A pool that cannot run: what is short, by how much, in one line. A value, never raised."""

    resource: str  # memory | dtype | shape; bytes are 0 where it is not memory
    needed_bytes: float
    available_bytes: float
    short_bytes: float
    reason: str


def stage_weight_bytes(model: ModelSpec, cut: Cut, stage: int) -> float:
    """Weights of one rank of a stage, norms, embedding and LM head included."""
    total = 0.0
    for op in stage_operators(model, cut, stage):
        if isinstance(op, Gemm):
            total += op.count * op.n * op.k * weight_bytes(op.weights)
        elif isinstance(op, GroupedGemm):
            total += op.count * op.local_experts * op.expert_parameters * weight_bytes(op.weights)
    for group, count in zip(model.groups, group_counts(model, cut.pp, stage, cut.split), strict=True):
        total += count * group.norms * model.hidden_size * ACTIVATION_BYTES
    return total + table_bytes(model, cut, stage)


def table_bytes(model: ModelSpec, cut: Cut, stage: int) -> float:
    """Embedding, positions and LM head of one rank; a tied head is the embedding, unless it has a format of its own."""
    values = padded_vocab(model.vocab_size, cut.tp) // cut.tp * model.hidden_size
    first, last = stage == 0, stage == cut.pp - 1
    same = first and last and model.tied_embeddings and cut.lm_head == model.dtype
    head = values * weight_bytes(cut.lm_head) if last and not same else 0.0
    positions = model.positions * model.hidden_size  # whole on every rank
    return ((values + positions) * ACTIVATION_BYTES if first else 0.0) + head


def stage_kv_token_bytes(model: ModelSpec, cut: Cut, stage: int) -> float:
    """KV bytes of one token on one rank of a stage."""
    return sum(
        op.count * op.kv_token_bytes for op in stage_operators(model, cut, stage) if isinstance(op, AttentionOp)
    )


def windowed_kv_excess(model: ModelSpec, max_model_len: int) -> float:
    """KV elements charged to a sequence of ``max_model_len`` tokens, over those that windows leave; 1 without any."""
    full = model.kv_elements_per_token(windowed=False)
    windowed = model.kv_elements_per_token(windowed=True)
    return (full + windowed) / (full + windowed * min(model.window / max_model_len, 1.0))


def activation_bytes(
    model: ModelSpec, cut: Cut, stage: int, max_num_batched_tokens: int, max_num_seqs: int,
    logits_bytes: int = LOGITS_BYTES,
) -> float:
    """Peak of the profile run: input and output of the widest layer for a full batch, and the sampler's logits."""
    widest = max(
        op.n + op.k if isinstance(op, Gemm) else op.experts_per_token * 3 * op.intermediate_size + op.hidden_size
        for op in stage_operators(model, cut, stage) if isinstance(op, Gemm | GroupedGemm)
    )
    tokens = max_num_batched_tokens * widest * ACTIVATION_BYTES
    logits = max_num_seqs * padded_vocab(model.vocab_size, cut.tp) * logits_bytes if stage == cut.pp - 1 else 0
    return float(tokens + logits)


def plan_memory(
    model: ModelSpec, profile: HardwareProfile, pool: Pool, cut: Cut, max_num_batched_tokens: int, max_num_seqs: int,
    engine_name: str = "vllm", shared: KvPool | None = None, beside: Beside = ALONE,
) -> MemoryPlan | DoesNotFit:
    """Memory of the fullest stage, and the KV blocks that the stage with the least room leaves to all.

    ``shared``: the pool of pages of layers of several kinds; None where a block holds tokens of all layers.
    ``beside``: what the model shares the devices with; its KV is in the same blocks.
    """
    share_of_free = engine_name in SHARE_OF_FREE
    budget = profile.memory_bytes * (1.0 if share_of_free else pool.gpu_memory_utilization)
    engine = CONTEXT_BYTES + (COMMUNICATION_BYTES if cut.devices * cut.pp * cut.cp > 1 else 0.0)
    logits_bytes = GREEDY_LOGITS_BYTES if share_of_free else LOGITS_BYTES
    tokens = ceil(max_num_batched_tokens / cut.cp)
    weights, peaks, kv = [], [], []
    for stage in range(cut.pp):
        weights.append(stage_weight_bytes(model, cut, stage) + beside.weight_bytes)
        peaks.append(activation_bytes(model, cut, stage, tokens, max_num_seqs, logits_bytes))
        kv.append(stage_kv_token_bytes(model, cut, stage) + beside.kv_token_bytes)
    share = pool.gpu_memory_utilization if share_of_free else 1.0
    room = [share * (budget - w - a - engine) for w, a in zip(weights, peaks, strict=True)]
    pages = shared.page_bytes if shared else tuple(each * pool.block_size for each in kv)
    blocks = min(floor(free / each) for free, each in zip(room, pages, strict=True))
    tightest = min(range(cut.pp), key=lambda stage: room[stage] / pages[stage])
    least = int(shared.pages.held(1)) if shared else 1
    if blocks < least:
        needed = weights[tightest] + peaks[tightest] + engine + pages[tightest] * least
        reason = _short(model, profile, cut, weights[tightest], needed, budget)
        return DoesNotFit("memory", needed, budget, needed - budget, reason)
    return MemoryPlan(
        weights[tightest], peaks[tightest], engine, kv[tightest] / cut.cp, blocks,
        # Tokens are dealt to the cp ranks one by one: a block of each holds that many more of them.
        shared.pages.block_size if shared else pool.block_size * cut.cp,
        min(pool.max_model_len or model.max_context, model.max_context), shared.pages if shared else None,
    )


def _short(
    model: ModelSpec, profile: HardwareProfile, cut: Cut, weights: float, needed: float, budget: float
) -> str:
    ranks = f" dp={cut.dp}" if cut.dp > 1 else ""
    return (
        f"{model.name} at tp={cut.tp} pp={cut.pp}{ranks} needs {format_bytes(needed, 4)} a device "
        f"(weights {format_bytes(weights, 4)}), {profile.name} offers {format_bytes(budget, 4)}: "
        f"short by {format_bytes(needed - budget, 4)}"
    )
