"""Scheduler presets: one scheduler, many engines. A preset is knobs, not a class.

Sources of the rules: vLLM v1 (decodes first, chunked prefill in mixed batches, recompute on KV shortage), vLLM v0
(whole prompts first, alone in their iteration), SGLang (chunks first, alone in their iteration, retraction on KV
shortage), TensorRT-LLM's in-flight batching with the capacity policy GUARANTEED_NO_EVICT, Sarathi-Serve (OSDI'24:
stall-free batches under a small token budget), Orca (OSDI'22: iteration-level scheduling of uncut prompts,
reserving each request's whole length).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from apexsim.errors import UsageError, unknown_name
from apexsim.spec.plan import Role, Scheduler

SeqsOf = Literal["replica", "batch", "share"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules and limits in force for one pool.

    Attributes:
        mix: decodes and prompts share an iteration; else prompts run alone and decodes wait for them.
        chunked: a prompt may be cut at the token budget.
        free_decodes: decoding sequences do not count against the token budget.
        reserve: admit only where the whole length fits; then nothing is ever preempted.
        ahead: asynchronous scheduling: an iteration is composed when the one before it begins, so a request that
            arrives during an iteration misses the next one too. Replicas of one pipeline stage only.
        prefix_caching: blocks of prompts stay when a request ends, and equal prefixes share them.
        acceptance: speculative decoding: probability of each draft of a step, in order, that it is accepted where all
            before it were; empty without drafts. Replicas of one pipeline stage only.
        seqs_of: what ``max_num_seqs`` limits in a pipeline: all batches in flight together (``replica``), each of them
            (``batch``), or all together with an equal share for each (``share``).
        follow: in a pipeline the next chunk of a prompt goes into the next batch, behind the chunk before; else a
            prompt waits until its chunk has come out of the last stage.
        order: who of those that wait is the next: a key of ``order.ORDERS``.
        input_weight, output_weight: of a token in the counters of fair scheduling.
        deadline_s: by when, from the client's arrival, a first token is wanted where the trace does not say it.
        max_waiting: requests that may wait at a replica; where so many do, an arrival is rejected. 0 = any number.
        max_wait_s: who has waited longer when its turn comes is rejected.
        long_prefill_token_threshold: tokens of a prompt in one iteration at most; 0 = no limit.
        balance: ranks in lockstep compute prompts only where every one of them has one (``balance.py``);
        timeout_iters, batching_wait_iters: its limits.
        seat_first: where KV comes from elsewhere, a request has its seat from when its blocks are reserved on.
        role: ``prefill``: a request ends with its first token; ``decode``: it comes with the KV of its prompt.
        shed_late: so is who could not have its first token by its deadline any more.

    ``reserve`` admits by the request's whole length. Traces have no declared limit on the output, so there the
    output length stands for the declared one: a policy with ``reserve`` is clairvoyant by as much.
    """

    preset: str
    max_num_batched_tokens: int
    max_num_seqs: int
    mix: bool = True
    chunked: bool = True
    free_decodes: bool = False
    reserve: bool = False
    ahead: bool = False
    prefix_caching: bool = False
    seqs_of: SeqsOf = "replica"
    follow: bool = True
    order: str = "fcfs"
    input_weight: int = 1
    output_weight: int = 2
    deadline_s: float = math.inf
    max_waiting: int = 0
    max_wait_s: float = math.inf
    shed_late: bool = False
    long_prefill_token_threshold: int = 0
    balance: bool = False
    timeout_iters: int = 50
    batching_wait_iters: int = 10
    seat_first: bool = False
    role: Role = "serve"
    about: str = ""
    acceptance: tuple[float, ...] = ()

    @property
    def tokens_of_a_step(self) -> int:
        """Most tokens that a decoding sequence may yield in an iteration: drafts that are never accepted end it."""
        never = (j for j, likely in enumerate(self.acceptance) if likely == 0)
        return 1 + next(never, len(self.acceptance))

    def __post_init__(self) -> None:
        if self.long_prefill_token_threshold > 0 and not self.chunked:
            raise UsageError(
                f"scheduler: long_prefill_token_threshold {self.long_prefill_token_threshold}: "
                f"preset {self.preset} does not cut prompts"
            )
        each = len(self.acceptance) + 1
        counted = self.mix and not self.free_decodes
        if each > 1 and counted and self.max_num_batched_tokens < self.max_num_seqs * each:
            raise UsageError(
                f"scheduler: max_num_batched_tokens {self.max_num_batched_tokens} is below max_num_seqs "
                f"{self.max_num_seqs} · {each} (each running sequence computes its token and {each - 1} drafts)"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise UsageError(
                f"scheduler: max_num_batched_tokens {self.max_num_batched_tokens} is below max_num_seqs "
                f"{self.max_num_seqs} (each running sequence takes a token of the budget)"
            )

    def seqs(self, stages: int) -> tuple[int, int]:
        """Requests that run at once in a replica of so many pipeline stages, and in one of its batches in flight."""
        if self.seqs_of == "batch":
            return self.max_num_seqs * stages, self.max_num_seqs
        share = max(self.max_num_seqs // stages, 1) if self.seqs_of == "share" else self.max_num_seqs
        return self.max_num_seqs, share


PRESETS: dict[str, Policy] = {
    preset.preset: preset
    for preset in (
        Policy("vllm", 8192, 256, about="vLLM v1: decodes first, chunked prefill in mixed batches, recompute"),
        Policy("vllm-v0", 8192, 256, mix=False, chunked=False, seqs_of="batch",
               about="vLLM before v1: whole prompts first, decodes wait"),
        Policy("vllm-2023", 16384, 256, mix=False, chunked=False, seqs_of="batch",
               about="vLLM 0.2 as papers of 2023 and 2024 compared with: whole prompts first, 16,384 tokens"),
        Policy("sglang", 8192, 256, mix=False, seqs_of="share", about="SGLang: chunks first, decodes wait"),
        Policy("tensorrt-llm", 8192, 2048, reserve=True, seqs_of="batch", seat_first=True,
               about="in-flight batching, GUARANTEED_NO_EVICT: whole length reserved"),
        Policy("tensorrt-llm-max-utilization", 8192, 2048, seqs_of="batch", seat_first=True,
               about="in-flight batching, MAX_UTILIZATION: admits while blocks are free, recomputes"),
        Policy("sarathi", 512, 128, follow=False,
               about="Sarathi-Serve: stall-free mixed batches under a small token budget"),
        Policy("orca", 8192, 128, chunked=False, free_decodes=True, reserve=True, seqs_of="batch",
               about="Orca: uncut prompts join the decodes, whole length reserved"),
    )
}  # fmt: skip


def resolve(scheduler: Scheduler) -> Policy:
    """The preset with the plan's own limits put over it.

    Raises:
        UsageError: unknown preset, or a token budget below the number of sequences.
    """
    if scheduler.preset not in PRESETS:
        raise UsageError(unknown_name("scheduler preset", scheduler.preset, PRESETS))
    preset = PRESETS[scheduler.preset]
    return replace(
        preset,
        max_num_batched_tokens=scheduler.max_num_batched_tokens or preset.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs or preset.max_num_seqs,
        prefix_caching=scheduler.prefix_caching,
        order=scheduler.policy,
        input_weight=scheduler.input_weight,
        output_weight=scheduler.output_weight,
        deadline_s=math.inf if scheduler.deadline is None else scheduler.deadline,
        max_waiting=scheduler.max_waiting or 0,
        max_wait_s=math.inf if scheduler.max_wait is None else scheduler.max_wait,
        shed_late=scheduler.shed_late,
        long_prefill_token_threshold=scheduler.long_prefill_token_threshold,
        balance=scheduler.attention_dp_config.enable_balance,
        timeout_iters=scheduler.attention_dp_config.timeout_iters,
        batching_wait_iters=scheduler.attention_dp_config.batching_wait_iters,
    )


def preset_names() -> tuple[str, ...]:
    """All presets, sorted."""
    return tuple(sorted(PRESETS))
