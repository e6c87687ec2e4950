"""From a model and a pool to the operators of one pipeline stage, as a graph.

A stage's graph holds one layer of each layer group (``operator.count`` says how many such layers the stage has), the
embedding before them on the first stage and the LM head after them on the last. Edges are data dependencies: what
may overlap, and the critical path, can be read from the graph. Kernels run one after another in today's engines, so
``step.py`` adds all nodes up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from math import ceil, lcm
from typing import Any, NamedTuple

import networkx as nx

from apexsim.cost.exchange import LOGIT_BYTES, Way, carriers, prepared
from apexsim.cost.operators import (
    OWN,
    SHARED,
    AttentionOp,
    Collective,
    Elementwise,
    Exchange,
    Gemm,
    GroupedGemm,
    Operator,
    Phase,
    Rows,
)
from apexsim.cost.precision import ACTIVATION_BYTES, weights_of
from apexsim.cost.recurrence import recurrence_of
from apexsim.cost.routing import Spread, spread_of
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.layer_precision import PrecisionRule
from apexsim.spec.linear import LinearAttention
from apexsim.spec.model import Attention, LayerGroup, ModelSpec, MoeMlp, Part
from apexsim.spec.plan import Pool
from apexsim.spec.precision import pool_word
from apexsim.spec.tensor_parallel import fullest_rank

PARTS: tuple[Part, ...] = ("attention", "mlp", "experts", "shared_experts")
"""Parts of a layer that have a weight dtype of their own, in the order of the fields of ``Cut``."""

VOCAB_PADDING = 64
"""Engines pad the vocabulary to a multiple of this and of the ranks."""


SAMPLING_KERNELS = 4
"""Launches of a sampler: penalties and temperature, sort or argmax, softmax, draw."""


class Cut(NamedTuple):
    """What of a pool decides the shapes of its operators; pools with equal cuts share one graph."""

    tp: int
    pp: int
    ep: int
    attention: str
    mlp: str
    experts: str
    shared_experts: str
    lm_head: str
    kv_cache: KvDtype
    dp: int = 1
    way: Way = Way()
    router: str = "bf16"
    rules: tuple[PrecisionRule, ...] = ()  # of single layers; see ``layers_of``
    spread: Spread = Spread()
    cp: int = 1
    split: tuple[int, ...] = ()  # layers of each stage, where the plan says so

    @property
    def devices(self) -> int:
        """Devices of one stage: those of all attention ranks, which hold the experts together."""
        return self.tp * self.dp


def cut_of(model: ModelSpec, pool: Pool, way: Way | None = None) -> Cut:
    """The cut that a pool asks for. Parts that a checkpoint left unquantised, and the LM head, keep 16 bits.

    ``way``: how tokens travel to the experts where dp > 1 (``way_of``); an all-gather in one node where left out.
    """
    word = pool_word(model, pool)
    kept = model.unquantized if weights_of(model, pool) == model.quantization else ()
    parts = {part: model.dtype if part in kept else word for part in PARTS}
    head: str = model.dtype
    for rule in pool.precision:
        head = (rule.word or head) if rule.part == "lm_head" else head
    return Cut(
        pool.tp, pool.pp, pool.ep, **parts, lm_head=head, kv_cache=pool.kv_cache, dp=pool.dp,
        way=way or Way("none" if pool.dp == 1 else "all-gather"), router=model.dtype,
        rules=tuple(rule for rule in pool.precision if rule.part != "lm_head"), spread=spread_of(pool.experts),
        cp=pool.cp, split=pool.pp_layers,
    )  # fmt: skip


def layers_of_stage(layers: int, pp: int, stage: int, split: tuple[int, ...] = ()) -> range:
    """Layers of a pipeline stage: ``split`` of them each, or as vLLM splits them: the remainder goes to the later
    stages, but not the last.

    Source: vllm.distributed.utils.get_pp_indices, where VLLM_PP_LAYER_PARTITION states a split.
    """
    sizes = list(split) or [layers // pp] * pp
    for extra in range(0 if split else layers % pp):
        sizes[(pp - 2 - extra) % pp] += 1
    start = sum(sizes[:stage])
    return range(start, start + sizes[stage])


def group_counts(model: ModelSpec, pp: int, stage: int, split: tuple[int, ...] = ()) -> tuple[int, ...]:
    """How many layers of each group a stage has."""
    order = model.order
    mine = [order[layer] for layer in layers_of_stage(model.layers, pp, stage, split)]
    return tuple(mine.count(g) for g in range(len(model.groups)))


def layers_of(model: ModelSpec, cut: Cut, stage: int) -> Iterator[tuple[LayerGroup, Cut, int]]:
    """(group, cut, layers) of a stage: layers of one group that the precision rules treat alike, together."""
    if not cut.rules:
        counts = group_counts(model, cut.pp, stage, cut.split)
        yield from ((group, cut, count) for group, count in zip(model.groups, counts, strict=True) if count)
        return
    order = model.order
    mine = layers_of_stage(model.layers, cut.pp, stage, cut.split)
    kinds = Counter((order[layer], _ruled(cut, layer)) for layer in mine)
    yield from ((model.groups[g], own, count) for (g, own), count in kinds.items())


def _ruled(cut: Cut, layer: int) -> Cut:
    """The cut of one layer: each rule in turn on the parts that it is about."""
    own = cut._replace(rules=())
    for rule in cut.rules:
        if not rule.covers(layer):
            continue
        if rule.word is not None:
            named: dict[str, Any] = {part: rule.word for part in PARTS if rule.part in ("all", part)}
            own = own._replace(**named)
        own = own._replace(kv_cache=rule.kv_cache or own.kv_cache)
    return own


@lru_cache(maxsize=512)
def stage_operators(model: ModelSpec, cut: Cut, stage: int) -> tuple[Operator, ...]:
    """Every operator of a stage's iteration, in an order in which it can run; the LM head is not among them."""
    graph = stage_graph(model, cut, stage)
    return tuple(graph.nodes[node]["operator"] for node in nx.topological_sort(graph))


