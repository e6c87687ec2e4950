"""Layers that keep a state of constant size instead of keys and values: Mamba-2, gated DeltaNet, lightning attention.

All are one recurrence a head: a matrix of ``key_dim`` x ``value_dim`` that each token decays, adds an outer product to
and reads out; with a short convolution before it and a gate behind it. They differ in what the gates are, and in which
work a chunk of a prompt takes.

* Mamba-2 (arXiv 2405.21060): heads share keys and queries in groups; key_dim is the state size.
* gated DeltaNet (arXiv 2412.06464): a token first takes out what the state holds under its key.
* lightning attention (arXiv 2501.08313, section 2.2): no convolution, decay fixed by the head.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from apexsim.spec.base import Strict

StateDtype = Literal["bf16", "fp32"]
STATE_BYTES: dict[StateDtype, int] = {"bf16": 2, "fp32": 4}


class LinearAttention(Strict):
    """The mixer of one layer with a recurrent state."""

    kind: Literal["mamba2", "gated-delta", "lightning"] = Field(description="which recurrence")
    value_heads: int = Field(ge=1, description="heads, each with a state of its own")
    key_heads: int = Field(ge=1, description="groups of heads that share keys and queries")
    key_dim: int = Field(ge=1, description="rows of a head's state: width of a key; Mamba's state size")
    value_dim: int = Field(ge=1, description="columns of a head's state: width of a value")
    conv_kernel: int = Field(1, ge=1, description="tokens that the convolution before it sees; 1 = there is none")
    conv_bias: bool = Field(False, description="a bias on the convolution")
    chunk: int = Field(64, ge=1, description="tokens that a kernel computes at once in a prompt")
    state_dtype: StateDtype = Field("bf16", description="dtype of the state between iterations, 16 bits or 32")

    @model_validator(mode="after")
    def _complete(self) -> LinearAttention:
        if self.value_heads % self.key_heads:
            raise ValueError(f"key_heads {self.key_heads} does not divide value_heads {self.value_heads}")
        return self

    # What other mixers have, and these do not: a window, and keys and values of each token.
    window: Literal[0] = Field(0, description="always 0: the state has seen all tokens")
    chunked: Literal[False] = Field(False, description="always false")

    @property
    def heads(self) -> int:
        """What tensor parallelism divides."""
        return self.value_heads

    @property
    def kv_elements(self) -> int:
        """A token adds nothing to a KV cache."""
        return 0

    @property
    def keys(self) -> int:
        """Width of all keys; queries are as wide."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of all values; the gate and the output are as wide."""
        return self.value_heads * self.value_dim

    @property
    def head_scalars(self) -> int:
        """Scalars that a token has for each head: Mamba's step, DeltaNet's decay and write strength."""
        return {"mamba2": 1, "gated-delta": 2, "lightning": 0}[self.kind]

    @property
    def input_width(self) -> int:
        """Columns of the input projections: queries, keys, values, gate and scalars."""
        return 2 * self.keys + 2 * self.values + self.head_scalars * self.value_heads

    @property
    def conv_channels(self) -> int:
        """Channels that the convolution runs over: queries, keys and values."""
        return 2 * self.keys + self.values if self.conv_kernel > 1 else 0

    @property
    def state_elements(self) -> int:
        """Of one sequence: the matrices of all heads."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def conv_elements(self) -> int:
        """Of one sequence: the tokens that the convolution still sees."""
        return self.conv_channels * (self.conv_kernel - 1)

    def state_bytes(self) -> int:
        """Bytes of one sequence in one layer, all heads: the convolution's in 16 bits, the state in its own dtype."""
        return 2 * self.conv_elements + STATE_BYTES[self.state_dtype] * self.state_elements

    def parameters(self, hidden: int) -> int:
        """Projections, convolution, norm of the output, and the vectors that a head has."""
        norm = self.value_dim if self.kind == "gated-delta" else self.values
        vectors = {"mamba2": 3, "gated-delta": 2, "lightning": 0}[self.kind] * self.value_heads
        conv = self.conv_channels * (self.conv_kernel + self.conv_bias)
        return hidden * self.input_width + conv + vectors + norm + self.values * hidden
