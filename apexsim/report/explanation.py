"""``ax.explain``: where the time of a plan's iterations goes, operator by operator, and what fills its memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apexsim import scenario
from apexsim.cost.explain import Explained, Iteration
from apexsim.errors import UsageError
from apexsim.report import roofline
from apexsim.report.console import render
from apexsim.report.markup import tables_html
from apexsim.report.simulation import PlanLike, prepared_plan
from apexsim.report.tables import UNDEFINED, Table, show
from apexsim.scenario import Prepared
from apexsim.spec.drafts import acceptance_of
from apexsim.spec.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Group

BATCH, CONTEXT, PROMPT = 64, 2048, 2048
"""Decoding sequences, tokens of each, and tokens of the prompt, where nobody asks for others and the plan has room."""

WORDS = {
    "memory": "memory bandwidth", "compute": "compute", "links": "traffic between devices", "latency": "kernel latency",
    "vector": "expanding the KV cache in the vector units",
    "launches": "launching kernels", "host": "the engine's host time", "nothing": "nothing",
}  # fmt: skip
"""What an iteration's time is spent on -> how a sentence calls it."""


@dataclass(frozen=True)
class Explanation:
    """A decode iteration and a prefill iteration of a plan, taken apart; ``prompt`` is what the prefill is of."""

    prepared: Prepared
    decode: Explained
    prefill: Explained
    prompt: int

    @property
    def heading(self) -> str:
        plan = self.prepared.plan
        return f"{self.prepared.model.name} on {plan.devices} × {self.prepared.profile.name} ({plan.id})"

    @property
    def lines(self) -> tuple[str, ...]:
        """What decode and prefill take and what binds them, and what the cache holds: a line each."""
        memory, context = self.prepared.compiled.memory, round(self.decode.iteration.context)
        kept = f"{memory.kv_capacity_tokens:,} tokens"
        if memory.pages is not None:
            kept += f" in sequences of {memory.max_model_len:,}"
        return (
            f"decode: {_took(self.decode, self.decoded_tokens, self._whose, self._stages)}",
            f"prefill: {_took(self.prefill, self.prefill.iteration.chunk, self._whose, self._stages)}",
            f"KV cache of {self._whose}: {kept}, {_plural(memory.sequences(context), 'sequence')} of {context:,}",
        )

    @property
    def decoded_tokens(self) -> float:
        """That the decode iteration yields in the mean: one a sequence, and the drafts that are accepted."""
        accepted = np.cumprod(acceptance_of(self.prepared.pool)).sum()
        return float(self.decode.iteration.decoding * (1 + accepted))

    @property
    def _stages(self) -> str:
        """A batch passes all stages of a pipeline; the figures are those of one, beside which the others run."""
        return f" of the slowest of {self.prepared.pool.pp} stages" if self.prepared.pool.pp > 1 else ""

    @property
    def _whose(self) -> str:
        """What the figures are of: attention ranks have batches and a cache each."""
        return "a replica" if self.prepared.pool.dp == 1 else "a rank"

    @property
    def tables(self) -> tuple[Table, ...]:
        decode, chunk = self.decode.iteration, self.prefill.iteration.chunk
        part = "" if chunk == self.prompt else f", the first chunk of {self.prompt:,}"
        batch = _plural(decode.decoding, "sequence")
        return (
            _iteration_table(f"Decode: {batch} of {decode.context:,.0f} tokens", self.decode),
            _iteration_table(f"Prefill: a prompt of {chunk:,} tokens{part}", self.prefill),
            self._memory_table(),
        )

    def _memory_table(self) -> Table:
        memory, profile = self.prepared.compiled.memory, self.prepared.profile
        parts = {
            "weights": memory.weights_bytes_per_device,
            "activation peak": memory.activation_bytes,
            "engine, context, buffers": memory.engine_bytes,
            "KV cache": memory.kv_bytes_per_token_per_device * memory.kv_capacity_tokens,
        }
        rows = tuple(
            (name, format_bytes(size, 4), _percent(size / profile.memory_bytes)) for name, size in parts.items()
        )
        return Table("Memory of the fullest device", ("", "bytes", f"of {format_bytes(profile.memory_bytes, 4)}"), rows)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim explain``: SI units."""
        return {
            "plan": self.prepared.plan.model_dump(mode="json"),
            "decode": _dict(self.decode) | {"tokens": self.decoded_tokens},
            "prefill": _dict(self.prefill) | {"prompt_tokens": self.prompt},
            "memory": asdict(self.prepared.compiled.memory),
            "notes": list(self.prepared.compiled.confidence.notes),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row an operator of either phase: seconds, FLOP, bytes, intensity, share of the roofline, bound."""
        rows = [{"phase": phase} | row for phase in ("decode", "prefill") for row in self.to_dict()[phase]["operators"]]
        return pd.DataFrame(rows)

    def plot_roofline(self, ax: Axes | None = None) -> Axes:
        """FLOP/s over FLOP a byte of the operators of both phases, under the device's roofline."""
        return roofline.plot({"decode": self.decode, "prefill": self.prefill}, self.prepared.profile, ax)

    def __rich__(self) -> Group:
        return render(self.tables)

    def _repr_html_(self) -> str:
        return tables_html("; ".join((self.heading, *self.lines)), self.tables)