@lru_cache(maxsize=512)
def head_operators(model: ModelSpec, cut: Cut, logit_bytes: float) -> tuple[Operator, ...]:
    """LM head and sampling of the last stage; their rows are the sequences that yield a token.

    ``logit_bytes``: memory traffic of the engine's sampler for one logit; each rank samples the whole vocabulary.
    """
    vocab = padded_vocab(model.vocab_size, cut.tp)
    hidden = model.hidden_size
    head: list[Operator] = [Gemm("lm_head", vocab // cut.tp, hidden, cut.lm_head, 1)]
    if cut.tp > 1:
        head.append(Collective("logits", "all_gather", vocab * ACTIVATION_BYTES, cut.tp, 1))
    head.append(Elementwise("sampling", logit_bytes * vocab, SAMPLING_KERNELS, 1))
    return tuple(head)


def padded_vocab(vocab_size: int, tp: int) -> int:
    """Vocabulary after the engines' padding, a multiple of ``tp``."""
    unit = lcm(VOCAB_PADDING, tp)
    return ceil(vocab_size / unit) * unit


def stage_graph(model: ModelSpec, cut: Cut, stage: int) -> nx.DiGraph[str]:
    """Operators of one stage: nodes carry ``operator``, edges are data dependencies."""
    chain = _Chain()
    hidden = model.hidden_size
    if stage == 0:
        chain.add(Elementwise("embedding", 2.0 * hidden * ACTIVATION_BYTES, 1, 1))
        if cut.tp > 1:
            chain.add(Collective("embedding_sum", "all_reduce", hidden * ACTIVATION_BYTES, cut.tp, 1))
    for group, own, count in layers_of(model, cut, stage):
        _add_attention(chain, group, hidden, own, count)
        _add_mlp(chain, group, hidden, own, count)
    return chain.graph


class _Chain:
    """A graph under construction: a new operator follows the last ones unless it says whom it follows."""

    def __init__(self) -> None:
        self.graph: nx.DiGraph[str] = nx.DiGraph()
        self.last: tuple[str, ...] = ()

    def add(self, operator: Operator, after: tuple[str, ...] | None = None) -> tuple[str, ...]:
        node = f"{self.graph.number_of_nodes()}:{operator.name}"
        self.graph.add_node(node, operator=operator)
        for before in self.last if after is None else after:
            self.graph.add_edge(before, node)
        self.last = (node,)
        return self.last


def attention_block(attention: Attention, hidden: int, cut: Cut) -> tuple[Operator, ...]:
    """Attention of one layer on one rank with its projections, without the norm before it and the sum after it."""
    chain = _Chain()
    _add_block(chain, attention, hidden, cut, 1)
    return tuple(chain.graph.nodes[node]["operator"] for node in chain.graph)


def _add_attention(chain: _Chain, group: LayerGroup, hidden: int, cut: Cut, count: int) -> None:
    chain.add(_norm("attention_norm", hidden, count))
    _add_block(chain, group.attention, hidden, cut, count)
    _add_sum(chain, "attention_sum", hidden, cut, count)


def _add_block(
    chain: _Chain, attention: Attention | LinearAttention, hidden: int, cut: Cut, count: int
) -> None:
    if isinstance(attention, LinearAttention):
        op = recurrence_of(attention, cut.tp, count)
        width = op.channels + op.heads * (op.value_dim + attention.head_scalars)
        chain.add(Gemm("in_proj", width, hidden, cut.attention, count))
        chain.add(op)
        chain.add(Gemm("o_proj", hidden, op.heads * op.value_dim, cut.attention, count))
        return
    add = _add_mla if attention.kind == "mla" else _add_gqa
    width = add(chain, attention, hidden, cut, count)
    chain.add(Gemm("o_proj", hidden, width, cut.attention, count))


def _add_gqa(chain: _Chain, attention: Attention, hidden: int, cut: Cut, count: int) -> int:
    """Projections and attention of a rank; returns the width of its output."""
    heads, kv_heads = fullest_rank(attention, cut.tp)
    qk, v = attention.head_dim, attention.v_head_dim
    width = (2 if attention.output_gate else 1) * heads * qk + kv_heads * (qk + v)
    chain.add(Gemm("qkv_proj", width, hidden, cut.attention, count))
    # Rotary reads and writes q and k; the cache write reads and writes k and v. Head norms are one pass more.
    moved = 2.0 * (heads + kv_heads) * qk * (2 if attention.qk_norm else 1) + 2.0 * kv_heads * (qk + v)
    chain.add(Elementwise("rotary_cache", moved * ACTIVATION_BYTES, 3 if attention.qk_norm else 2, count))
    chain.add(AttentionOp("attention", heads, kv_heads, qk, v, attention.window, cut.kv_cache, count))
    return heads * v


def _add_mla(chain: _Chain, attention: Attention, hidden: int, cut: Cut, count: int) -> int:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); low-rank projections are on every rank.

    ``kv_b_proj`` lifts the latent of a prompt to keys and values, and is absorbed into queries and outputs when
    decoding: the same weights and the same FLOP a token either way.
    """
    heads = fullest_rank(attention, cut.tp).heads
    latent, rope = attention.kv_lora_rank or 0, attention.rope_head_dim or 0
    qk, v = attention.head_dim, attention.v_head_dim
    q_rank, linear = attention.q_lora_rank or 0, cut.attention
    chain.add(Gemm("qkv_a_proj", (q_rank or heads * qk) + latent + rope, hidden, linear, count))
    if q_rank:
        chain.add(_norm("q_norm", q_rank, count))
        chain.add(Gemm("q_b_proj", heads * qk, q_rank, linear, count))
    chain.add(_norm("kv_norm", latent, count))
    chain.add(Gemm("kv_b_proj", heads * (qk - rope + v), latent, linear, count))
    moved = 2.0 * (heads * rope + latent + 2 * rope)
    chain.add(Elementwise("rotary_cache", moved * ACTIVATION_BYTES, 2, count))
    chain.add(AttentionOp(
        "attention", heads, heads, qk, v, attention.window, cut.kv_cache, count, latent + rope, latent, linear,
    ))
    return heads * v


def _add_mlp(chain: _Chain, group: LayerGroup, hidden: int, cut: Cut, count: int) -> None:
    mlp = group.mlp
    if mlp is None:
        return
    norm = chain.add(_norm("mlp_norm", hidden, count))
    if isinstance(mlp, MoeMlp):
        _add_experts(chain, mlp, hidden, cut, count, norm)
    else:
        _add_dense(chain, "", ceil(mlp.intermediate_size / cut.tp), mlp.gated, hidden, cut.mlp, count)
    if cut.dp == 1 or not isinstance(mlp, MoeMlp):
        _add_sum(chain, "mlp_sum", hidden, cut, count)
    elif cut.tp > 1:
        chain.add(Collective("mlp_gather", "all_gather", hidden * ACTIVATION_BYTES, cut.tp, count))


def _add_experts(
    chain: _Chain, mlp: MoeMlp, hidden: int, cut: Cut, count: int, norm: tuple[str, ...]
) -> None:
    """Router and routed experts; the shared experts depend on neither and may run beside them.

    With dp > 1 the devices of an attention rank deal its tokens among them before the exchange, and gather them after
    it; each has the shared experts whole, for its part of the tokens (vLLM's sequence-parallel MoE; SGLang's and
    DeepSeek's ranks have one device each).
    """
    together = cut.dp > 1
    chain.add(Gemm("router", mlp.experts, hidden, cut.router, count))
    if together:
        _add_exchange(chain, "dispatch", mlp, hidden, cut, count)
    ends = chain.add(_routed(mlp, hidden, cut, count))
    if together:
        ends = _add_exchange(chain, "combine", mlp, hidden, cut, count)
    if mlp.shared_experts:
        chain.last = norm
        width = ceil(mlp.shared_intermediate_size / (1 if together else cut.tp))
        rows = Rows("own", cut.tp) if together else OWN
        _add_dense(chain, SHARED, width, mlp.gated, hidden, cut.shared_experts, count, rows)
        chain.last = ends + chain.last


def _routed(mlp: MoeMlp, hidden: int, cut: Cut, count: int) -> GroupedGemm:
    spread, together = cut.spread, cut.dp > 1
    nodes = cut.way.nodes if spread.placement == "balanced" and cut.ep % cut.way.nodes == 0 else 1
    return GroupedGemm(
        "experts", hidden, ceil(mlp.intermediate_size * cut.ep / cut.devices), mlp.experts,
        (mlp.experts + spread.redundant) // cut.ep, mlp.experts_per_token, mlp.gated, cut.experts, count,
        routing=spread.routing, rows=Rows("all") if together else OWN,
        dispatched=together and cut.way.name != "all-gather",
        redundant=spread.redundant, placement=spread.placement, nodes=nodes, groups=mlp.groups if nodes > 1 else 1,
    )  # fmt: skip


def _add_exchange(
    chain: _Chain, phase: Phase, mlp: MoeMlp, hidden: int, cut: Cut, count: int
) -> tuple[str, ...]:
    """All devices of the stage: their tokens to the ranks of their experts, or what became of them back."""
    carried = carriers(cut.way, phase, mlp, cut.devices, _routed(mlp, hidden, cut, count))
    if carried is None:
        values = hidden * ACTIVATION_BYTES + (mlp.experts * LOGIT_BYTES if phase == "dispatch" else 0)
        kind = "all_gather" if phase == "dispatch" else "reduce_scatter"
        return chain.add(Collective(phase, kind, values, cut.devices, count, Rows("all"), wide=True))
    rows = Rows("fullest", cut.tp)
    if phase == "dispatch" and prepared(cut.way):
        _add_exchange(chain, "prepare", mlp, hidden, cut, count)
    return chain.add(Exchange(phase, phase, *carried, count, rows))


def _add_dense(
    chain: _Chain, prefix: str, intermediate: int, gated: bool, hidden: int, weights: str, count: int,
    rows: Rows = OWN,
) -> None:
    wide = (2 if gated else 1) * intermediate
    chain.add(Gemm(f"{prefix}{'gate_up_proj' if gated else 'up_proj'}", wide, hidden, weights, count, rows))
    chain.add(Elementwise(f"{prefix}activation", float(wide + intermediate) * ACTIVATION_BYTES, 1, count, rows))
    chain.add(Gemm(f"{prefix}down_proj", hidden, intermediate, weights, count, rows))


def _add_sum(chain: _Chain, name: str, hidden: int, cut: Cut, count: int) -> None:
    if cut.tp > 1:
        chain.add(Collective(name, "all_reduce", hidden * ACTIVATION_BYTES, cut.tp, count))


def _norm(name: str, width: int, count: int) -> Elementwise:
    """A norm fused with the residual addition: two vectors are read, two are written."""
    return Elementwise(name, 4.0 * width * ACTIVATION_BYTES, 1, count)
