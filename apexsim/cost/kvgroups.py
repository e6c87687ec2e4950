"""From a model, a cut and an engine to the pages of its KV pool: which layers share a page, and who gives pages back.

vLLM's rules (kv_cache_utils.py, ``_get_kv_cache_groups_uniform_page_size``): layers of one kind are dealt to groups of
equally many layers: as many as the rarest kind has, or as the most frequent one where it has less than 1.5 times as
many. The last group of a kind may be short of layers: their room is padding. Where layers of two kinds have
different KV bytes a token, the smaller ones take more tokens a page. Pages of a pipeline stage hold the stage's layers.

A layer with a constant state has one page a sequence: pages of attention are made longer, in steps of 16 tokens, until
one holds such a state, and the state is padded to it (``HybridAttentionMambaModelConfig`` in models/config.py).
"""

from __future__ import annotations

from math import ceil
from typing import Literal, NamedTuple

from apexsim.cost.graph import Cut, stage_operators
from apexsim.cost.kvpages import KvPages
from apexsim.cost.operators import AttentionOp, Recurrence
from apexsim.spec import catalog
from apexsim.spec.drafts import draft_of
from apexsim.spec.engine import KvManager
from apexsim.spec.linear import LinearAttention
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

FEW_MORE = 1.5
"""Where the most frequent kind has less than so many times the layers of the rarest, it decides the size of a group."""

STATE_STEP = 16
"""Tokens in which the pages of attention grow until a state fits: what attention kernels take."""

Kind = Literal["full", "windowed", "linear"]


class KvPool(NamedTuple):
    """The pages of a replica: how many a sequence holds, and what one takes on each pipeline stage."""

    pages: KvPages
    page_bytes: tuple[float, ...]  # on one rank of each stage
    padding: int  # layers' worth of a page that no layer uses


def kv_manager(engine: str, version: str | None) -> KvManager | None:
    """What is known of how an engine's version keeps KV; None where nothing is."""
    return next((p.kv_manager_of(version) for p in catalog.engine_profiles() if p.engine == engine), None)


class Freed(NamedTuple):
    """Whether windowed layers give back pages that have left their window, and why, or why not."""

    yes: bool
    because: str


def gives_back(model: ModelSpec, pool: Pool, engine: str, version: str | None) -> Freed:
    """By the engine's version, the plan and the model."""
    manager = kv_manager(engine, version)
    if model.window == 0:
        return Freed(False, "")
    if manager is None or not manager.frees:
        return Freed(False, manager.source if manager else f"it is not known how {engine} {version or ''} keeps it")
    if pool.disable_hybrid_kv_cache_manager:
        return Freed(False, "disable_hybrid_kv_cache_manager is set")
    if any(rule.kv_cache for rule in pool.precision):
        return Freed(False, "some layers keep KV in formats of their own")
    if pool.kv_tiers:
        return Freed(False, "KV tiers are simulated with blocks of all layers")
    if draft_of(model, pool) is not None:
        return Freed(False, "a draft's own KV is simulated with blocks of all layers")
    if pool.scheduler.prefix_caching and _groups(_layers(model))["full"] != 1:
        return Freed(False, "a prefix cache is simulated with one group of layers that keep the whole context")
    kind = "chunked" if model.chunked else "sliding"
    if kind not in manager.frees and pool.disable_hybrid_kv_cache_manager is None:
        return Freed(False, f"{engine} switches its hybrid KV cache manager off for {kind} windows")
    return Freed(True, manager.source)


class Kept(NamedTuple):
    """In which pool of pages a model keeps its KV, None for blocks of all layers; and why windows are (not) freed."""

    pool: KvPool | None
    freed: Freed


def kept_kv(model: ModelSpec, pool: Pool, cut: Cut, engine: str, version: str | None) -> Kept:
    """By the engine's version, the plan and the model."""
    freed = gives_back(model, pool, engine, version)
    if model.linear is not None:
        return Kept(state_pool(model, cut, pool.block_size), freed)
    return Kept(kv_pool(model, cut, pool.block_size) if freed.yes else None, freed)