def explain(
    plan: PlanLike, *, batch: int | None = None, context: int | None = None, prompt: int | None = None,
    pool: int | None = None,
) -> Explanation:
    """Take one decode and one prefill iteration of ``plan`` apart.

    Args:
        batch: decoding sequences; 64, or as many as the plan has room for.
        context: tokens of each, prompt and output so far; 2,048, or what one sequence may have.
        prompt: tokens of the prompt, of which one iteration computes the first chunk; 2,048, or the limit.
        pool: whose iterations, of a plan of several pools; the first that has any where None.

    Raises:
        NoFeasiblePlan: the plan does not fit. UsageError: more than the plan can hold, or no such pool.
    """
    prepared = _part(prepared_plan(plan), pool)
    memory, policy = prepared.compiled.memory, prepared.policy
    longest = min((memory.max_model_len, "the plan's max_model_len"), (memory.kv_capacity_tokens, "its KV cache"))
    context = _within("context", context, CONTEXT, *longest)
    prompt = _within("prompt", prompt, PROMPT, *longest)
    room = max(1, memory.sequences(context)), f"its KV cache, at context {context}"
    batch = _within("batch", batch, BATCH, *min((policy.max_num_seqs, "the plan's max_num_seqs"), room))
    chunk = min(prompt, policy.max_num_batched_tokens) if policy.chunked else prompt
    decode = scenario.explain(prepared, Iteration(decoding=batch, context=context))
    prefill = scenario.explain(prepared, Iteration(chunk=chunk, ends=chunk == prompt))
    return Explanation(prepared, decode, prefill, prompt)


def _part(prepared: Prepared, pool: int | None) -> Prepared:
    """The pool of that number in the plan, as a plan of its own."""
    pools = prepared.plan.pools
    there = {k: part for part, k in zip(
        prepared.parts or (prepared,), (k for k, each in enumerate(pools) if each.role != "encode"), strict=True
    )}  # fmt: skip
    if pool is None:
        return next(iter(there.values()))
    if pool not in there:
        encodes = 0 <= pool < len(pools)
        why = ": it encodes images, and has no decode and no prefill iterations" if encodes else ""
        raise UsageError(f"--pool {pool}{why} (allowed: {', '.join(map(str, there))})")
    return there[pool]


def _within(name: str, given: int | None, default: int, most: int, limit: str) -> int:
    """The given value, or the default as far as the plan allows it."""
    if given is None:
        return min(default, most)
    if not 1 <= given <= most:
        raise UsageError(f"{name} {given} (allowed: 1 to {most}, by {limit})")
    return given


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _percent(share: float) -> str:
    """One decimal for all rows: the column is read down."""
    return f"{100 * share:.1f} %"


def _took(explained: Explained, tokens: float, whose: str, stages: str) -> str:
    duration_s = explained.duration_s
    share = explained.by_bound.get(explained.binds, 0.0) / duration_s
    return (
        f"{format_seconds(duration_s, 4)} an iteration{stages}, {tokens / duration_s:,.0f} tokens/s of {whose}; "
        f"{WORDS[explained.binds]} takes {share:.0%}; {explained.calibrated_share:.0%} of the kernels' time rests on "
        f"measurements, {explained.extrapolated_share:.0%} lies outside their range"
    )


def _iteration_table(title: str, explained: Explained) -> Table:
    total = explained.duration_s
    rows = [*_operator_rows(explained), *(
        (name, "", show(seconds, "s"), _percent(seconds / total), "", "", "", "")
        for name, seconds in (("launches", explained.launches_s), ("host", explained.host_s)) if seconds
    )]  # fmt: skip
    header = ("", "runs", "time", "share", "FLOP/B", "of the roofline", "bound by", "price")
    return Table(title, header, tuple(rows), prose=frozenset({"bound by", "price"}))


def _operator_rows(explained: Explained) -> Iterator[tuple[str, ...]]:
    for op in sorted(explained.operators, key=lambda op: -op.seconds):
        intensity = UNDEFINED if op.intensity is None or not op.flops else f"{op.intensity:,.3g}"
        price = "measured" if op.calibrated else f"estimated, {op.algorithm}" if op.algorithm else "estimated"
        yield (
            op.name, f"{op.runs:,}", show(op.seconds, "s"), _percent(op.seconds / explained.duration_s),
            intensity, _percent(op.reached) if op.reached else UNDEFINED, op.bound if op.seconds else "hidden",
            f"{price}, extrapolated" if op.extrapolated else price,
        )  # fmt: skip


def _dict(explained: Explained) -> dict[str, Any]:
    return {
        **asdict(explained.iteration), "stage": explained.stage, "duration_s": explained.duration_s,
        "kernels_s": explained.kernels_s, "launches_s": explained.launches_s, "host_s": explained.host_s,
        "by_bound_s": explained.by_bound, "binds": explained.binds,
        "calibrated_share": explained.calibrated_share, "extrapolated_share": explained.extrapolated_share,
        "operators": [asdict(op) | {"intensity": op.intensity} for op in explained.operators],
    }  # fmt: skip
