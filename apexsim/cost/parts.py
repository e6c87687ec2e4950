"""What the operators of a model cost at every size of an iteration: ledgers and attention tables of its stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.accounting import AttentionWork
from apexsim.cost.beside import exposed, hidden
from apexsim.cost.context import Ring
from apexsim.cost.graph import Cut, head_operators, stage_operators
from apexsim.cost.host import HostModel
from apexsim.cost.ledger import LINES, Ledger
from apexsim.cost.operators import AttentionOp, Operator, Recurrence
from apexsim.cost.pricing import Pricer, Sizes, eager
from apexsim.cost.tables import FULL, WINDOWED, token_knots
from apexsim.cost.together import together
from apexsim.spec.model import ModelSpec

Floats = NDArray[np.float64]


class Drafts(NamedTuple):
    """Parts of a draft model: its first pass over what the model computes, and ``passes`` − 1 of a token a sequence."""

    first: Parts
    later: Parts
    passes: int


class Parts:
    """Ledgers and attention tables of all stages, the operators that they are of, and who priced them.

    Args:
        each: tokens that a decoding sequence computes in an iteration: one, and its drafts.
        more: operators of every stage that are none of the model's layers.
    """

    def __init__(
        self, model: ModelSpec, cut: Cut, prices: Pricer, host: HostModel, most_tokens: int, max_num_seqs: int,
        max_context: int, each: int = 1, more: tuple[Operator, ...] = (), ring: Ring | None = None,
    ) -> None:
        self.each = each
        self.drafts: Drafts | None = None
        self.ring = ring
        self.stages = [(*more, *stage_operators(model, cut, stage)) for stage in range(cut.pp)]
        self.head_ops = head_operators(model, cut, host.logit_bytes)
        mixed = Sizes("mixed", most_tokens, host.graphs, max_num_seqs, cut.dp, each)
        decode = Sizes("decode", max_num_seqs, host.graphs, max_num_seqs, cut.dp, each)
        self.prices, self.mixed_sizes, self.decode_sizes = prices, mixed, decode
        self.mixed_launches_s = np.stack([_launches_s(operators, mixed, host) for operators in self.stages])
        self.decode_launches_s = np.stack([_launches_s(operators, decode, host) for operators in self.stages])
        sampled = Sizes("sampled", max_num_seqs, host.graphs, max_num_seqs, each=each)
        self.mixed = [_sum(prices, operators, mixed, cut) for operators in self.stages]
        self.decode = [_sum(prices, operators, decode, cut) for operators in self.stages]
        self.sampled_sizes = sampled
        self.head = _sum(prices, self.head_ops, sampled, cut)
        self.exposed = tuple(exposed(prices, self.stages[0], sizes, cut.way) for sizes in (mixed, decode))
        self.together = together(prices, self.stages[0], cut.dp, (mixed, decode), self.exposed)
        self.context_knots = context_knots(max_context)
        self.attention_calibrated = [True, True]
        self._attention(prices, most_tokens, max_num_seqs)
        if ring is not None:
            for ledger, operators in zip(self.mixed, self.stages, strict=True):
                ring.book_starts(ledger, operators)
        # What a step executes where it is more than one query a sequence: verified drafts, and passes that draft.
        self.executed: tuple[AttentionWork, AttentionWork] | None = None
        if each > 1:
            full, windowed = self.attention_work()
            self.executed = full.times(each), windowed.times(each)

    def attention_work(self) -> tuple[AttentionWork, AttentionWork]:
        """Of full and of windowed layers, one query a sequence."""
        kinds = [AttentionWork(0.0, 0.0, 0.0, 0.0), AttentionWork(0.0, 0.0, 0.0, 0.0)]
        for op in (op for operators in self.stages for op in operators):
            if isinstance(op, AttentionOp):
                kind = WINDOWED if op.window else FULL
                share = op.count / (self.ring.ranks if self.ring else 1)
                kinds[kind] = AttentionWork(
                    kinds[kind].prefill_pair_flops + share * op.prefill_pair_flops,
                    kinds[kind].decode_pair_flops + share * op.decode_pair_flops,
                    kinds[kind].token_bytes + share * op.kv_token_bytes,
                    kinds[kind].prefill_token_bytes + share * op.prefill_token_bytes,
                )
        return kinds[FULL], kinds[WINDOWED]

    def _attention(self, prices: Pricer, most_tokens: int, max_num_seqs: int) -> None:
        stages, knots, ring = len(self.stages), self.context_knots, self.ring
        if ring is not None:
            knots = tuple(knot / ring.ranks for knot in knots)
        tokens = self.mixed[0].shape[1]
        self.decode_attention_s = np.zeros((stages, 2, max_num_seqs + 1, len(knots)))
        self.prefill_s = np.zeros((stages, 2, tokens))
        self.prefill_past_s = np.zeros((stages, 2, tokens))
        self.prefill_extrapolated = np.zeros(tokens, dtype=np.bool_)
        self.decode_extrapolated = np.zeros((max_num_seqs + 1, len(knots)), dtype=np.bool_)
        for stage, operators in enumerate(self.stages):
            for op in operators:
                if isinstance(op, Recurrence):
                    # What a layer with a constant state costs has no term of the context: the same at every knot.
                    chunk, sequences = prices.recurrence(op, most_tokens, max_num_seqs)
                    self.prefill_s[stage, FULL] += chunk
                    self.decode_attention_s[stage, FULL] += sequences[:, None]
                    self.attention_calibrated = [False, False]
                if not isinstance(op, AttentionOp):
                    continue
                kind = WINDOWED if op.window else FULL
                prefill, past = prices.prefill(op, most_tokens)
                decode = prices.decode(op, max_num_seqs, knots, self.each)
                own = prefill.seconds
                if ring is not None:
                    own, past = ring.prefill(op, own, past, token_knots(most_tokens).astype(np.float64))
                    self.decode_attention_s[stage, kind] += ring.merge_s(op, max_num_seqs)[:, None]
                self.prefill_s[stage, kind] += own
                self.prefill_past_s[stage, kind] += past
                self.decode_attention_s[stage, kind] += decode.seconds
                self.prefill_extrapolated |= prefill.extrapolated
                self.decode_extrapolated |= decode.extrapolated
                self.attention_calibrated[0] &= prefill.calibrated
                self.attention_calibrated[1] &= decode.calibrated


def context_knots(max_context: int) -> tuple[float, ...]:
    """Mean contexts at which decode attention is tabulated: 0, 16, 64, then doubling past ``max_context``."""
    knots = [0.0, 16.0, 64.0, 128.0]
    while knots[-1] < max_context:
        knots.append(2.0 * knots[-1])
    return tuple(knots)


def _sum(prices: Pricer, operators: tuple[Operator, ...], sizes: Sizes, cut: Cut) -> Ledger:
    """Of a rank's own operators, less what runs beside an exchange."""
    total: Ledger = np.zeros((LINES, 1))
    for op in operators:
        if op.rows.tokens == "own":
            total = total + prices.ledger(op, sizes)
    return total - hidden(prices, operators, sizes) if cut.way.overlap_shared else total


def _launches_s(operators: tuple[Operator, ...], sizes: Sizes, host: HostModel) -> Floats:
    """Host seconds to launch the kernels of an iteration of each size; 0 where a CUDA graph is replayed."""
    kernels = sum(op.count * op.kernels for op in operators)
    return np.where(eager(sizes), kernels * host.eager_kernel_s, 0.0)
