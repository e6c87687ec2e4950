"""Context parallelism: cp ranks share the tokens of a prompt and the KV of every sequence.

Each of the cp ranks is a whole tensor parallel group with weights of its own. Of a chunk every rank computes 1 / cp of
the tokens, dealt in pairs from both ends (zig-zag), so that all have equally many query-key pairs (Llama 3, arXiv
2407.21783, section 3.3). For that it needs the keys and values of all others: they go round while the attention kernels
run, those of the chunk and those in the cache (ring pass-KV, arXiv 2411.01783), so attention takes the longer of the
two. KV lies interleaved over the ranks. A decoding sequence is computed on every rank, on each against its share of the
cache; a gather of the log-sum-exps and a sum of the corrected outputs make one of the parts (vLLM's decode context
parallelism, ``cp_lse_ag_out_ar``).

What is left of the exchange where its bytes are hidden: that it starts, once a layer and iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.ledger import COMMUNICATION, JOULES, Ledger
from apexsim.cost.operators import AttentionOp, Operator
from apexsim.cost.precision import ACTIVATION_BYTES
from apexsim.cost.pricing import Pricer, rising
from apexsim.spec.cluster import Link

Floats = NDArray[np.float64]

LARGE = 2.0**26
"""Bytes of a message that is bound by bandwidth."""

LSE_BYTES = 4
"""Of the log-sum-exp of one head, in 32 bits."""


@dataclass(frozen=True, slots=True)
class Ring:
    """The cp ranks that share a context, and what joins them."""

    ranks: int
    link: Link
    prices: Pricer

    def _seconds(self, kind: str, message: Floats) -> Floats:
        return self.prices.kernels.collective(kind, message, self.ranks, self.link).seconds

    @property
    def start_s(self) -> float:
        """Of a gather with nothing in it."""
        return float(self._seconds("all_gather", np.ones(1))[0])

    @property
    def byte_s(self) -> float:
        """Seconds a byte of what all ranks together gather."""
        once, twice = self._seconds("all_gather", np.array([LARGE, 2 * LARGE]))
        return float(twice - once) / LARGE

    def prefill(self, op: AttentionOp, own_s: Floats, past_s: Floats, tokens: Floats) -> tuple[Floats, Floats]:
        """([N] seconds of a chunk, [N] a past token) on one of the ranks, by those on a single one; all layers."""
        fresh_bytes = op.count * tokens * (op.latent or op.kv_heads * (op.qk_dim + op.v_dim)) * ACTIVATION_BYTES
        past_bytes = np.where(tokens > 0, op.count * op.kv_token_bytes, 0.0)
        return (
            np.maximum(own_s / self.ranks, fresh_bytes * self.byte_s),
            np.maximum(past_s / self.ranks, past_bytes * self.byte_s),
        )

    def merge_s(self, op: AttentionOp, max_num_seqs: int) -> Floats:
        """[M + 1] seconds to make one of the partial outputs of so many decoding sequences; ``op.count`` layers."""
        sequences = np.maximum(np.arange(max_num_seqs + 1.0), 1.0)
        width = op.latent_v if op.latent else op.v_dim
        gathered = self._seconds("all_gather", sequences * op.heads * LSE_BYTES * self.ranks)
        summed = self._seconds("all_reduce", sequences * op.heads * width * float(ACTIVATION_BYTES))
        seconds = op.count * rising(gathered + summed)
        seconds[0] = 0.0
        return np.asarray(seconds)

    def layers(self, operators: tuple[Operator, ...]) -> int:
        """Of a stage, those with keys and values to exchange."""
        return sum(op.count for op in operators if isinstance(op, AttentionOp))

    def book_starts(self, ledger: Ledger, operators: tuple[Operator, ...]) -> None:
        """Add to a stage's ledger of iterations with prefill that a gather starts in each layer."""
        layers = self.layers(operators)
        ledger[COMMUNICATION, 1:] += layers * self.start_s
        if self.prices.power is not None:
            ledger[JOULES, 1:] += self.prices.power.communicating_j(np.array([layers * self.start_s]))[0]
