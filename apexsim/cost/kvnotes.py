"""What a reader has to know of how a pool keeps the KV of layers that do not see the whole context."""

from __future__ import annotations

from apexsim.cost.kvgroups import Kept
from apexsim.cost.kvpages import KvPages
from apexsim.cost.memory import MemoryPlan, windowed_kv_excess
from apexsim.spec.model import ModelSpec


def kv_notes(model: ModelSpec, memory: MemoryPlan, kept: Kept) -> list[str]:
    """One line where the model has windows or states; none where all its layers keep all of the context."""
    if model.linear is not None and kept.pool is not None:
        return [_state_note(model, memory, kept.pool.pages)]
    if not model.window:
        return []
    shared, freed = kept
    layers = f"layers with a window of {model.window} tokens"
    if shared is None:
        excess = windowed_kv_excess(model, memory.max_model_len)
        why = freed.because if not freed.yes else "its layers have KV of sizes that no page fits"
        return [
            f"{layers} are charged the KV of the whole context ({why}): KV capacity is understated by up to "
            f"{excess:.1f}x where the engine frees it"
        ]
    pages = shared.pages
    held = int(pages.held(memory.max_model_len))
    padding = f", room of {shared.padding} layers is padding" if shared.padding else ""
    return [
        f"{layers} free what has left it: {pages.full_groups} groups of layers keep the whole context, "
        f"{pages.windowed_groups} the window{padding}; {memory.max_model_len} tokens hold {held} pages "
        f"({freed.because}); a prefix that is cached is found with the layers that keep the whole context, and its "
        "window is each request's own"
    ]


def _state_note(model: ModelSpec, memory: MemoryPlan, pages: KvPages) -> str:
    """Layers with a constant state: what a running sequence holds, and what stands behind their price."""
    return (
        f"layers with a constant state hold {pages.state_pages} pages of a running sequence, each as large as "
        f"{pages.block_size} tokens of a group of attention layers (as vLLM pads them): at most "
        f"{memory.kv_blocks // int(pages.held(1))} sequences at once; their kernels were not measured, the price is a "
        f"roofline"
    )
