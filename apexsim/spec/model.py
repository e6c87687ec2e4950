"""A decoder model as arithmetic: the shapes of its layers, its parameters and its KV bytes.

A model is a few groups of identical layers. ``spec.huggingface`` makes one from a ``config.json``; nothing
here knows a device, a plan or a parallel degree.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.dtypes import KvDtype, WeightDtype
from apexsim.spec.kv_formats import kv_bytes
from apexsim.spec.linear import LinearAttention
from apexsim.spec.vision import VisionEncoder

Part = Literal["attention", "mlp", "experts", "shared_experts", "lm_head"]
"""Matrices that a quantised checkpoint may leave as they are; embedding, router and norms it always does."""


class Attention(Strict):
    """Self-attention of one layer.

    ``gqa`` covers MHA (kv_heads = heads) and MQA (kv_heads = 1): q, k, v and output projections.
    ``mla`` is DeepSeek's multi-head latent attention: per token the KV cache holds one latent vector of
    ``kv_lora_rank`` and one shared rotary key of ``rope_head_dim``, whatever the number of heads
    (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    """

    kind: Literal["gqa", "mla"] = Field("gqa", description="grouped-query or multi-head latent attention")
    heads: int = Field(ge=1, description="query heads")
    kv_heads: int = Field(ge=1, description="key and value heads; for MLA the same as heads")
    head_dim: int = Field(ge=1, description="width of a query and key head; for MLA both parts, nope and rope")
    v_head_dim: int = Field(ge=1, description="width of a value head")
    window: int = Field(0, ge=0, description="tokens that a query sees back (sliding or chunked); 0 = all")
    chunked: bool = Field(False, description="the window is the query's chunk of the context, and begins anew with it")
    q_lora_rank: int | None = Field(None, ge=1, description="MLA: rank of the query projection; null = full rank")
    kv_lora_rank: int | None = Field(None, ge=1, description="MLA: width of the cached latent")
    rope_head_dim: int | None = Field(None, ge=1, description="MLA: width of the shared rotary key")
    qkv_bias: bool = Field(False, description="biases on the q, k and v projections")
    output_bias: bool = Field(False, description="a bias on the output projection")
    qk_norm: bool = Field(False, description="learned norms over the heads of q and k")
    sinks: bool = Field(False, description="one learned sink logit per query head (gpt-oss)")
    shared_kv: bool = Field(False, description="one projection serves as key and as value (Gemma 4)")
    output_gate: bool = Field(False, description="a gate on the output, as wide as the queries (Qwen3-Next)")

    @model_validator(mode="after")
    def _complete(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.kind == "mla" and (self.kv_lora_rank is None or self.rope_head_dim is None):
            raise ValueError("mla needs kv_lora_rank and rope_head_dim")
        return self

    @property
    def kv_elements(self) -> int:
        """Elements that one token adds to the KV cache of one layer, all heads."""
        if self.kind == "mla":
            assert self.kv_lora_rank is not None
            assert self.rope_head_dim is not None
            return self.kv_lora_rank + self.rope_head_dim
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    def parameters(self, hidden: int) -> int:
        """Weights, biases, norms over heads or latents, and sinks."""
        return self._mla_parameters(hidden) if self.kind == "mla" else self._gqa_parameters(hidden)

    def _gqa_parameters(self, hidden: int) -> int:
        q, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        v = 0 if self.shared_kv else self.kv_heads * self.v_head_dim
        weights = hidden * ((2 if self.output_gate else 1) * q + k + v) + self.heads * self.v_head_dim * hidden
        biases = self.qkv_bias * (q + k + v) + self.output_bias * hidden
        return weights + biases + self.qk_norm * 2 * self.head_dim + self.sinks * self.heads

    def _mla_parameters(self, hidden: int) -> int:
        assert self.kv_lora_rank is not None
        assert self.rope_head_dim is not None
        latent, rope, rank = self.kv_lora_rank, self.rope_head_dim, self.q_lora_rank
        q_out = self.heads * self.head_dim
        query = hidden * q_out if rank is None else hidden * rank + rank + rank * q_out
        down = hidden * (latent + rope) + latent  # and the norm of the latent
        up = latent * self.heads * (self.head_dim - rope + self.v_head_dim)
        biases = self.qkv_bias * ((rank or 0) + latent + rope) + self.output_bias * hidden
        return query + down + up + self.heads * self.v_head_dim * hidden + biases


class DenseMlp(Strict):
    """A feed-forward block: up, down and, where ``gated``, a gate of the same width."""

    intermediate_size: int = Field(ge=1, description="width of the block")
    gated: bool = Field(True, description="SwiGLU or GeGLU (three matrices) instead of two")
    bias: bool = Field(False, description="biases on all its matrices")

    def parameters(self, hidden: int) -> int:
        return _mlp_parameters(hidden, self.intermediate_size, self.gated, self.bias)

    def active_parameters(self, hidden: int) -> int:
        """What one token runs through: all of it."""
        return self.parameters(hidden)


class MoeMlp(Strict):
    """A router, ``experts`` of which each token runs ``experts_per_token``, and shared ones.

    A dense block that runs beside the experts (Gemma 4) is a shared expert here: the arithmetic is the same.
    """

    experts: int = Field(ge=1, description="routed experts")
    experts_per_token: int = Field(ge=1, description="routed experts that each token runs through")
    intermediate_size: int = Field(ge=1, description="width of one routed expert")
    shared_experts: int = Field(0, ge=0, description="experts that every token runs through")
    shared_intermediate_size: int = Field(0, ge=0, description="width of all shared experts together")
    groups: int = Field(1, ge=1, description="groups of neighbouring experts, some of which a token may choose from")
    groups_per_token: int = Field(0, ge=0, description="how many of them; 0 = all")
    gated: bool = Field(True, description="three matrices an expert instead of two")
    bias: bool = Field(False, description="biases on the experts' matrices")
    router_bias: bool = Field(False, description="a bias or correction per routed expert")
    shared_gate: bool = Field(False, description="a learned gate on the shared experts' output (Qwen2-MoE)")

    @model_validator(mode="after")
    def _complete(self) -> MoeMlp:
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self

    def expert_parameters(self, hidden: int) -> int:
        """One routed expert."""
        return _mlp_parameters(hidden, self.intermediate_size, self.gated, self.bias)

    def shared_parameters(self, hidden: int) -> int:
        """All shared experts and their gate."""
        if not self.shared_intermediate_size:
            return 0
        return _mlp_parameters(hidden, self.shared_intermediate_size, self.gated, False) + self.shared_gate * hidden

    def router_parameters(self, hidden: int) -> int:
        return hidden * self.experts + self.router_bias * self.experts

    def parameters(self, hidden: int) -> int:
        return self._with(hidden, self.experts)

    def active_parameters(self, hidden: int) -> int:
        """What one token runs through: the router, the shared experts and its own routed ones."""
        return self._with(hidden, self.experts_per_token)

    def _with(self, hidden: int, experts: int) -> int:
        always = self.router_parameters(hidden) + self.shared_parameters(hidden)
        return always + experts * self.expert_parameters(hidden)


class LayerParameters(NamedTuple):
    """Parameters of one layer."""

    attention: int
    mlp: int
    norm: int

    @property
    def total(self) -> int:
        return sum(self)


class LayerGroup(Strict):
    """``count`` identical layers; the order of groups is not the order of the layers."""

    count: int = Field(ge=1, description="layers of this kind")
    attention: Attention | LinearAttention = Field(description="their self-attention, or what stands in its place")
    mlp: DenseMlp | MoeMlp | None = Field(description="their feed-forward block; null where there is none")
    norms: int = Field(2, ge=0, description="norm vectors of the hidden size in a layer")
    at: tuple[int, ...] = Field((), strict=False, description="their indices, from 0; empty: spread over the depth")

    @model_validator(mode="after")
    def _one_index_each(self) -> LayerGroup:
        if self.at and len(self.at) != self.count:
            raise ValueError(f"at names {len(self.at)} layers, count is {self.count}")
        return self


class ModelSpec(Strict):
    """One model, named. Equal by content; hashed by name."""

    name: str = Field(description="what reports call it")
    aliases: tuple[str, ...] = Field((), strict=False, description="other names, such as the full Hugging Face one")
    architecture: str = Field(description="the class that config.json names")
    hidden_size: int = Field(ge=1, description="width of the residual stream")
    vocab_size: int = Field(ge=1, description="rows of the embedding")
    max_context: int = Field(ge=1, description="longest context in tokens, prompt and output together")
    tied_embeddings: bool = Field(False, description="the LM head is the embedding")
    positions: int = Field(0, ge=0, description="rows of a table of learned positions; 0 = none")
    final_norms: int = Field(1, ge=0, description="norm vectors of the hidden size after the last layer")
    dtype: Literal["bf16", "fp16"] = Field("bf16", description="dtype of what is not quantised")
    quantization: WeightDtype | None = Field(None, description="weight dtype of a quantised checkpoint")
    quantization_format: str = Field(
        "", description="the same with its group of weights and its activations, as spec/formats.py writes it"
    )
    unquantized: tuple[Part, ...] = Field(
        (), strict=False, description="parts of a quantised checkpoint that keep the model's dtype"
    )
    groups: tuple[LayerGroup, ...] = Field(min_length=1, strict=False, description="the layers")
    mtp_layers: int = Field(0, ge=0, description="multi-token-prediction layers; not counted in the parameters")
    vision: VisionEncoder | None = Field(None, description="encoder of its images; null where it reads text only")
    source: str = Field("", description="where the configuration comes from")

    @model_validator(mode="after")
    def _kinds_of_layers(self) -> ModelSpec:
        windows = {group.attention.window for group in self.groups} - {0}
        if len(windows) > 1:
            raise ValueError(f"windows of different sizes in one model are not supported: {sorted(windows)}")
        linear = {group.attention for group in self.groups if isinstance(group.attention, LinearAttention)}
        if len(linear) > 1:
            raise ValueError("linear layers of different shapes in one model are not supported")
        if linear and (windows or len({type(group.attention) for group in self.groups}) == 1):
            raise ValueError("linear layers are supported beside layers of full attention only")
        return self

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def layers(self) -> int:
        """Transformer layers, MTP layers apart."""
        return sum(group.count for group in self.groups)

    @property
    def order(self) -> tuple[int, ...]:
        """The group of each layer, first layer first; groups that do not say where are evenly interleaved."""
        if all(group.at for group in self.groups):
            return tuple(g for _, g in sorted((at, g) for g, group in enumerate(self.groups) for at in group.at))
        spread = (((i + 0.5) / group.count, g) for g, group in enumerate(self.groups) for i in range(group.count))
        return tuple(g for _, g in sorted(spread))

    @property
    def window(self) -> int:
        """Tokens of the sliding window that some layers have; 0 where none has."""
        return max(group.attention.window for group in self.groups)

    @property
    def chunked(self) -> bool:
        """Whether the windows are chunks (Llama 4)."""
        return any(group.attention.chunked for group in self.groups)

    @property
    def linear(self) -> LinearAttention | None:
        """The layers with a constant state; None where the model has none. All of them are alike."""
        mixers = (group.attention for group in self.groups)
        return next((mixer for mixer in mixers if isinstance(mixer, LinearAttention)), None)

    @property
    def checkpoint_dtype(self) -> WeightDtype:
        """Dtype of the weights where a plan asks for no other."""
        return self.quantization or self.dtype

    @property
    def is_moe(self) -> bool:
        return any(isinstance(group.mlp, MoeMlp) for group in self.groups)

    @property
    def embedding_parameters(self) -> int:
        """The embedding, learned positions and, unless tied, the LM head."""
        return (self.vocab_size * (1 if self.tied_embeddings else 2) + self.positions) * self.hidden_size

    def layer_parameters(self, group: LayerGroup) -> LayerParameters:
        """One layer of ``group``, split into attention, feed-forward and norms."""
        return LayerParameters(
            attention=group.attention.parameters(self.hidden_size),
            mlp=group.mlp.parameters(self.hidden_size) if group.mlp else 0,
            norm=group.norms * self.hidden_size,
        )

    @property
    def parameters(self) -> int:
        """All weights of the decoder: embeddings, layers, final norm. No MTP layers, no vision tower."""
        layers = sum(group.count * self.layer_parameters(group).total for group in self.groups)
        return self.embedding_parameters + layers + self.final_norms * self.hidden_size

    @property
    def active_parameters(self) -> int:
        """All parameters but the routed experts that a token does not choose.

        The embedding table counts, though a token reads one row of it: papers that leave it out give less (gpt-oss-20b:
        3.6e9 instead of 4.2e9).
        """
        hidden = self.hidden_size
        idle = sum(
            group.count * (group.mlp.parameters(hidden) - group.mlp.active_parameters(hidden))
            for group in self.groups if group.mlp
        )
        return self.parameters - idle

    def kv_elements_per_token(self, *, windowed: bool) -> int:
        """KV elements that a token adds over all layers with (or without) a window, before any TP."""
        return sum(
            group.count * group.attention.kv_elements
            for group in self.groups
            if (group.attention.window > 0) == windowed
        )

    def kv_bytes_per_token(self, kv_dtype: KvDtype = "bf16") -> float:
        """Bytes that a token adds to the KV cache over all layers, windowed ones included, before any TP.

        Windowed layers forget what lies before the window: for a long context count them with
        ``kv_elements_per_token(windowed=True)`` and at most ``window`` tokens.
        """
        elements = self.kv_elements_per_token(windowed=False) + self.kv_elements_per_token(windowed=True)
        return elements * kv_bytes(kv_dtype)

    def state_bytes(self) -> int:
        """Bytes of constant state that a sequence has over all linear layers, before any TP."""
        mixers = ((group.count, group.attention) for group in self.groups)
        return sum(count * mixer.state_bytes() for count, mixer in mixers if isinstance(mixer, LinearAttention))


def _mlp_parameters(hidden: int, intermediate: int, gated: bool, bias: bool) -> int:
    ups = 2 if gated else 1
    return (ups + 1) * hidden * intermediate + bias * (ups * intermediate + hidden)