def kv_pool(model: ModelSpec, cut: Cut, block_size: int) -> KvPool | None:
    """The shared pool of a model with windowed layers; None where their pages cannot be made equally large."""
    layers = _layers(model)
    groups = _groups(layers)
    blocks = _blocks(_token_bytes(model, cut), block_size)
    if blocks is None:
        return None
    per_layer = max(_token_bytes(model, cut)[kind] * tokens for kind, tokens in blocks.items())
    pages = KvPages(
        full_groups=groups["full"], windowed_groups=groups["windowed"], state_pages=0,
        block_size=blocks.get("full", block_size), window_block=blocks.get("windowed", block_size),
        window=model.window,
    )
    padding = sum(groups.values()) * _group_size(layers) - sum(layers.values())
    return KvPool(pages, tuple(_depth(model, cut, stage, groups) * per_layer for stage in range(cut.pp)), padding)


def state_pool(model: ModelSpec, cut: Cut, block_size: int) -> KvPool:
    """The shared pool of a model with layers of constant state, which hold one page of a running sequence each."""
    layers = _layers(model)
    groups = _groups(layers)
    token = _token_bytes(model, cut)["full"]
    state = max(op.state_bytes for stage in range(cut.pp) for op in _recurrences(model, cut, stage))
    block = max(block_size, STATE_STEP * ceil(state / (STATE_STEP * token)))
    pages = KvPages(groups["full"], 0, groups["linear"], block, block, 0)
    depths = tuple(_depth(model, cut, stage, groups) for stage in range(cut.pp))
    padding = sum(groups.values()) * _group_size(layers) - sum(layers.values())
    return KvPool(pages, tuple(depth * block * token for depth in depths), padding)


def _layers(model: ModelSpec) -> dict[Kind, int]:
    windowed = sum(group.count for group in model.groups if group.attention.window)
    linear = sum(group.count for group in model.groups if isinstance(group.attention, LinearAttention))
    return {"full": model.layers - windowed - linear, "windowed": windowed, "linear": linear}


def _groups(layers: dict[Kind, int]) -> dict[Kind, int]:
    """Groups of each kind."""
    size = _group_size(layers)
    return {kind: ceil(count / size) for kind, count in layers.items()}


def _group_size(layers: dict[Kind, int]) -> int:
    """Layers of a group."""
    counts = [count for count in layers.values() if count]
    return max(counts) if max(counts) < FEW_MORE * min(counts) else min(counts)


def _attentions(model: ModelSpec, cut: Cut, stage: int) -> list[AttentionOp]:
    return [op for op in stage_operators(model, cut, stage) if isinstance(op, AttentionOp)]


def _recurrences(model: ModelSpec, cut: Cut, stage: int) -> list[Recurrence]:
    return [op for op in stage_operators(model, cut, stage) if isinstance(op, Recurrence)]


def _token_bytes(model: ModelSpec, cut: Cut) -> dict[Kind, float]:
    """KV bytes of a token of one layer on one rank, by kind."""
    found: dict[Kind, float] = {}
    for stage in range(cut.pp):
        for op in _attentions(model, cut, stage):
            kind: Kind = "windowed" if op.window else "full"
            found[kind] = max(found.get(kind, 0.0), op.kv_token_bytes)
    return found


def _blocks(token_bytes: dict[Kind, float], block_size: int) -> dict[Kind, int] | None:
    """Tokens of a page of one layer, by kind, so that all pages are equally large."""
    largest = max(token_bytes.values())
    if any(largest % each for each in token_bytes.values()):
        return None
    return {kind: int(largest // each) * block_size for kind, each in token_bytes.items()}


def _depth(model: ModelSpec, cut: Cut, stage: int, groups: dict[Kind, int]) -> int:
    """Layers of the stage that one page holds a stretch of."""
    mine: dict[Kind, int] = {"full": 0, "windowed": 0, "linear": 0}
    for op in _attentions(model, cut, stage):
        mine["windowed" if op.window else "full"] += op.count
    mine["linear"] = sum(op.count for op in _recurrences(model, cut, stage))
    return max(ceil(mine[kind] / groups[kind]) for kind in mine if groups[kind])
