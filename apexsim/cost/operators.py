"""The operators of a serving step with their real shapes on one rank.

Plain frozen values: they are hashed to reuse prices between plans. ``count`` says how many times a stage runs the
operator in one iteration, ``kernels`` how many launches a run takes. ``apexsim.cost.graph`` makes them from a model
and a pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from apexsim.spec.dtypes import KvDtype
from apexsim.spec.experts import Placement
from apexsim.spec.kv_formats import kv_bytes
from apexsim.spec.linear import STATE_BYTES, StateDtype

SIXTEEN_BITS = 2

Phase = Literal["dispatch", "combine", "prepare"]
"""Of an exchange of tokens between the ranks of an expert-parallel group; ``prepare``: who gets how many."""


SHARED = "shared_"
"""What the names of the shared experts' operators begin with."""


class Rows(NamedTuple):
    """Which tokens price an operator. They differ only where attention is data parallel (dp > 1).

    ``own``: those of the rank itself. ``fullest``: those of the rank that has most (an exchange ends when the last rank
    is through). ``all``: those of all dp ranks together. ``over``: devices of a rank that its tokens are dealt to.
    """

    tokens: Literal["own", "fullest", "all"] = "own"
    over: int = 1


OWN = Rows()


@dataclass(frozen=True, slots=True)
class Gemm:
    """y[m, n] = x[m, k] · w[n, k]; m is the number of tokens, or of sampled sequences in the head."""

    name: str
    n: int
    k: int
    weights: str  # a format of apexsim.spec.formats
    count: int
    rows: Rows = OWN

    kernels: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """The routed experts of one rank: top-k selection, expert GEMMs, activation and combine."""

    name: str
    hidden_size: int
    intermediate_size: int  # of one expert, on this rank
    experts: int  # of the whole layer
    local_experts: int  # of this rank
    experts_per_token: int
    gated: bool
    weights: str  # a format of apexsim.spec.formats
    count: int
    routing: str = "uniform"  # see ``apexsim.cost.routing``
    rows: Rows = OWN
    dispatched: bool = False  # only this rank's pairs have come; else it has the tokens of all ranks, and picks its own
    redundant: int = 0  # copies of experts, all ranks together
    placement: Placement = "contiguous"  # see ``apexsim.cost.placement``
    nodes: int = 1  # that the ranks are spread over
    groups: int = 1  # of neighbouring experts, to some of which the router limits a token

    kernels: ClassVar[int] = 6  # top-k, sorting, two grouped GEMMs, activation, weighted sum

    @property
    def ranks(self) -> int:
        """That the experts are dealt to."""
        return (self.experts + self.redundant) // self.local_experts

    @property
    def expert_parameters(self) -> int:
        return (3 if self.gated else 2) * self.hidden_size * self.intermediate_size


@dataclass(frozen=True, slots=True)
class ExpertExchange:
    """Hidden states on their way to the ranks of their experts, and back, by the kernels of one library."""

    name: str
    hidden_size: int
    experts: int  # of the whole layer
    experts_per_token: int
    ranks: int  # of the expert-parallel group
    nodes: int  # that it spans, each with equally many ranks
    transport: str  # deepep_normal, deepep_ll, NVLinkTwoSided, …: the words of the measured tables
    dtype: str  # on the wire: bf16, fp8, nvfp4
    multiprocessors: int = 0  # of the device that the kernel may take; 0 = all it wants
    balanced: bool = False  # every token's experts lie on as many ranks as possible, as in some benchmarks
    network: float = 0.0  # B/s of a device's network; 0 = its profile's
    groups: int = 1  # of neighbouring experts,
    groups_per_token: int = 0  # to so many of which the router limits a token; 0 = all
    near_skew: float = 1.0  # bytes over the links of the device that gets most, over those of the mean one
    far_skew: float = 1.0  # the same over its network

    @property
    def low_latency(self) -> bool:
        """Whether every (token, expert) pair travels by itself, where others send a token once to each rank."""
        return self.transport.endswith(("_ll", "_low_latency", "_generation"))


