"""Small worlds for property tests of the engine: step tables, limits, policies and loads, drawn by Hypothesis."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from apexsim.cost.tables import StepTables
from apexsim.engine import simulate as simulate_module
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.engine.state import State
from apexsim.workload.trace import Trace

Result = TypeVar("Result")

EXAMPLES = int(os.environ.get("APEXSIM_EXAMPLES", "300"))
"""Worlds drawn a test; a nightly run sets more."""

drawn = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)  # fmt: skip


def with_states(call: Callable[[], Result]) -> tuple[Result, list[State]]:
    """What ``call`` returns, and the final states of the runs that it makes."""
    states: list[State] = []
    real = simulate_module.run_pool

    def spy(*args: object, **kwargs: object) -> State:
        states.append(real(*args, **kwargs))  # type: ignore[arg-type]
        return states[-1]

    with mock.patch.object(simulate_module, "run_pool", spy):
        return call(), states


def states_of(call: Callable[[], object]) -> list[State]:
    """The final states of the runs that ``call`` makes."""
    return with_states(call)[1]


@dataclass(frozen=True)
class World:
    trace: Trace
    tables: StepTables
    limits: ReplicaLimits
    policy: Policy
    replicas: int
    router: str
    concurrency: int | None


def rising(random: np.random.Generator, *shape: int, start: float, step: float) -> np.ndarray:
    """Random tables that rise along the last axis."""
    return start + np.cumsum(random.random(shape) * step, axis=-1)


def make_tables(
    random: np.random.Generator, *, stages: int, seqs: int, max_tokens: int, window: int, host: bool
) -> StepTables:
    """A random law of which every term is at work. Tables over tokens: dense to 8, then a knot every 4."""
    dense, stride = 8, 4
    knots = dense + 1 + max(1, -(-(max_tokens - dense) // stride) + 1)
    context = np.concatenate([[0.0], np.cumsum(1.0 + random.random(5) * 8)])
    decode_attention = rising(random, stages, 2, seqs + 1, len(context), start=0.0, step=3e-3)
    decode_attention[:, :, 0] = 0.0
    if not window:
        decode_attention[:, 1] = 0.0
    return StepTables(
        token_dense=dense, token_stride=stride,
        mixed_s=rising(random, stages, knots, start=5e-3, step=2e-3),
        decode_s=rising(random, stages, seqs + 1, start=4e-3, step=2e-3),
        context_knots=context, decode_attention_s=decode_attention,
        prefill_s=rising(random, stages, 2, knots, start=0.0, step=1e-3),
        prefill_past_s=rising(random, stages, 2, knots, start=0.0, step=1e-4),
        head_s=rising(random, seqs + 1, start=1e-4, step=1e-4),
        host_floor_s=rising(random, seqs + 1, start=1e-2, step=2e-3) if host else np.zeros(seqs + 1),
        host_serial_s=rising(random, seqs + 1, start=1e-4, step=1e-4),
        transfer_s=rising(random, *([stages - 1] if stages > 2 else []), knots, start=1e-4, step=1e-4), window=window,
    )  # fmt: skip


def shared_by(random: np.random.Generator, prompts: np.ndarray, block: int, choices: int) -> dict[str, object]:
    """Hashes of prompts that begin alike: a walk down a tree, which branches ``choices`` ways at each block.

    Ids are numbers with holes. Prompts have an id for each full block, or for each begun one, as traces do.
    """
    begun = bool(random.integers(2))
    names: dict[tuple[object, ...], int] = {}
    hashes, offsets = [], [0]
    for prompt in prompts:
        path: tuple[object, ...] = ()
        for _ in range(prompt // block):
            path = (*path, int(random.integers(choices)))
            hashes.append(names.setdefault(path, 7 * len(names)))
        if begun and prompt % block:
            hashes.append(names.setdefault((*path, f"{prompt % block} tokens"), 7 * len(names)))
        offsets.append(len(hashes))
    return {
        "hash_ids": np.array(hashes, np.int64), "hash_offsets": np.array(offsets, np.int64),
        "hash_block_tokens": block,
    }  # fmt: skip


def orders(draw: st.DrawFn) -> dict[str, object]:
    """An order of the waiting list, and limits beyond which requests are turned away."""
    return {
        "order": draw(st.sampled_from(["fcfs", "priority", "shortest-first", "fair", "fair", "deadline"])),
        "input_weight": draw(st.integers(1, 3)), "output_weight": draw(st.integers(1, 3)),
        "deadline_s": draw(st.sampled_from([0.05, 0.4])), "shed_late": draw(st.booleans()),
        "max_waiting": draw(st.sampled_from([0, 0, 1, 4])),
        "max_wait_s": draw(st.sampled_from([np.inf, np.inf, 0.02, 0.2])),
    }  # fmt: skip


def phases(draw: st.DrawFn, policy: Policy) -> dict[str, object]:
    """A limit on chunks where prompts are cut, and a role; a decode-only replica has no prefix cache."""
    changes: dict[str, object] = {"role": draw(st.sampled_from(["serve", "prefill", "decode", "decode"]))}
    if changes["role"] == "decode":
        changes["prefix_caching"] = False
    if policy.chunked:
        changes["long_prefill_token_threshold"] = draw(st.sampled_from([0, 1, 3, 7]))
    return changes


def demands(random: np.random.Generator, n: int) -> dict[str, object]:
    """Classes, clients and deadlines of n requests; some have no deadline of their own."""
    deadline_s = np.where(random.random(n) < 0.3, np.inf, 0.01 + random.random(n))
    return {
        "priority": random.integers(-1, 3, n), "client_code": random.integers(0, 4, n),
        "clients": ("a", "b", "c", "d"), "deadline_s": deadline_s,
    }  # fmt: skip


def declared_by(random: np.random.Generator, prompts: np.ndarray) -> dict[str, object]:
    """Declared tokens of about half of the prompts."""
    shared = np.where(random.random(len(prompts)) < 0.5, random.integers(0, prompts + 1), 0)
    return {"shared_prefix_tokens": shared}


@st.composite
def worlds(
    draw: st.DrawFn, *, routers: tuple[str, ...] = ("round-robin",), closed: bool = True, sharing: bool = False,
    pipelines: bool = False, alone: bool = False, drafting: bool = False, ordered: bool = False,
    phased: bool = False,
) -> World:
    """Worlds small enough for the oracle and tight enough for preemption, rejection and every scheduler rule.

    With ``pipelines`` all have several stages. With ``sharing`` every one of them has a prefix cache and a trace that
    says what prompts share. With ``drafting`` every one speculates. With ``ordered`` waiting lists are in any order, or
    turn requests away. With ``phased`` replicas may serve one phase only, and chunks may be limited.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seqs = draw(st.integers(1, 6))
    likely = st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0])
    acceptance = tuple(draw(st.lists(likely, min_size=1, max_size=4))) if drafting else ()
    each = 1 + len(acceptance)
    budget = draw(st.integers(seqs * each, 24 + 6 * len(acceptance)))
    stages = 1 if alone or drafting else draw(st.sampled_from([2, 3, 4] if pipelines else [1, 1, 1, 2, 3]))
    window = draw(st.sampled_from([0, 0, 3, 9]))
    mix = draw(st.booleans())
    reserve = draw(st.sampled_from([False, False, True]))
    caching = sharing or draw(st.booleans())
    policy = Policy(
        "drawn", budget, seqs, mix=mix, chunked=draw(st.booleans()), free_decodes=draw(st.booleans()),
        reserve=reserve, ahead=draw(st.booleans()), prefix_caching=caching, acceptance=acceptance,
        seqs_of=draw(st.sampled_from(["replica", "batch", "share"])), follow=draw(st.booleans()),
    )  # fmt: skip
    if ordered:
        policy = replace(policy, **orders(draw))
    if phased:
        policy = replace(policy, **phases(draw, policy))
    n = draw(st.integers(1, 24))
    prompts = random.integers(1, draw(st.sampled_from([3, 12, 30])), n)
    outputs = random.integers(1, draw(st.sampled_from([2, 8, 40])), n)
    spacing = draw(st.sampled_from([1e-3, 2e-2, 2e-1]))
    arrival_s = np.cumsum(random.exponential(spacing, n))
    block_size = draw(st.integers(1, 8))
    trace = Trace("drawn", arrival_s, prompts, outputs, session=random.integers(-1, 4, n))
    if ordered:
        trace = trace.with_columns(**demands(random, n))
    says = draw(st.sampled_from(["hashes", "hashes", "declared", "both"] + ["nothing"] * (not sharing)))
    if says in ("hashes", "both"):
        columns = shared_by(random, prompts, draw(st.sampled_from([1, 2, 3, 4, 6, 8])), draw(st.integers(1, 3)))
        trace = trace.with_columns(**columns)
    if says in ("declared", "both"):
        trace = trace.with_columns(**declared_by(random, prompts))
    longest = -(-int((prompts + outputs).max()) // block_size)
    replicas = draw(st.integers(1, 3))
    return World(
        trace=trace,
        tables=make_tables(
            random, stages=stages, seqs=seqs, max_tokens=budget + seqs + 80, window=window, host=draw(st.booleans())
        )._replace(cp=draw(st.sampled_from([1, 1, 1, 2, 3]))),
        limits=ReplicaLimits(
            kv_blocks=draw(st.integers(max(1, longest - 2), 2 * longest + 4)), block_size=block_size,
            max_model_len=draw(st.sampled_from([40, 1000])), entry_s=1e-3, exit_s=2e-3,
        ),
        policy=policy, replicas=replicas, router=draw(st.sampled_from(routers)),
        concurrency=draw(st.none() | st.integers(1, 8)) if closed else None,
    )  # fmt: skip
