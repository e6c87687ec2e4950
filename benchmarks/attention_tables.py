"""The tables of docs/attention.md: what each kind of attention keeps and costs, one model each on one H100."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apexsim.cost.graph import cut_of, stage_operators
from apexsim.cost.memory import stage_kv_token_bytes
from apexsim.cost.operators import Recurrence
from apexsim.cost.step import CompiledPool, compile_pool
from apexsim.cost.tables import FULL, WINDOWED
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Pool

DEVICE = "h100-sxm"
BATCH = 32
CONTEXTS = (1_024, 4_096, 32_768)
RANKS = (1, 2, 4, 8)


class Row(NamedTuple):
    """A kind, and the model that stands for it."""

    kind: str
    model: str


ROWS = (
    Row("MHA", "Llama-2-7B"), Row("MQA", "Gemma-2B"), Row("GQA", "Llama-3.1-8B"), Row("MLA", "DeepSeek-V2-Lite"),
    Row("sliding", "Mistral-7B-v0.1"), Row("sliding and full", "Gemma-3-12B"), Row("sliding and full", "gpt-oss-20b"),
    Row("Mamba-2 and full", "Nemotron-H-8B"),
)  # fmt: skip
SPLIT = (
    Row("MHA", "Llama-2-7B"), Row("MQA", "Gemma-2B"), Row("GQA", "Llama-3.1-70B"), Row("MLA", "DeepSeek-V3"),
    Row("sliding and full", "gpt-oss-120b"), Row("gated DeltaNet and full", "Qwen3-Next-80B-A3B"),
    Row("lightning and full", "MiniMax-Text-01"),
)  # fmt: skip


def kept(pool: CompiledPool, model: str, context: int) -> int | None:
    """Sequences of so many tokens whose KV fits at once; None where the model does not go so far."""
    if context > catalog.model(model).max_context:
        return None
    memory = pool.memory
    held = -(-context // memory.block_size) if memory.pages is None else int(memory.pages.held(context))
    return memory.kv_blocks // held


def step_s(pool: CompiledPool, sequences: int, context: int) -> float:
    """Seconds of a decode iteration with that mean context, host included."""
    t = pool.tables
    attention = float(np.interp(context, t.context_knots, t.decode_attention_s[0, FULL, sequences]))
    if t.window:
        reach = min(context, t.window)
        attention += float(np.interp(reach, t.context_knots, t.decode_attention_s[0, WINDOWED, sequences]))
    device = float(t.decode_s[0, sequences] + t.head_s[sequences]) + attention
    return max(device, float(t.host_floor_s[sequences])) + float(t.host_serial_s[sequences])


def kinds() -> str:
    """KV bytes of a token, state of a sequence, capacity and decode step of each kind."""
    header = [
        "kind", "model", "KV of a token, all layers", "state of a sequence",
        *(f"sequences of {context:,}" for context in CONTEXTS), *(f"step at {context:,}" for context in CONTEXTS),
    ]  # fmt: skip
    return _table(header, [_kind(row) for row in ROWS])


def _kind(row: Row) -> list[str]:
    model = catalog.model(row.model)
    pool = compile_pool(
        model, catalog.device(DEVICE), Cluster.model_validate(f"8x{DEVICE}"), Pool(),
        max_num_batched_tokens=8192, max_num_seqs=256,
    )
    assert isinstance(pool, CompiledPool)
    fits = [kept(pool, row.model, context) for context in CONTEXTS]
    steps = [
        "" if count is None else f"{1e3 * step_s(pool, BATCH, context):.1f} ms"
        for count, context in zip(fits, CONTEXTS, strict=True)
    ]
    return [
        row.kind, row.model, f"{model.kv_bytes_per_token() / 1024:.1f} KiB",
        f"{model.state_bytes() / 2**20:.1f} MiB" if model.linear else "",
        *("" if count is None else f"{count:,}" for count in fits), *steps,
    ]  # fmt: skip


def ranks() -> str:
    """KV bytes of a token and state of a sequence on one rank, by tensor parallel degree."""
    header = ["kind", "model", *(f"KV, tp {tp}" for tp in RANKS), *(f"state, tp {tp}" for tp in (1, 8))]
    return _table(header, [_rank(row) for row in SPLIT])


def _rank(row: Row) -> list[str]:
    model = catalog.model(row.model)
    cuts = {tp: cut_of(model, Pool(tp=tp)) for tp in RANKS}
    states = {
        tp: sum(op.count * op.state_bytes for op in stage_operators(model, cuts[tp], 0) if isinstance(op, Recurrence))
        for tp in (1, 8)
    }
    return [
        row.kind, row.model, *(f"{stage_kv_token_bytes(model, cuts[tp], 0) / 1024:.1f} KiB" for tp in RANKS),
        *(f"{state / 2**20:.1f} MiB" if state else "" for state in states.values()),
    ]  # fmt: skip


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


TABLES = {
    "attention kinds": ("docs/attention.md", kinds),
    "attention ranks": ("docs/attention.md", ranks),
}