@dataclass(frozen=True, slots=True)
class AttentionOp:
    """Attention of one rank. ``latent`` > 0: MLA, whose decode reads ``latent`` values a token for all heads."""

    name: str
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    window: int
    kv_dtype: KvDtype
    count: int
    latent: int = 0  # kv_lora_rank + rope_head_dim
    latent_v: int = 0  # kv_lora_rank
    weights: str = "bf16"  # of the projections around it; vLLM's MLA was measured together with them
    queries: KvDtype = "bf16"  # in which queries come; fp8: a prefill that quantises them, where that was measured

    kernels: ClassVar[int] = 1
    rows: ClassVar[Rows] = OWN

    @property
    def kv_token_bytes(self) -> float:
        """KV cache bytes of one token of one layer on this rank."""
        if self.latent:
            return self.latent * kv_bytes(self.kv_dtype, self.latent)
        widths = (self.qk_dim, self.v_dim)
        return self.kv_heads * sum(width * kv_bytes(self.kv_dtype, width) for width in widths)

    @property
    def prefill_token_bytes(self) -> float:
        """Queries, keys, values and outputs of one prompt token on this rank, once each, in 16 bits."""
        return 2.0 * (self.heads + self.kv_heads) * (self.qk_dim + self.v_dim)

    @property
    def decode_pair_flops(self) -> float:
        """FLOP of one new token against one cached token, all heads of this rank."""
        width = self.latent + self.latent_v if self.latent else self.qk_dim + self.v_dim
        return 2.0 * self.heads * width

    @property
    def prefill_pair_flops(self) -> float:
        """FLOP of one query-key pair of a prompt, all heads of this rank."""
        return 2.0 * self.heads * (self.qk_dim + self.v_dim)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Norms, rotary embedding, activation, cache write: bound by memory and by their launches."""

    name: str
    token_bytes: float  # read and written, for each token
    kernels: int
    count: int
    rows: Rows = OWN


@dataclass(frozen=True, slots=True)
class AdapterOp:
    """Shrink and expand of the LoRA adapters of matrices with one input, batched over the requests of an iteration."""

    name: str
    adapter_bytes: float  # of a mean adapter, one layer, this rank
    token_bytes: float  # activations read and written, for each token
    gather_bytes: float  # what a token that decodes reads of its adapter beside the first read, by its cost
    token_flops: float
    adapters: int  # that requests choose from
    zipf: float  # exponent of their popularity
    max_num_seqs: int  # most requests of an iteration
    count: int
    most_distinct: int  # of one batch
    rows: Rows = OWN

    kernels: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective over the ranks of a stage; ``token_bytes`` is the message of one token."""

    name: str
    kind: str  # a name of ``apexsim.cost.collectives.KINDS``
    token_bytes: float
    ranks: int
    count: int
    rows: Rows = OWN
    wide: bool = False  # over the devices of all dp ranks, where others stay among those of one

    kernels: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """One phase of an exchange in a serving step, by what carries it with prefill in the iteration and without."""

    name: str
    phase: Phase
    prefill: ExpertExchange
    decode: ExpertExchange
    count: int
    rows: Rows = OWN

    kernels: ClassVar[int] = 2  # of which a normal one first counts who gets how much


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A layer with a constant state on one rank: the recurrence of its heads and what stands around it.

    ``recurrence.py`` has the formulas.
    """

    name: str
    kind: Literal["mamba2", "gated-delta", "lightning"]
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    chunk: int
    state_dtype: StateDtype
    count: int

    rows: ClassVar[Rows] = OWN
    kernels: ClassVar[int] = 5  # convolution, gates, recurrence, norm, output gate

    @property
    def channels(self) -> int:
        """Queries, keys and values of a token."""
        return 2 * self.key_heads * self.key_dim + self.heads * self.value_dim

    @property
    def state_bytes(self) -> float:
        """Of one sequence in one layer on this rank."""
        conv = self.channels * (self.conv_kernel - 1) * SIXTEEN_BITS
        return float(conv + self.heads * self.key_dim * self.value_dim * STATE_BYTES[self.state_dtype])

    @property
    def token_bytes(self) -> float:
        """Of one token: queries, keys and values through convolution and recurrence; output through norm and gate."""
        passes = 4 if self.conv_kernel > 1 else 2
        return float(SIXTEEN_BITS * (passes * self.channels + 5 * self.heads * self.value_dim))

    @property
    def decode_flops(self) -> float:
        """Of one token."""
        each = 7 if self.kind == "gated-delta" else 5
        return float(each * self.heads * self.key_dim * self.value_dim)

    @property
    def prefill_flops(self) -> float:
        """Of one token of a prompt, in a whole chunk."""
        k, v, chunk = self.key_dim, self.value_dim, self.chunk
        flops = 2 * chunk * (k + v) + 4 * k * v
        if self.kind == "gated-delta":
            flops += chunk * (4 * k + 2 * v + chunk) + 2 * k * v
        return float(self.heads * flops)


Operator = Recurrence | Gemm | GroupedGemm | AttentionOp | Elementwise | AdapterOp | Collective | Exchange
