"""What drafts cost: their model's passes beside the model's own step, their weights and KV, the host's search.

A step of k drafts on n decoding sequences:

    verify    the model on n · (k + 1) tokens, k + 1 queries a sequence over its KV, LM head and sampler on each
    draft 1   the draft on all tokens of the step, prompts included: it must have them in its own KV cache
    draft 2…k the draft on one token a sequence, one pass after the other
    heads     the draft's LM head and an argmax, k times

``with_drafts`` adds all that to the tables of the model, so that a step of the engine looks like any other. What a
sequence that has just ended its prompt drafts counts by ``head``: without the attention of passes 2 to k. Attention
ranks (dp) draft in lockstep, too: an MTP layer's experts and exchanges are of the tokens of all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from apexsim.cost.accounting import AttentionWork
from apexsim.cost.exchange import Way
from apexsim.cost.graph import Cut, cut_of
from apexsim.cost.host import HostModel
from apexsim.cost.ledger import JOULES, MOVED_BYTES, Ledger
from apexsim.cost.memory import Beside, stage_kv_token_bytes, stage_weight_bytes, table_bytes
from apexsim.cost.operators import Gemm
from apexsim.cost.parts import Drafts, Parts
from apexsim.cost.pricing import Pricer
from apexsim.spec.drafts import Draft, draft_of, drafts_of
from apexsim.spec.formats import weight_bytes
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

ARGMAX_LOGIT_BYTES = 12.0
"""Memory traffic of a sampler that takes the largest logit, as TensorRT-LLM's in ``engine_profiles/``."""

NGRAM_SEQUENCE_S = 20e-6
"""Host seconds to look for the last tokens of one sequence in its text. An estimate: a scan of some thousand tokens."""


class Drafting(NamedTuple):
    """A draft, cut for its ranks."""

    draft: Draft
    cut: Cut
    drafts: int  # of a step
    share: float  # of the pool's ranks, those that it runs on

    @property
    def projection(self) -> tuple[Gemm, ...]:
        """Hidden vectors of the target and the token's embedding to one, whole on every rank."""
        hidden, inputs = self.draft.model.hidden_size, self.draft.inputs
        return (Gemm("draft_projection", hidden, inputs * hidden, self.cut.lm_head, 1),) if inputs else ()

    @property
    def beside(self) -> Beside:
        """Weights and KV on each of its ranks."""
        draft, cut = self.draft, self.cut
        tables = table_bytes(draft.model, cut, 0)
        layers = stage_weight_bytes(draft.model, cut, 0) - tables
        layers += sum(op.n * op.k * weight_bytes(op.weights) for op in self.projection)
        kv = stage_kv_token_bytes(draft.model, cut, 0)
        return Beside(draft.copies * layers + draft.own_tables * tables, draft.copies * kv)


def drafting_of(model: ModelSpec, pool: Pool, way: Way | None = None) -> Drafting | None:
    """The draft of a pool, or None where nothing is computed for one; ``way``: its tokens travel as the pool's do."""
    draft = draft_of(model, pool)
    if draft is None:
        return None
    cut = cut_of(draft.model, draft.pool, way if draft.pool.dp > 1 else None)
    return Drafting(draft, cut, drafts_of(pool), draft.pool.tp / pool.tp)


def drafting_host(host: HostModel, pool: Pool) -> HostModel:
    """The host with the search of ngram; drafts that the device computes are launched as the model's graphs are."""
    if drafts_of(pool) == 0 or pool.speculative is None or pool.speculative.method != "ngram":
        return host
    return replace(host, sequence_s=host.sequence_s + NGRAM_SEQUENCE_S)


def with_drafts(
    parts: Parts, drafting: Drafting, prices: Pricer, host: HostModel, most_tokens: int, max_num_seqs: int,
    max_context: int,
) -> None:
    """Add the draft's passes to the parts of a model that verifies."""
    greedy = replace(host, logit_bytes=min(host.logit_bytes, ARGMAX_LOGIT_BYTES))
    k = drafting.drafts
    first, later = (
        Parts(
            drafting.draft.model, drafting.cut, prices, greedy, most_tokens, max_num_seqs, max_context, each,
            drafting.projection,
        )
        for each in (parts.each, 1)
    )  # fmt: skip

    parts.drafts = Drafts(first, later, k)

    def ranks(ledger: Ledger) -> Ledger:
        """Bytes and joules are of a mean rank; the seconds pass on all of them."""
        ledger = ledger.copy()
        ledger[[MOVED_BYTES, JOULES]] *= drafting.share
        return ledger

    parts.together = parts.together.with_drafts(first.together, later.together, k - 1)
    parts.mixed = [parts.mixed[0] + ranks(first.mixed[0])]
    parts.decode = [parts.decode[0] + ranks(first.decode[0])]
    parts.head = parts.head + ranks(k * later.head + (k - 1) * later.decode[0])
    parts.mixed_launches_s = parts.mixed_launches_s + first.mixed_launches_s
    parts.decode_launches_s = parts.decode_launches_s + first.decode_launches_s
    parts.decode_attention_s = parts.decode_attention_s + first.decode_attention_s + (k - 1) * later.decode_attention_s
    parts.prefill_s = parts.prefill_s + first.prefill_s
    parts.prefill_past_s = parts.prefill_past_s + first.prefill_past_s
    parts.prefill_extrapolated = parts.prefill_extrapolated | first.prefill_extrapolated
    parts.decode_extrapolated = parts.decode_extrapolated | first.decode_extrapolated
    both = zip(parts.attention_calibrated, first.attention_calibrated, strict=True)
    parts.attention_calibrated = [mine and its for mine, its in both]
    full, windowed = (
        _executed(mine, its, k, drafting.share)
        for mine, its in zip(parts.attention_work(), first.attention_work(), strict=True)
    )
    parts.executed = full, windowed


def _executed(target: AttentionWork, draft: AttentionWork, k: int, share: float) -> AttentionWork:
    """By a mean rank: k + 1 queries of the model, k + 1 and then k − 1 single ones of the draft."""
    return AttentionWork(
        target.prefill_pair_flops + share * draft.prefill_pair_flops,
        (k + 1) * target.decode_pair_flops + share * 2 * k * draft.decode_pair_flops,
        target.token_bytes + share * k * draft.token_bytes,
        target.prefill_token_bytes + share * draft.prefill_token_bytes,
    )


def drafting_notes(model: ModelSpec, pool: Pool) -> list[str]:
    """What a reader of a speculative result has to know."""
    if drafts_of(pool) == 0 or pool.speculative is None:
        return []
    rates = sorted(set(np.round(pool.speculative.probabilities, 4).tolist()), reverse=True)
    said = ", ".join(f"{each:g}" for each in rates)
    notes = [f"speculative: drafts are accepted at the plan's rate ({said}), whatever the text and the sampling are"]
    if pool.speculative.method == "ngram":
        notes.append(f"speculative: ngram takes {NGRAM_SEQUENCE_S * 1e6:g} us of the host a sequence, an estimate")
    elif pool.speculative.method == "eagle":
        notes.append(f"speculative: the EAGLE head is one dense layer as wide as {model.name}'s, with its LM head")
    return notes
